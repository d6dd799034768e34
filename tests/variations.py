# SPDX-License-Identifier: Apache-2.0
"""The total variation and its gradient in float64, which every implementation is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def variation(pictures: Array, kind: str, epsilon: float) -> tuple[Array, Array]:
    """Values [N] and gradients [N, C, H, W] of pictures [N, C, H, W], of any floating type."""
    x = pictures.astype(np.float64)
    dx, dy = np.zeros_like(x), np.zeros_like(x)
    dx[..., :-1], dy[..., :-1, :] = np.diff(x, axis=3), np.diff(x, axis=2)
    if kind == "l1":
        terms, by_dx, by_dy = np.abs(dx) + np.abs(dy), np.sign(dx), np.sign(dy)
    elif kind == "l2":
        terms, by_dx, by_dy = dx**2 + dy**2, 2 * dx, 2 * dy
    else:
        terms = np.sqrt(dx**2 + dy**2 + epsilon)
        by_dx, by_dy = dx / terms, dy / terms
    gradient = -by_dx - by_dy
    gradient[..., 1:] += by_dx[..., :-1]
    gradient[..., 1:, :] += by_dy[..., :-1, :]
    return terms.sum((1, 2, 3)), gradient
