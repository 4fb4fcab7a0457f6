"""From a trained forward model to the graph a product runs: plain, normalisation folded, dead units cut out."""

from dataclasses import dataclass

import onnx
from onnx import ModelProto, helper

from device_runtime.wire.errors import UsageError
from export.deploy.dead_units import Cut, cut_dead_units
from export.deploy.net import Net, read_net, write_net
from export.deploy.simplify import simplify
from export.forward.form import BATCH, IR_VERSION_MAX, OUTPUT
from export.forward.model import ForwardModel


@dataclass(frozen=True, slots=True)
class InferenceGraph:
    """The net and what was cut from it."""

    net: Net
    cuts: tuple[Cut, ...]


def inference_graph(model: ForwardModel, *, cut: bool = True) -> InferenceGraph:
    """The inference graph of a forward model.

    Computes the same up to the rounding of sums. cut: take out dead units too.

    Raises UsageError for an operator that is not of the standard.
    """
    net = read_net(model)
    net.ir_version = min(net.ir_version, IR_VERSION_MAX)
    simplify(net)
    cuts = cut_dead_units(net) if cut else ()
    _share_equal_constants(net)
    return InferenceGraph(net, cuts)


def _share_equal_constants(net: Net) -> None:
    """Shapes and clip bounds that occur several times are kept once."""
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for name, value in list(net.constants.items()):
        if value.size > 16:
            continue
        known = first.setdefault((str(value.dtype), value.shape, value.tobytes()), name)
        if known != name:
            net.rewire(name, known)
            del net.constants[name]


def to_onnx(net: Net, metadata: dict[str, str] | None = None) -> ModelProto:
    """The net as a checked ONNX model with the shape of its output written out.

    Raises UsageError where the rewritten graph is not valid, which would be our fault, or hides its output's shape.
    """
    model = write_net(net, metadata)
    shape = net.shapes().get(OUTPUT)
    if shape is None:
        raise UsageError(f"the output of {net.name!r} has no fixed shape: export the model with fixed sizes")
    info = helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [BATCH, *shape[1:]])
    model.graph.output[0].CopyFrom(info)
    onnx.checker.check_model(model, full_check=True)
    return model
