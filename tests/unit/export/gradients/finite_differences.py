"""Checks one operator's rule twice: in float64 against central differences, and in float32 by onnxruntime itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.gradients.decomposition import decomposed
from export.gradients.folding import fold
from export.gradients.reverse import gradients
from export.gradients.tape import Tape
from tests.unit.export.gradients.double_kernels import KERNELS

# Central differences of this step leave an error of about the square of it, relative.
STEP = 1e-6


def reference(model: ModelProto) -> ReferenceEvaluator:
    """onnx's evaluator, in double precision throughout."""
    return ReferenceEvaluator(model, new_ops=KERNELS)


def forward_model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    version: int,
    batched: Sequence[str] | None = None,
) -> ModelProto:
    """A model from `inputs` to `y`; those in `batched`, else the first, have a symbolic batch."""
    infos = []
    for name, array in inputs.items():
        shape: list[int | str] = list(array.shape)
        if name in (batched if batched is not None else [next(iter(inputs))]) and shape:
            shape[0] = "batch"
        infos.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    kind = next(iter(inputs.values())).dtype
    output = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(kind), None)
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "forward", infos, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=10)


def with_gradients(model: ModelProto, wanted: Sequence[str]) -> ModelProto:
    """The model with an input `seed` (the gradient of `y`) and an output `d<name>` for each wanted input, checked."""
    folded, shapes = fold(decomposed(model))
    graph_model = ir.from_proto(onnx.shape_inference.infer_shapes(folded))
    graph = graph_model.graph
    (y,) = graph.outputs
    tape = Tape(graph, shapes)
    y.shape = ir.Shape(list(shapes["y"]))
    seed = ir.val("seed", dtype=y.dtype, shape=list(shapes["y"]))
    forward = list(graph)
    graph.inputs.append(seed)
    sources = {v.name: v for v in graph.inputs if v.name in wanted}
    found = gradients(tape, forward, {y: seed}, sources.values())
    for name in wanted:
        gradient = found[sources[name]]
        assert gradient is not None, f"{name} got no gradient"
        out = tape.op("Identity", gradient)
        out.name, out.type, out.shape = f"d{name}", sources[name].type, sources[name].shape
        graph.outputs.append(out)
    proto = ir.to_proto(graph_model)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    return proto


def check(
    nodes: Sequence[NodeProto] | NodeProto,
    inputs: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    wanted: Sequence[str] | None = None,
    version: int = 17,
    seed: int = 0,
    tolerance: float = 1e-5,
    batched: Sequence[str] | None = None,
) -> None:
    """Assert that the gradients of `wanted` (all float inputs) are right, for an operator that makes `y`."""
    nodes = [nodes] if isinstance(nodes, NodeProto) else list(nodes)
    constants = constants or {}
    wanted = list(wanted or [n for n, a in inputs.items() if a.dtype.kind == "f"])
    double = {n: _as(a, np.float64) for n, a in inputs.items()}
    fixed = {n: _as(a, np.float64) for n, a in constants.items()}
    forward = forward_model(nodes, double, fixed, version, batched)
    run = reference(forward)
    (y,) = run.run(None, dict(double))
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=np.shape(y))
    backward = with_gradients(forward, wanted)
    feed = dict(double) | {"seed": weights}
    found = dict(zip([f"d{n}" for n in wanted], reference(backward).run(None, feed)[1:], strict=True))
    for name in wanted:
        assert found[f"d{name}"].shape == double[name].shape
        for _ in range(2):
            direction = rng.normal(size=double[name].shape)
            ahead, behind = (
                run.run(None, double | {name: double[name] + sign * STEP * direction})[0] for sign in (1.0, -1.0)
            )
            expected = float((weights * ((ahead - behind) / (2 * STEP))).sum())
            got = float((found[f"d{name}"] * direction).sum())
            scale = float(np.abs(found[f"d{name}"] * direction).sum()) + float(np.abs(weights).sum()) * 1e-3
            assert abs(got - expected) <= tolerance * max(scale, 1e-3), (name, got, expected)
    single = {n: _as(a, np.float32) for n, a in inputs.items()}
    fixed = {n: _as(a, np.float32) for n, a in constants.items()}
    backward = with_gradients(forward_model(nodes, single, fixed, version, batched), wanted)
    feed = single | {"seed": weights.astype(np.float32)}
    for name, by_runtime in zip(wanted, _session(backward).run([f"d{n}" for n in wanted], feed), strict=True):
        scale = max(float(np.abs(found[f"d{name}"]).max()), 1e-3)
        np.testing.assert_allclose(by_runtime, found[f"d{name}"], atol=2e-4 * scale, err_msg=name)


def _as(array: np.ndarray, kind: type) -> np.ndarray:
    return array.astype(kind) if array.dtype.kind == "f" else array


def runtime_gradients(
    node: NodeProto, inputs: Mapping[str, np.ndarray], version: int = 17
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The random weights of `y` and the gradients of all inputs of one operator, in float32 by onnxruntime."""
    single = {n: np.asarray(a, dtype=np.float32) for n, a in inputs.items()}
    forward = forward_model([node], single, {}, version)
    (y,) = _session(forward).run(None, single)
    weights = np.random.default_rng(0).normal(size=y.shape).astype(np.float32)
    backward = _session(with_gradients(forward, list(inputs)))
    names = [f"d{n}" for n in inputs]
    return weights, dict(zip(inputs, backward.run(names, single | {"seed": weights}), strict=True))


def _session(model: ModelProto) -> Any:
    ort: Any = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
