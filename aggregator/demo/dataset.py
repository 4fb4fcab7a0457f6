"""The demo's data: opened, its layout guessed, its normalisation computed once over the training set."""

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.data import checked, load_npz
from device_runtime.wire.errors import UsageError
from device_runtime.wire.manifest import InputSpec

# Letters of one raw sample's axes, in order: h height, w width, c channel, t time.
LAYOUTS = ("hw", "hwc", "chw", "t", "tc", "ct")
_CHANNEL_COUNTS = (1, 3, 4)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Raw training and test samples with labels, groups (for `by:NAME`) and how they become model input."""

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]
    groups: dict[str, NDArray[Any]]
    layout: str
    input: InputSpec
    class_count: int


def load_dataset(source: str, layout: str, model: str) -> Dataset:
    """`digits` (bundled: the UCI handwritten digits) or a path to an .npz with x_train, y_train, x_test, y_test.

    Raises UsageError for a missing file or array, labels that are no class numbers, or an unknown layout.
    """
    if source == "digits":
        with as_file(files("aggregator.demo") / "digits.npz") as path:
            arrays = load_npz(path)
    else:
        arrays = load_npz(Path(source))
    for name in ("x_train", "y_train", "x_test", "y_test"):
        if name not in arrays:
            raise UsageError(f"data {source!r} has no array {name!r}; it has: {', '.join(arrays)}.")
    for part in ("train", "test"):
        checked(arrays[f"x_{part}"], arrays[f"y_{part}"], f"{source} ({part})")
        y = arrays[f"y_{part}"]
        if y.dtype.kind not in "ui" or y.min() < 0 or y.size != len(y):
            raise UsageError(
                f"data {source!r}: y_{part} must hold one class number from 0 on per sample; "
                f"it is {y.dtype} of shape {y.shape}."
            )
    x, y_train, y_test = arrays["x_train"], arrays["y_train"].reshape(-1), arrays["y_test"].reshape(-1)
    if arrays["x_test"].shape[1:] != x.shape[1:]:
        raise UsageError(
            f"data {source!r}: x_test has samples of shape {arrays['x_test'].shape[1:]}, x_train of {x.shape[1:]}; "
            "give both the same shape."
        )
    chosen = guess_layout(x.shape[1:], model) if layout == "auto" else layout
    return Dataset(
        name=source,
        x_train=x,
        y_train=y_train,
        x_test=arrays["x_test"],
        y_test=y_test,
        groups={
            n.removesuffix("_train"): a
            for n, a in arrays.items()
            if n.endswith("_train") and n not in ("x_train", "y_train")
        },
        layout=chosen,
        input=input_spec(x, chosen, model, arrays.get("scale")),
        class_count=int(max(y_train.max(), y_test.max())) + 1,
    )


def guess_layout(shape: tuple[int, ...], model: str) -> str:
    """The likely layout of a raw sample of `shape` for `model`; the guess is printed, `--layout` overrides it.

    Two axes are time and channel for `cnn1d` (the shorter one is the channel), height and width otherwise. Of three,
    the one of 1, 3 or 4 entries at the end or the front is the channel.
    """
    if len(shape) == 1:
        return "t"
    if len(shape) == 2:
        if model != "cnn1d":
            return "hw"
        return "tc" if shape[1] <= shape[0] else "ct"
    if len(shape) == 3:
        return "chw" if shape[0] in _CHANNEL_COUNTS and shape[2] not in _CHANNEL_COUNTS else "hwc"
    raise UsageError(f"samples of shape {shape} have {len(shape)} axes; give --layout, one of {', '.join(LAYOUTS)}.")


def input_spec(x: NDArray[Any], layout: str, model: str, scale: NDArray[Any] | None) -> InputSpec:
    """How raw samples become model input: axes by layout, mean 0 and deviation 1 per channel over `x`.

    uint8 is first divided by 255, other numbers multiplied by `scale` where the file has one. A scale per channel is
    absorbed by the normalisation.
    """
    if layout not in LAYOUTS or len(layout) != x.ndim - 1:
        fitting = [name for name in LAYOUTS if len(name) == x.ndim - 1]
        raise UsageError(f"layout {layout!r} does not fit samples of shape {x.shape[1:]}; use {', '.join(fitting)}.")
    wanted = "c" + "".join(a for a in layout if a != "c")
    source = layout if "c" in layout else "c" + layout
    axes = tuple(source.index(a) for a in wanted)
    lengths = dict(zip(layout, x.shape[1:], strict=True)) | ({} if "c" in layout else {"c": 1})
    shape = tuple(lengths[a] for a in wanted)
    factor = float(scale) if scale is not None and scale.ndim == 0 else 1 / 255 if x.dtype == np.uint8 else 1.0
    spec = InputSpec(shape=shape, axes=axes, scale=factor)
    values = spec.apply(x).astype(np.float64)
    over = (0, *range(2, values.ndim))
    mean, std = values.mean(axis=over), values.std(axis=over)
    std[std == 0] = 1.0
    return InputSpec(shape=shape, axes=axes, scale=factor, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
