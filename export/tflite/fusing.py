"""Activations that TFLite computes as part of the layer before them."""

from export.deploy.net import Layer, Net
from export.tflite.pointwise import clip_bounds

# Layers whose last operator takes an activation.
_TAKES = frozenset({"Conv", "Gemm", "Add", "Sub", "Mul", "Div", "MaxPool", "AveragePool"})
_BOUNDS = {(0.0, 6.0): "RELU6", (0.0, float("inf")): "RELU", (-1.0, 1.0): "RELU_N1_TO_1"}


def fuse_activations(net: Net) -> None:
    """Give layers that are read by a Relu or fitting Clip alone the attribute `activation`, in place."""
    producers, consumers = net.producers(), net.consumers()
    for layer in list(net.layers):
        kind = _activation(net, layer)
        before = producers.get(layer.inputs[0]) if layer.inputs else None
        if kind is None or before is None or before.op not in _TAKES or "activation" in before.attributes:
            continue
        if len(consumers[before.output]) == 1:
            before.set("activation", kind)
            before.outputs = list(layer.outputs)
            producers[layer.output] = before
            net.layers = [other for other in net.layers if other is not layer]


def _activation(net: Net, layer: Layer) -> str | None:
    if layer.op == "Relu":
        return "RELU"
    if layer.op == "Clip":
        bounds = clip_bounds(net.constants, layer)
        return None if bounds is None else _BOUNDS.get(bounds)
    return None
