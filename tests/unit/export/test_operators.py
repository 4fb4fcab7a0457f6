"""The operators that devices accept are at least those that the writers of artifacts can write."""

import ast
import dataclasses
import re
from pathlib import Path

import onnx
import onnx.defs
import pytest

import export.gradients.reverse  # noqa: F401  # registers the gradient rules
from device_runtime.engines.operators import STANDARD
from device_runtime.engines.ort_training.operators import OFFICIAL
from device_runtime.engines.registry import engine_kind
from device_runtime.engines.sparse.operators import COMPILED
from device_runtime.guard.onnx_graph import read_graph
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.forward.model import ForwardModel
from export.gradients.registry import known_operators
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer

ROOT = Path(__file__).parents[3]
# Where train steps are written: every operator that these name, they may write.
WRITERS = ("gradients", "steps", "forward", "sparse", "train_step.py", "score_graph.py")
# Named there to say that they are refused.
REFUSED = {"Bernoulli", "GRU", "LSTM", "Multinomial", "NonZero", "RandomNormal", "RandomUniform"}
RUN_FOR_EVER = {"If", "Loop", "Scan", "SequenceMap"}
OPTIMIZERS = {"sgd": {}, "adamw": {"weight_decay": 0.1}, "momentum": {"momentum": 0.9, "nesterov": True}}
PENALTIES = {"proximal_mu": 0.1, "clip_norm": 1.0}


def _named_by(writers: tuple[str, ...]) -> set[str]:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    places = [ROOT / "export" / writer for writer in writers]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)} & known


def test_all_that_the_writers_name_is_accepted() -> None:
    assert _named_by(WRITERS) - REFUSED <= STANDARD
    assert {name for domain, name in known_operators() if domain == ""} <= STANDARD


def test_the_compiled_operators_are_those_of_the_library() -> None:
    sources = (ROOT / "device_runtime" / "kernels" / "source").glob("*.cpp")
    defined = {name for path in sources for name in re.findall(r'define<[\w<>]+>\(\s*"(\w+)"', path.read_text())}
    assert defined == COMPILED


def test_nothing_is_accepted_that_may_run_for_ever() -> None:
    for names in (STANDARD, OFFICIAL, COMPILED):
        assert not names & RUN_FOR_EVER
        assert not [name for name in names if name.startswith(("Sequence", "Optional", "String"))]


def as_onnx_reads_it(model: onnx.ModelProto) -> tuple[set[tuple[str, str]], dict[str, tuple[int | None, ...]]]:
    """Operators, and shapes of initialisers and inputs, by onnx's own reader."""
    sizes: dict[str, tuple[int | None, ...]] = {}
    for info in [*model.graph.initializer, *model.graph.input]:
        if isinstance(info, onnx.TensorProto):
            sizes[info.name] = tuple(info.dims)
        else:
            kind = info.type.sequence_type.elem_type if info.type.HasField("sequence_type") else info.type
            dims = kind.tensor_type.shape.dim
            sizes[info.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    return {("" if n.domain == "ai.onnx" else n.domain, n.op_type) for n in model.graph.node}, sizes


def _artifact(engine: str, model: ForwardModel, folder: Path, **changed: object) -> dict[str, bytes]:
    name = str(changed.get("optimizer", "sgd"))
    rule = "adamw" if name == "adamw" else "sgd"
    (shape,), ((classes,),) = model.inputs.values(), model.outputs.values()
    spec = ArtifactSpec(
        name=model.graph.name, input=InputSpec(shape=shape), class_count=classes,
        loss=changed.get("loss", "cross_entropy"), scores=rule == "sgd",
        optimizer=choose_optimizer(rule, **OPTIMIZERS[name], **changed.get("penalties", {})),
    )  # fmt: skip
    writer_of(engine)(model, spec, folder)
    return {path.name: path.read_bytes() for path in folder.glob("*.onnx")}


@pytest.mark.parametrize("engine", ["portable", "sparse", "ort_training"])
@pytest.mark.parametrize("model", ["mlp", "lenet5", "mnistnet", "cifar10net", "cnn", "resnet8", "resnet20", "cnn1d"])
def test_artifacts_of_every_model_of_the_zoo_are_accepted(engine, model, input_shapes, tmp_path) -> None:
    """That they are is checked by the writers; here the guard's reader is held against onnx's."""
    if engine == "ort_training" and not engine_kind(engine).is_installed():
        pytest.skip("onnxruntime-training is not installed")
    for file, data in _artifact(engine, build_model(model, input_shapes[model], 10, 0), tmp_path / "artifact").items():
        read = read_graph(data)
        assert (read.operators, dict(read.declared)) == as_onnx_reads_it(onnx.load_from_string(data)), file


@pytest.mark.parametrize("engine", ["portable", "sparse", "ort_training"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce_with_logits", "l1"])
def test_every_optimizer_and_loss_is_accepted(engine, optimizer, loss, tmp_path) -> None:
    if engine == "ort_training" and not engine_kind(engine).is_installed():
        pytest.skip("onnxruntime-training is not installed")
    penalties = {} if engine == "ort_training" else PENALTIES
    model = build_model("resnet8", (1, 8, 8), 3, 0)
    assert _artifact(engine, model, tmp_path / "artifact", optimizer=optimizer, loss=loss, penalties=penalties)


def test_a_model_that_devices_would_refuse_is_not_written(tmp_path, monkeypatch) -> None:
    narrow = dataclasses.replace(engine_kind("portable"), operators={"": STANDARD - {"Relu"}})
    monkeypatch.setattr("export.artifacts.folder.engine_kind", lambda _: narrow)
    with pytest.raises(UsageError, match=r"no device would train model 'mlp' with engine portable: .*operator 'Relu'"):
        _artifact("portable", build_model("mlp", (4,), 2, 0), tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()
