# SPDX-License-Identifier: Apache-2.0
"""What the functions of `gantk.kernels` should give, in float64, and how far off each type may be."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

# Relative to the largest value. Results are rounded to their type once.
ROUNDING = {np.float32: 2e-6, np.float16: 6e-4, ml_dtypes.bfloat16: 5e-3}


def numbers(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def error(found: Array, wanted: Array) -> float:
    assert found.shape == wanted.shape
    return float(abs(found.astype(np.float64) - wanted).max() / abs(wanted).max())


def flat(features: Array) -> Array:
    return features.astype(np.float64).reshape(*features.shape[:2], -1)


def gram(features: Array, scale: float | None = None) -> Array:
    f = flat(features)
    return f @ f.transpose(0, 2, 1) * (1 / f.shape[2] if scale is None else scale)


def gram_slope(outer: Array, features: Array, scale: float | None = None) -> Array:
    f = flat(features)
    both = outer.astype(np.float64) + outer.astype(np.float64).transpose(0, 2, 1)
    return (both @ f * (1 / f.shape[2] if scale is None else scale)).reshape(features.shape)


def style(layers: list[Array], targets: list[Array], weights: list[float]) -> tuple[Array, list[Array]]:
    loss, gradients = np.zeros(len(layers[0])), []
    for layer, target, weight in zip(layers, targets, weights, strict=True):
        difference = gram(layer) - target
        loss += weight * (difference**2).mean((1, 2))
        gradients.append(gram_slope(2 * weight * difference / difference[0].size, layer))
    return loss, gradients
