"""From an inference graph to the bytes of a TFLite file, one layer after the other.

An operator that is not in the table below is refused by name before a byte exists. The file takes one sample: a batch
of one, channels last.
"""

from collections.abc import Callable, Mapping

from device_runtime.wire.errors import UsageError
from export.deploy.net import Layer, Net
from export.forward.form import INPUT, OUTPUT
from export.tflite import contractions, pointwise, pooling, rearranging
from export.tflite.fusing import fuse_activations
from export.tflite.layouts import stored_shape
from export.tflite.writing import Pen

OPERATORS: Mapping[str, Callable[[Pen, Layer], int]] = {
    "Conv": contractions.write_conv,
    "ConvTranspose": contractions.write_conv_transpose,
    "Gemm": contractions.write_gemm,
    "MaxPool": pooling.write_max_pool,
    "AveragePool": pooling.write_average_pool,
    "GlobalAveragePool": pooling.write_global_pool,
    "GlobalMaxPool": pooling.write_global_pool,
    "ReduceMean": pooling.write_reduce,
    "ReduceSum": pooling.write_reduce,
    "ReduceMax": pooling.write_reduce,
    "InstanceNormalization": pooling.write_normalisation,
    "LayerNormalization": pooling.write_normalisation,
    "BatchNormalization": pointwise.write_batch_norm,
    **dict.fromkeys(pointwise.UNARY, pointwise.write_unary),
    **dict.fromkeys([*pointwise.BINARY, *pointwise.EXTREMES], pointwise.write_binary),
    "Clip": pointwise.write_clip,
    "LeakyRelu": pointwise.write_leaky_relu,
    "Elu": pointwise.write_elu,
    "Gelu": pointwise.write_gelu,
    "PRelu": pointwise.write_prelu,
    "HardSigmoid": pointwise.write_hard_sigmoid,
    "Flatten": rearranging.write_flatten,
    "Reshape": rearranging.write_reshape,
    "Squeeze": rearranging.write_reshape,
    "Unsqueeze": rearranging.write_reshape,
    "Transpose": rearranging.write_transpose,
    "Concat": rearranging.write_concat,
    "Softmax": rearranging.write_softmax,
    "LogSoftmax": rearranging.write_softmax,
    "Pad": rearranging.write_pad,
    "Resize": rearranging.write_resize,
}


def write_tflite(net: Net, metadata: Mapping[str, bytes]) -> bytes:
    """A simplified net as a TFLite file with metadata entries.

    Input `input` and output `output` are float32 [1, ...], channels last, and named in the signature
    "serving_default".

    Raises UsageError naming every operator that cannot be written, with its node, or the first layer whose shapes or
    settings cannot; and when LiteRT, whose schema is used, is not installed.
    """
    _refuse_unknown(net)
    net = _copy(net)
    shapes = net.shapes()
    fuse_activations(net)
    pen = Pen(net, shapes)
    sample = shapes[INPUT]
    given = pen.flat.value(INPUT, _outer(sample))
    pen.tensors[INPUT] = given
    if len(sample) == 3:
        pen.tensors[INPUT] = pen.reshape(given, stored_shape(sample), Layer("Reshape", INPUT, [], [INPUT]))
    for layer in net.layers:
        pen.tensors[layer.output] = OPERATORS[layer.op](pen, layer)
        inside = layer.output == OUTPUT and len(shapes[OUTPUT]) == 3
        pen.flat.rename(pen.tensors[layer.output], f"{OUTPUT}.inside" if inside else layer.output)
        if layer.op not in ("Flatten", "Gemm") and layer.inputs[0] in pen.flattened:
            pen.flattened[layer.output] = pen.flattened[layer.inputs[0]]
    result = pen.tensors[OUTPUT]
    if len(shapes[OUTPUT]) == 3:
        result = pen.reshape(result, _outer(shapes[OUTPUT]), Layer("Reshape", OUTPUT, [], [OUTPUT]))
        pen.flat.rename(result, OUTPUT)
    return pen.flat.finish({INPUT: given}, {OUTPUT: result}, metadata)


def _outer(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a value at the border of the graph: channels last, without the axis that 1-D values get inside.

    >>> _outer((1, 6, 128)), _outer((1, 3, 8, 8))
    ((1, 128, 6), (1, 8, 8, 3))
    """
    kept = stored_shape(shape)
    return (kept[0], *kept[2:]) if len(shape) == 3 else kept


def _refuse_unknown(net: Net) -> None:
    unknown = [layer for layer in net.layers if layer.op not in OPERATORS]
    if unknown:
        named = ", ".join(f"{layer.op} at node {layer.name!r}" for layer in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UsageError(
            f"the model cannot be written as TFLite: there is no way to write {named}{more}; "
            "change the model there, or export it as ONNX"
        )


def _copy(net: Net) -> Net:
    layers = [Layer(x.op, x.name, list(x.inputs), list(x.outputs), dict(x.attributes)) for x in net.layers]
    return Net(net.name, net.input_shape, layers, dict(net.constants), net.opset, net.ir_version)
