# SPDX-License-Identifier: Apache-2.0
"""`gantk.kernels` from call to result: front end, plan, parameters and real PTX, against float64, without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gantk import kernels
from gantk.errors import GantkError, UsageError

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
from fake_cuda import FakeCuda, FakeGPU


@pytest.fixture
def cuda(interpreted: Callable[..., FakeCuda]) -> FakeCuda:
    return interpreted(gpus=(FakeGPU(),))


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def variation(pictures: np.ndarray, kind: str, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and gradients in float64."""
    x = pictures.astype(np.float64)
    dx, dy = np.zeros_like(x), np.zeros_like(x)
    dx[..., :-1], dy[:, :, :-1] = np.diff(x, axis=3), np.diff(x, axis=2)
    if kind == "l1":
        terms, by_dx, by_dy = abs(dx) + abs(dy), np.sign(dx), np.sign(dy)
    elif kind == "l2":
        terms, by_dx, by_dy = dx**2 + dy**2, 2 * dx, 2 * dy
    else:
        terms = np.sqrt(dx**2 + dy**2 + eps)
        by_dx, by_dy = dx / terms, dy / terms
    gradient = -by_dx - by_dy
    gradient[..., 1:] += by_dx[..., :-1]
    gradient[:, :, 1:] += by_dy[:, :, :-1]
    return terms.sum((1, 2, 3)), gradient


GRADIENT = {np.float32: 1e-5, np.float16: 4e-3, ml_dtypes.bfloat16: 4e-2}


@pytest.mark.parametrize("kind", ["l1", "l2", "isotropic"])
@pytest.mark.parametrize("dtype", GRADIENT, ids=lambda dtype: dtype.__name__)
def test_total_variation(cuda: FakeCuda, kind: str, dtype: Any) -> None:
    given = numbers(2, 3, 7, 9, dtype=dtype)
    value, gradient = variation(given, kind, 1e-4)
    pictures = kernels.to_device(given)
    found, slope = kernels.total_variation(pictures, kind, 1e-4, with_gradient=True)
    np.testing.assert_allclose(found.numpy(), value, rtol=1e-5)
    np.testing.assert_allclose(slope.numpy().astype(np.float64), gradient, atol=GRADIENT[dtype])
    alone = kernels.total_variation(pictures, kind, 1e-4)
    np.testing.assert_array_equal(alone.numpy(), found.numpy())
