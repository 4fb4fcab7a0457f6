"""How values are kept: ONNX has channels in front, TFLite behind.

A value of four axes [N, C, H, W] is kept as [N, H, W, C]; one of three [N, C, L] as [N, 1, L, C], so that 1-D
convolution is 2-D; any other as it is. The rule goes by the number of axes alone, so every operator can tell.
"""

import math

import numpy as np

from export.deploy.net import Array, Shape


def stored_shape(shape: Shape) -> Shape:
    """The shape in which a value is kept.

    >>> stored_shape((1, 3, 32, 16)), stored_shape((1, 6, 128)), stored_shape((1, 10))
    ((1, 32, 16, 3), (1, 1, 128, 6), (1, 10))
    """
    if len(shape) == 4:
        return (shape[0], shape[2], shape[3], shape[1])
    if len(shape) == 3:
        return (shape[0], 1, shape[2], shape[1])
    return shape


def stored_axis(axis: int, rank: int) -> int:
    """Where an axis of an ONNX value of `rank` axes is kept."""
    axis %= rank
    return {4: (0, 3, 1, 2), 3: (0, 3, 2)}.get(rank, tuple(range(rank)))[axis]


def stored_array(array: Array, rank: int) -> Array:
    """A constant beside values of `rank` axes as it is kept: axes filled up in front, channels moved behind."""
    full = array.reshape([1] * (rank - array.ndim) + list(array.shape))
    if rank == 4:
        return np.ascontiguousarray(full.transpose(0, 2, 3, 1))
    if rank == 3:
        return np.ascontiguousarray(full.transpose(0, 2, 1))[:, None]
    return full


def is_plain(shape: Shape) -> bool:
    """Are the elements kept in ONNX's order all the same? True without channels, or with one position or channel."""
    return len(shape) not in (3, 4) or shape[1] == 1 or math.prod(shape[2:]) == 1


def to_stored_permutation(rank: int) -> list[int]:
    """The permutation from ONNX's axes to kept ones, for three (without the axis of length 1) or four axes."""
    return [0, 2, 3, 1] if rank == 4 else [0, 2, 1]


def from_stored_permutation(rank: int) -> list[int]:
    """Its inverse."""
    return [0, 3, 1, 2] if rank == 4 else [0, 2, 1]
