"""Reproducible random draws: a counter-based generator keyed by what the draw is for.

Philox 4x64-10 (Salmon et al., SC'11) keyed by SHA-256 of (run seed, purpose, keys). Only the raw 64-bit stream
of numpy's Philox is used, because numpy promises that stream stays the same across releases; the distributions
on top of it are defined here. Same key, same bits, on every machine and after every restart.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


class Draws:
    """A stream of draws for one purpose, e.g. `Draws(1, "batches", round_index, "device-2", epoch)`."""

    def __init__(self, seed: int, purpose: str, *keys: int | str) -> None:
        text = "\x1f".join([str(seed), purpose, *(f"{type(k).__name__}:{k}" for k in keys)])
        digest = hashlib.sha256(text.encode()).digest()
        self._bits = np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64).copy())

    def raw(self, count: int) -> NDArray[np.uint64]:
        """`count` raw 64-bit words."""
        words: NDArray[np.uint64] = self._bits.random_raw(count)
        return words

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` float64 in [0, 1), 53 bits each."""
        return (self.raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, count: int) -> NDArray[np.float64]:
        """`count` standard normal float64 (Box-Muller)."""
        half = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(half)))
        angle = 2.0 * np.pi * self.uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def below(self, count: int, bound: int) -> NDArray[np.int64]:
        """`count` integers in [0, bound)."""
        return np.floor(self.uniform(count) * bound).astype(np.int64)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """A permutation of range(count): the stable order of `count` raw words."""
        return np.argsort(self.raw(count), kind="stable").astype(np.int64)

    def generator(self) -> np.random.Generator:
        """A numpy Generator on this stream, for distributions not defined here (stable within a numpy release)."""
        return np.random.Generator(self._bits)
