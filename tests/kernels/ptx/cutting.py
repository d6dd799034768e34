# SPDX-License-Identifier: Apache-2.0
"""Tensor cores as they are measured to add: terms are aligned to the largest one, and what lies below is cut off.

Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330 (2021):
products are exact; products and addend lose the bits below the last place of the largest; their sum is cut, not
rounded. Newer GPUs keep one or more bits below; this keeps none, the worst of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .numbers import Array, round_f32

_cuts = False


@contextmanager
def cut_sums() -> Iterator[None]:
    """Within: mma adds as tensor cores do; else it adds in float32, which is faster."""
    global _cuts  # noqa: PLW0603
    _cuts = True
    try:
        yield
    finally:
        _cuts = False


def sums_are_cut() -> bool:
    return _cuts


def add_products(a: Array, b: Array, addend: Array) -> Array:
    """addend + a @ b of float32 matrices (..., 16, K), (..., K, 8) and (..., 16, 8), finite ones."""
    products = a[..., :, None, :].astype(np.float64) * b.swapaxes(-1, -2)[..., None, :, :]
    terms = np.concatenate([products, addend[..., None].astype(np.float64)], axis=-1)
    largest = np.abs(terms).max(-1, keepdims=True)
    _, exponent = np.frexp(largest)  # largest < 2^exponent
    place = np.ldexp(1.0, np.maximum(exponent - 24, -149))
    return round_f32((np.trunc(terms / place) * place).sum(-1), "rz")
