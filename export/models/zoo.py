"""The model zoo: models by name, built for an input shape, a class count and a seed."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from device_runtime.wire.errors import UsageError
from device_runtime.wire.limits import DECODED_BYTES_MAX
from export.forward.model import ForwardModel
from export.models.graph import GraphBuilder, ShapeMismatchError
from export.models.networks import cifar10net, cnn, lenet5, mlp, mnistnet
from export.models.residual import resnet8, resnet18, resnet20
from export.models.sequence import cnn1d

# An axis this long fits every model of the zoo; the search for the smallest that fits ends here.
SIZE_SEARCH_MAX = 256


@dataclass(frozen=True, slots=True)
class ZooModel:
    """A model of the zoo: what it is, how many axes one sample has (0 = any) and the function that lays it out."""

    summary: str
    axis_count: int
    layout: Callable[..., str]


MODELS: Mapping[str, ZooModel] = {
    "mlp": ZooModel("fully connected, hidden layers 128 and 64", 0, mlp),
    "lenet5": ZooModel("LeNet-5 with ReLU and max pooling", 3, lenet5),
    "mnistnet": ZooModel("the MNIST network of FedDST", 3, mnistnet),
    "cifar10net": ZooModel("the CIFAR-10 network of FedDST", 3, cifar10net),
    "cnn": ZooModel("four convolutions and two fully connected layers, 1.6 M parameters on 3x32x32", 3, cnn),
    "resnet8": ZooModel("CIFAR-style residual network with batch normalisation, 8 layers", 3, resnet8),
    "resnet20": ZooModel("CIFAR-style residual network with batch normalisation, 20 layers", 3, resnet20),
    "resnet18": ZooModel("ResNet-18 for small images, 11 M parameters", 3, resnet18),
    "cnn1d": ZooModel("1-D convolutions over [channels, length]: sensor windows, spectrograms", 2, cnn1d),
}


def build_model(
    name: str, input_shape: tuple[int, ...], class_count: int, seed: int, **options: object
) -> ForwardModel:
    """The forward model `name` in evaluation form, from float32 `input` [batch, *input_shape] to logits `output`.

    The output's shape is [batch, class_count]. Options are the keyword arguments of the model's layout function, e.g.
    `hidden=(128, 64)` for "mlp" and `double_softmax=True` for FedDST's networks. Same arguments, same bytes.

    Raises UsageError for an unknown model or option, and for an input that the model does not fit; the text then
    names the smallest input that fits. Raises it too for more parameters than a blob may hold.
    """
    entry = _find(name, options)
    if class_count < 1:
        raise UsageError(f"the class count is {class_count}: give at least 1 class")
    if not input_shape or min(input_shape) < 1 or (entry.axis_count and len(input_shape) != entry.axis_count):
        wanted = {0: "at least one axis", 2: "channels, length", 3: "channels, height, width"}[entry.axis_count]
        raise UsageError(f"model {name!r} takes an input of {wanted}, not {_text(input_shape)}: change the input shape")
    builder = GraphBuilder(input_shape, seed)
    try:
        result = entry.layout(builder, class_count, **options)
    except ShapeMismatchError as error:
        smallest = _smallest(entry, input_shape, class_count, options)
        raise UsageError(
            f"model {name!r} does not fit an input of {_text(input_shape)} ({error}): "
            f"the smallest that fits is {_text(smallest)}"
        ) from error
    if 4 * builder.parameter_count > DECODED_BYTES_MAX:
        raise UsageError(
            f"model {name!r} has {builder.parameter_count:,} parameters on an input of {_text(input_shape)}: "
            f"make the input smaller, the limit is {DECODED_BYTES_MAX // 4:,}"
        )
    return builder.model(result, name)


def _find(name: str, options: Mapping[str, object]) -> ZooModel:
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r} in the zoo: choose one of {', '.join(MODELS)}")
    known = list(inspect.signature(MODELS[name].layout).parameters)[2:]
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"model {name!r} has no option {option!r}: {has}")
    return MODELS[name]


def _smallest(
    entry: ZooModel, input_shape: tuple[int, ...], class_count: int, options: Mapping[str, object]
) -> tuple[int, ...]:
    """Per axis behind the channels, the least size that fits when the others are ample (axes do not interact)."""
    channels, *size = input_shape
    least = []
    for axis in range(len(size)):
        for length in range(1, SIZE_SEARCH_MAX + 1):
            trial = [SIZE_SEARCH_MAX] * len(size)
            trial[axis] = length
            if _fits(entry, (channels, *trial), class_count, options):
                least.append(length)
                break
    assert len(least) == len(size), "every zoo model fits SIZE_SEARCH_MAX"
    return (channels, *least)


def _fits(entry: ZooModel, shape: tuple[int, ...], class_count: int, options: Mapping[str, object]) -> bool:
    try:
        entry.layout(GraphBuilder(shape, 0), class_count, **options)
    except ShapeMismatchError:
        return False
    return True


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape) or "no axes"
