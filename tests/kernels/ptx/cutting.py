# SPDX-License-Identifier: Apache-2.0
"""Tensor cores as they are measured to add: terms are aligned to the largest one, and what lies below is cut off.

Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330 (2021):
products are exact; products and addend lose the bits below the last place of the largest; their sum is cut, not
rounded. The paper's GPUs keep no bit below that place, or one; an H100 keeps two, and adds all products of an
instruction at once: so computed here, errors are those that were measured on it (test_gram_kernels.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .numbers import Array, round_f32

H100 = 2
"""Guard bits: what it keeps below the last place of the largest term."""

_guard_bits: int | None = None


@contextmanager
def cut_sums(guard_bits: int = 0) -> Iterator[None]:
    """Within: mma and wgmma add as tensor cores do; else they add in float32, which is faster.

    Args:
        guard_bits: The fewer, the worse.
    """
    global _guard_bits  # noqa: PLW0603
    _guard_bits = guard_bits
    try:
        yield
    finally:
        _guard_bits = None


def guard_bits() -> int | None:
    """Of `cut_sums`; `None` where sums are rounded."""
    return _guard_bits


def add_products(a: Array, b: Array, addend: Array) -> Array:
    """addend + a @ b of float32 matrices (..., M, K), (..., K, N) and (..., M, N); where sums are cut, finite ones."""
    if _guard_bits is None:
        return np.matmul(a, b) + addend
    products = a[..., :, None, :].astype(np.float64) * b.swapaxes(-1, -2)[..., None, :, :]
    terms = np.concatenate([products, addend[..., None].astype(np.float64)], axis=-1)
    largest = np.abs(terms).max(-1, keepdims=True)
    _, exponent = np.frexp(largest)  # largest < 2^exponent
    place = np.ldexp(1.0, np.maximum(exponent - 24 - _guard_bits, -149))
    return round_f32((np.trunc(terms / place) * place).sum(-1), "rz")
