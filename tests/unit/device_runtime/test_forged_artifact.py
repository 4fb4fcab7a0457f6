"""An artifact that is not as an honest writer makes it: the device says why it refuses, and no runtime has seen it.

The forgeries are harmless: what they would reach for is a file of the test, what would run for ever does nothing.
"""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from device_runtime.data import LocalData
from device_runtime.engines import available_engines
from device_runtime.personal_file import PersonalFiles
from device_runtime.store import BlobStore
from device_runtime.training import Traffic
from device_runtime.wire.manifest import MANIFEST_FILE, ArtifactFile, InputSpec, Manifest, State, decode_manifest
from device_runtime.wire.measurement import NO_PHASE
from device_runtime.wire.submodel import encode_kept, encode_supports
from device_runtime.wire.support import Kept, Support, sha256_hex
from device_runtime.wire.tensors import encode_files
from device_runtime.workshop import Finished, Workshop
from export.artifacts.spec import ArtifactSpec
from export.artifacts.writers import writer_of
from export.models.zoo import build_model
from export.steps.optimizers import choose_optimizer
from tests import fakes

pytestmark = pytest.mark.skipif("portable" not in available_engines(), reason="needs onnxruntime")
MODEL = build_model("mlp", (6,), 3, seed=5, hidden=(4,))
Files = dict[str, bytes]
STEP = "train_step.onnx"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of an artifact as its writer makes it."""
    folder = tmp_path_factory.mktemp("artifacts") / "portable"
    spec = ArtifactSpec(
        name="mlp", input=InputSpec(shape=(6,)), class_count=3, loss="cross_entropy", optimizer=choose_optimizer("sgd")
    )
    writer_of("portable")(MODEL, spec, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Bench:
    """A device's workshop, which is given artifacts."""

    def __init__(self, folder: Path) -> None:
        self.artifacts = folder / "artifacts"
        self._blobs, personal = BlobStore(folder / "blobs"), PersonalFiles(folder, ())
        x, y = np.linspace(0, 1, 48, dtype=np.float32).reshape(8, 6), np.arange(8) % 3
        self._workshop = Workshop(folder, self._blobs, LocalData(x, y, "the test"), personal, threads=1)
        supports = {name: Support.everything(values.shape) for name, values in MODEL.initial.items()}
        params = {name: Kept.of(values, supports[name]) for name, values in MODEL.initial.items()}
        self._params = self._blobs.put(encode_kept(params, lambda _: "fp32", lambda _: None))
        self._supports = self._blobs.put(encode_supports(supports))

    def give(self, files: Files) -> Finished:
        """What becomes of an assignment whose artifact has these files."""
        assignment = msgspec.structs.replace(
            fakes.assignment(),
            graph_sha=self._blobs.put(encode_files(files)),
            params_sha=self._params,
            support_shas=(self._supports,),
        )
        return self._workshop.carry_out(assignment, Traffic(0, 0, NO_PHASE, NO_PHASE))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def forged(files: Files, change: Callable[[ModelProto], object]) -> Files:
    """The files with another train step, for which the manifest vouches as for the honest one."""
    model = onnx.load_from_string(files[STEP])
    change(model)
    return vouched({**files, STEP: model.SerializeToString()})


def vouched(files: Files, **changes: object) -> Files:
    """The files, with a manifest that names them and is changed besides."""
    listed = tuple(
        ArtifactFile(name=name, sha=sha256_hex(data), size_bytes=len(data))
        for name, data in files.items()
        if name != MANIFEST_FILE
    )
    manifest = msgspec.json.decode(files[MANIFEST_FILE], type=Manifest)
    changed = msgspec.structs.replace(manifest, files=listed, **changes)
    return {**files, MANIFEST_FILE: msgspec.json.encode(changed)}


def test_an_honest_artifact_is_trained(bench: Bench, honest: Files) -> None:
    finished = bench.give(honest)
    assert finished.reason == ""
    assert finished.result is not None


def outside(model: ModelProto, place: Path) -> None:
    """Let the first weight be read from a file elsewhere."""
    tensor = model.graph.initializer.add(name="stolen", data_type=onnx.TensorProto.UINT8, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(place))


def loop(model: ModelProto) -> None:
    """Append a loop of no turns."""
    body = helper.make_graph([], "nothing", [], [])
    model.graph.node.append(helper.make_node("Loop", ["no_turns"], [], body=body))


def node(model: ModelProto, operator: str, domain: str) -> None:
    """Append a node that nobody reads."""
    model.graph.node.append(helper.make_node(operator, [], ["unread"], domain=domain))


GRAPHS: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "data outside": (lambda m: outside(m, Path("secret")), "refers to data outside its file"),
    "a loop": (loop, "holds a graph within a node"),
    "an operator of another engine": (lambda m: node(m, "ConvGrad", "com.microsoft"), "'ConvGrad' of domain 'com.micr"),
    "an operator that no step has": (lambda m: node(m, "RandomNormal", ""), "'RandomNormal' of the standard domain"),
    "a parameter of another shape": (
        lambda m: m.graph.input.append(helper.make_tensor_value_info("fc1.weight", 1, [1 << 20])), "not the manifest's",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), GRAPHS.values(), ids=GRAPHS.keys())
def test_a_forged_graph_is_refused_before_a_runtime_opens_it(bench, honest, change, says) -> None:
    finished = bench.give(forged(honest, change))
    assert finished.result is None
    assert f"the artifact's {STEP} is refused: it " in finished.reason
    assert says in finished.reason
    assert not bench.artifacts.exists()


FILES: dict[str, tuple[Callable[[Files], Files], str]] = {
    "no manifest": (lambda f: {n: d for n, d in f.items() if n != MANIFEST_FILE}, "manifest is malformed"),
    "a file that the manifest does not name": (lambda f: {**f, "more": b"x"}, "not those of its manifest: more"),
    "a file that is not there": (lambda f: {n: d for n, d in f.items() if n != STEP}, "of its manifest: train"),
    "another file than the manifest's": (lambda f: {**f, STEP: f[STEP] + b"x"}, f"{STEP} is not the file"),
    "bytes that are no graph": (lambda f: vouched({**f, STEP: b"graph"}), f"{STEP} is refused"),
    "an engine that there is not": (lambda f: vouched(f, engine="warp"), "no engine 'warp'"),
    "a state larger than the model": (lambda f: vouched(f, states=(State(name="s", shape=(1 << 40,)),)), "impossible"),
    "a state of a negative size": (lambda f: vouched(f, states=(State(name="s", shape=(-1,)),)), "impossible shape"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), FILES.values(), ids=FILES.keys())
def test_forged_files_are_refused_before_a_runtime_opens_them(bench, honest, change, says) -> None:
    finished = bench.give(change(honest))
    assert finished.result is None
    assert says in finished.reason
    assert not bench.artifacts.exists()


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", ".hidden", "", "a\\b"])
def test_a_manifest_whose_files_are_paths_is_refused(bench, honest, name) -> None:
    text = honest[MANIFEST_FILE].replace(b'"eval.onnx"', msgspec.json.encode(name))
    finished = bench.give({**honest, MANIFEST_FILE: text})
    assert "manifest is malformed" in finished.reason
    assert finished.result is None


MISFITS: dict[str, Callable[[ModelProto], object]] = {
    "without outputs": lambda m: m.graph.ClearField("output"),
    "without inputs": lambda m: m.graph.ClearField("input"),
    "without a next value": lambda m: m.graph.output.pop(),
    "of nothing": lambda m: m.ClearField("graph") or m.graph.SetInParent(),
    "of another operator set": lambda m: setattr(m.opset_import[0], "version", 99),
}


@pytest.mark.parametrize("change", MISFITS.values(), ids=MISFITS.keys())
def test_a_graph_that_does_not_fit_its_engine_is_a_refusal_and_no_crash(bench, honest, change) -> None:
    finished = bench.give(forged(honest, change))
    assert finished.result is None
    assert finished.reason


def test_costs_beyond_every_machine_are_refused_and_great_ones_do_not_stop_the_update(bench, honest) -> None:
    manifest = decode_manifest(honest[MANIFEST_FILE])
    great, absurd = (
        tuple(msgspec.structs.replace(row, flops_forward=flops) for row in manifest.costs) for flops in (10**15, 10**18)
    )
    assert "malformed" in bench.give(vouched(honest, costs=absurd)).reason
    result = bench.give(vouched(honest, costs=great)).result
    assert result is not None
    assert (result.measurement.flops_dense.value or 0) < 2**63
