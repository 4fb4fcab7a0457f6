"""Rewrites that make a forward graph plain: constants folded, shapes fixed, every contraction in one form.

Afterwards a fully connected layer is `Gemm(x, weight [out, in], bias [out])` with transB = 1, a convolution has a bias
and explicit pads, and batch normalisation behind a contraction is part of its weights.
"""

import math

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from export.deploy.net import Array, Layer, Net, Shape
from export.forward.form import INPUT, OPSET, OUTPUT

# Dropout does nothing in evaluation; the batch axis makes a Cast of float32 to float32 the only one worth dropping.
_HANDS_ON = frozenset({"Identity", "Dropout"})
# What draws numbers is no constant, and quantisation steps say how a weight is kept.
_NEVER_FOLDED = frozenset(
    {"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "QuantizeLinear", "DequantizeLinear"}
)
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
CONTRACTIONS = CONVOLUTIONS | {"Gemm"}


def simplify(net: Net) -> None:
    """Bring a net into the form above, in place; what it computes stays the same up to rounding."""
    net.drop_unused()
    _drop_hand_ons(net)
    _fold_constants(net)
    _fix_reshapes(net)
    net.drop_unused()
    _fold_constants(net)
    _pads_explicit(net)
    for layer in net.layers:
        _plain_contraction(net, layer)
    _fold_affine(net)
    net.drop_unused()


def evaluate(layer: Layer, inputs: list[Array], opset: int = OPSET) -> list[Array]:
    """What a layer computes, by the reference implementation of its operator."""
    names = [f"x{i}" if value else "" for i, value in enumerate(layer.inputs)]
    results = [f"y{i}" for i in range(len(layer.outputs))]
    node = helper.make_node(layer.op, names, results)
    node.attribute.extend(layer.attributes.values())
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in zip([n for n in names if n], inputs, strict=True)
        ],
        [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in results],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = dict(zip([n for n in names if n], inputs, strict=True))
    return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, feeds)]


def _drop_hand_ons(net: Net) -> None:
    for layer in list(net.layers):
        same_type = layer.op == "Cast" and layer.integer("to", 0) == TensorProto.FLOAT and layer.inputs[0] == INPUT
        if (layer.op in _HANDS_ON or same_type) and layer.inputs[0] not in net.constants:
            net.bypass(layer)


def _fold_constants(net: Net) -> None:
    kept = []
    for layer in net.layers:
        given = [value for value in layer.inputs if value]
        foldable = layer.op == "Constant" or (given and all(value in net.constants for value in given))
        if not foldable or layer.op in _NEVER_FOLDED or OUTPUT in layer.outputs:
            kept.append(layer)
            continue
        try:
            results = evaluate(layer, [net.constants[value] for value in given], net.opset)
        except (NotImplementedError, RuntimeError):  # the reference lacks the operator: the runtime computes it
            kept.append(layer)
            continue
        net.constants.update(zip(layer.outputs, results, strict=True))
    net.layers = kept


def _fix_reshapes(net: Net) -> None:
    """Reshapes whose target is computed from the batch get a constant target; flattening gets its own operator."""
    twice, thrice = net.shapes(2), net.shapes(3)
    for layer in list(net.layers):
        if layer.op not in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            continue
        source, target = twice.get(layer.inputs[0]), twice.get(layer.output)
        other = thrice.get(layer.output)
        if source is None or target is None or other is None or len(target) != len(other):
            continue
        moving = [axis for axis, (a, b) in enumerate(zip(target, other, strict=True)) if a != b]
        if moving == [0] and source == target:
            net.bypass(layer)
        elif moving == [0] and len(target) == 2 and len(source) > 1 and target[0] == source[0] == 2:
            layer.op, layer.inputs = "Flatten", layer.inputs[:1]
            layer.attributes = {}
            layer.set("axis", 1)
        elif len(moving) == 1:
            wanted = np.array([-1 if axis in moving else length for axis, length in enumerate(target)], dtype=np.int64)
            layer.op, layer.attributes = "Reshape", {}
            layer.inputs = [layer.inputs[0], net.add_constant(f"{layer.name}.shape", wanted)]


def _pads_explicit(net: Net) -> None:
    """`auto_pad` SAME becomes the pads it stands for (ONNX Conv: total = (ceil(n / s) - 1) s + k - n)."""
    shapes = net.shapes()
    for layer in net.layers:
        same = layer.text("auto_pad", "NOTSET")
        if layer.op not in ("Conv", "MaxPool", "AveragePool") or same == "NOTSET":
            continue
        size = shapes[layer.inputs[0]][2:]
        kernel = layer.integers("kernel_shape") or list(shapes[layer.inputs[1]][2:])
        strides, dilations = (layer.integers(name, [1] * len(size)) for name in ("strides", "dilations"))
        begin, end = [0] * len(size), [0] * len(size)
        if same != "VALID":
            for i, (n, k, s, d) in enumerate(zip(size, kernel, strides, dilations, strict=True)):
                total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
                begin[i] = total // 2 if same == "SAME_UPPER" else total - total // 2
                end[i] = total - begin[i]
        del layer.attributes["auto_pad"]
        layer.set("pads", begin + end)


def _plain_contraction(net: Net, layer: Layer) -> None:
    """Gemm with a constant weight as [out, in] and a bias; convolutions with a bias; MatMul on [N, F] as Gemm."""
    weight = net.constant(layer.input_at(1))
    if weight is None or weight.dtype != np.float32:
        return
    if layer.op == "MatMul" and weight.ndim == 2 and len(net.shapes().get(layer.inputs[0], ())) == 2:
        layer.op, layer.attributes = "Gemm", {}
    if layer.op == "Gemm" and not layer.integer("transA", 0):
        bias = net.constant(layer.input_at(2)) if layer.input_at(2) else np.zeros((), np.float32)
        if bias is None:
            return
        weight = weight if layer.integer("transB", 0) else weight.T
        weight = weight * np.float32(layer.number("alpha", 1.0))
        beta = np.float32(layer.number("beta", 1.0))
        if bias.size not in (1, len(weight)):
            return
        put_weights(net, layer, weight, np.broadcast_to(bias.ravel() * beta, (len(weight),)))
        layer.attributes = {}
        layer.set("transB", 1)
    elif layer.op in CONVOLUTIONS and not layer.input_at(2):
        put_weights(net, layer, weight, np.zeros(_out_count(layer, weight.shape), np.float32))


def _out_count(layer: Layer, weight: Shape) -> int:
    return weight[1] * layer.integer("group", 1) if layer.op == "ConvTranspose" else weight[0]


def is_plain(net: Net, layer: Layer) -> bool:
    """Is it a contraction in the form above: weight and bias constant, the data on the left?"""
    named = layer.op in CONTRACTIONS and len(layer.inputs) == 3
    if not named or layer.inputs[0] in net.constants or (layer.op == "Gemm" and layer.integer("transA", 0)):
        return False
    both = [net.constant(value) for value in layer.inputs[1:]]
    return all(value is not None and value.dtype == np.float32 for value in both)


def put_weights(net: Net, layer: Layer, weight: Array, bias: Array) -> None:
    """Give a contraction a weight and a bias; constants that others read too are left alone."""
    readers = net.consumers()
    for position, (value, suffix) in enumerate(((weight, "weight"), (bias, "bias")), start=1):
        value = np.ascontiguousarray(value, dtype=np.float32)
        name = layer.input_at(position)
        if name and len(readers.get(name, ())) == 1:
            net.constants[name] = value
        else:
            name = net.add_constant(f"{layer.name}.{suffix}", value)
        layer.inputs[position:] = [name, *layer.inputs[position + 1 :]]


def _fold_affine(net: Net) -> None:
    """Fold what scales and shifts the channels of a contraction's output into its weight and bias."""
    producers, consumers, shapes = net.producers(), net.consumers(), net.shapes()
    for layer in list(net.layers):
        source = next((v for v in layer.inputs if v not in net.constants), "")
        before = producers.get(source)
        if before is None or not is_plain(net, before) or len(consumers[source]) != 1:
            continue
        affine = channel_affine(net, layer, shapes.get(source, ()))
        if affine is None or layer.output not in shapes or shapes[layer.output] != shapes[source]:
            continue
        scale, shift = affine
        weight, bias = (net.constants[v].astype(np.float64) for v in before.inputs[1:])
        put_weights(net, before, weight * _along_out(before, weight.shape, scale), bias * scale + shift)
        before.outputs = list(layer.outputs[:1])
        net.layers = [other for other in net.layers if other is not layer]
        producers, consumers = net.producers(), net.consumers()


def _along_out(layer: Layer, weight: Shape, scale: Array) -> Array:
    """A value per output channel, shaped to multiply the weight."""
    if layer.op != "ConvTranspose":
        return scale.reshape(-1, *[1] * (len(weight) - 1))
    per_input = scale.reshape(layer.integer("group", 1), 1, weight[1])
    spread = np.broadcast_to(per_input, (per_input.shape[0], weight[0] // per_input.shape[0], weight[1]))
    return spread.reshape(weight[0], weight[1], *[1] * (len(weight) - 2))


def channel_affine(net: Net, layer: Layer, shape: Shape) -> tuple[Array, Array] | None:
    """(scale, shift), float64 [C], when a layer computes x scale + shift per channel of x of `shape`, else None."""
    if len(shape) < 2:
        return None
    channels = shape[1]
    if layer.op == "BatchNormalization":
        values = [net.constant(v) for v in layer.inputs[1:5]]
        if any(v is None for v in values):
            return None
        gamma, beta, mean, var = (np.asarray(v, dtype=np.float64) for v in values)
        scale = gamma / np.sqrt(var + layer.number("epsilon", 1e-5))
        return scale, beta - mean * scale
    if layer.op not in ("Add", "Mul", "Sub", "Div") or len(layer.inputs) != 2:
        return None
    constant = net.constant(layer.inputs[1]) if layer.op in ("Sub", "Div") else _constant_operand(net, layer)
    vector = None if constant is None else per_channel(constant, shape)
    if vector is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    both = {"Add": (one, vector), "Sub": (one, -vector), "Mul": (vector, zero), "Div": (1.0 / vector, zero)}
    return both[layer.op]


def _constant_operand(net: Net, layer: Layer) -> Array | None:
    return next((net.constants[v] for v in layer.inputs if v in net.constants), None)


def per_channel(constant: Array, shape: Shape) -> Array | None:
    """A constant that is broadcast to `shape` as one float64 value per channel (axis 1), None if it varies otherwise.

    >>> per_channel(np.array([[[1.0]], [[2.0]]]), (1, 2, 4, 4))
    array([1., 2.])
    """
    if constant.ndim > len(shape):
        return None
    full = constant.reshape([1] * (len(shape) - constant.ndim) + list(constant.shape)).astype(np.float64)
    if any(length != 1 for axis, length in enumerate(full.shape) if axis != 1):
        return None
    return np.broadcast_to(full.ravel(), (shape[1],)).copy()
