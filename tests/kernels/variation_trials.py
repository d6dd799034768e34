# SPDX-License-Identifier: Apache-2.0
"""Trials of the total variation's kernels in the interpreter, against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from interpreted import Memory, run

from gantk.kernels.launch import Device
from gantk.kernels.variation_plan import Pictures, VariationPlan, plan_variation

Array = np.ndarray[Any, Any]
Layout = Callable[..., Pictures]

TYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
VALUE = 1e-6  # Relative: float32 sums of at most 64 rows a thread, then of few threads, then float64.
GRADIENT = {
    "float32": 1e-6,
    "float16": 5e-4,
    "bfloat16": 4e-3,
}  # Of the largest slope; halves round their result.


def transposed(dtype: str, n: int, c: int, h: int, w: int) -> Pictures:
    """Columns are contiguous."""
    return Pictures(dtype, (n, c, h, w), (c * h * w, h * w, 1, h))


def sliced(dtype: str, n: int, c: int, h: int, w: int) -> Pictures:
    """Every other pixel of a part of larger pictures."""
    return Pictures(dtype, (n, c, h, w), (c * (h + 1) * (2 * w + 3), (h + 1) * (2 * w + 3), 2 * w + 3, 2))


LAYOUTS: dict[str, Layout] = {
    "contiguous": Pictures.contiguous,
    "channels_last": Pictures.channels_last,
    "transposed": transposed,
    "sliced": sliced,
}


@dataclass(frozen=True)
class Trial:
    """One run of a plan.

    Args:
        shape: Of the pictures, N x C x H x W.
        kind: As `plan_variation` takes it, and so on for the others.
        layout: One of `LAYOUTS`.
        gradient: The layout of the gradient; `None` for the value alone.
        arch: Whose code is run.
        counters: Whether there are zeros, and so one launch.
        multiprocessors: Few make high bands.
        offset: Bytes that the pictures lie past a multiple of 16.
        at_once: Blocks that the interpreter runs side by side; `None` for what suits it.
    """

    shape: tuple[int, int, int, int]
    kind: str = "l1"
    dtype: str = "float32"
    layout: str = "contiguous"
    gradient: str | None = "contiguous"
    arch: str = "sm_80"
    counters: bool = True
    multiprocessors: int = 1
    eps: float = 1e-3
    offset: int = 0
    at_once: int | None = None

    @property
    def label(self) -> str:
        return f"{self.kind} {self.dtype} {self.layout} {'x'.join(map(str, self.shape))}"

    def plan(self) -> VariationPlan:
        laid = LAYOUTS[self.layout](self.dtype, *self.shape)
        if self.offset:
            laid = replace(laid, alignment=self.offset & -self.offset)
        into = None if self.gradient is None else LAYOUTS[self.gradient](self.dtype, *self.shape)
        device = Device((8, 0), self.multiprocessors, 163_840)
        return plan_variation(laid, self.kind, self.eps, device, into)


def picture(trial: Trial) -> Array:
    """Random pictures in which one pixel in two has a neighbour of the very same value, now and then."""
    rng = np.random.default_rng(sum(trial.shape))
    smooth = rng.random(trial.shape)
    stepped = np.where(rng.random(trial.shape) < 0.5, np.round(smooth * 4) / 4, smooth)
    return stepped.astype(TYPES[trial.dtype])


def execute(
    trial: Trial, pixels: Array, plan: VariationPlan | None = None, times: int = 1
) -> tuple[Array, Array | None]:
    """The values and the gradient, as the kernels leave them.

    Fails where they write beside the gradient or leave counters that are not zero; the interpreter fails where they
    read or write anything else that is not theirs.
    """
    plan = plan or trial.plan()
    memory = Memory()
    dtype = TYPES[trial.dtype]
    laid = LAYOUTS[trial.layout](trial.dtype, *trial.shape)
    at = memory.put(scatter(laid, pixels), offset=trial.offset)
    value = memory.empty(trial.shape[0], np.float32)
    gradient = 0
    if trial.gradient is not None:
        into = LAYOUTS[trial.gradient](trial.dtype, *trial.shape)
        gradient = memory.empty(span(into), dtype)
    workspace = memory.empty(max(1, plan.workspace_bytes // 4), np.float32)
    zeros = memory.put(np.zeros(max(1, plan.counters), np.uint32)) if trial.counters else 0
    for _ in range(times):
        launches = plan.launches(at, value, gradient, workspace, zeros)
        run(launches, memory, trial.arch, blocks=trial.at_once)
    if trial.counters:
        assert not memory.get(zeros).any(), "the counters are not left zero"
    if trial.gradient is None:
        return memory.get(value), None
    is_pixel = np.zeros(span(into), bool)
    view(into, is_pixel)[:] = True
    np.testing.assert_array_equal(memory.written(gradient), is_pixel, "written elements of the gradient")
    return memory.get(value), view(into, memory.get(gradient)).copy()


def check(trial: Trial) -> None:
    """Run a trial and compare it with float64."""
    pixels = picture(trial)
    value, gradient = execute(trial, pixels)
    wanted, slopes = reference(pixels.astype(np.float64), trial.kind, trial.eps)
    np.testing.assert_allclose(value, wanted, rtol=VALUE, atol=1e-12)
    if gradient is not None:
        error = np.abs(gradient.astype(np.float64) - slopes).max()
        assert error <= GRADIENT[trial.dtype] * max(1.0, np.abs(slopes).max()), error


def check_folded(trial: Trial) -> None:
    """Pictures lie along two axes of the grid, as more than 65535 do, and there is one place too many."""
    assert trial.shape[0] == 3
    plan = trial.plan()
    pixels = picture(trial)
    value, gradient = execute(trial, pixels, replace(plan, grid=(plan.grid[0], 2, 2)))
    wanted, slopes = reference(pixels.astype(np.float64), trial.kind, trial.eps)
    np.testing.assert_allclose(value, wanted, rtol=VALUE)
    np.testing.assert_allclose(gradient, slopes, atol=1e-5)


def check_rounding(trial: Trial) -> None:
    """Slopes of l2, which are exact in float32 here, are rounded to the nearest half, of two to the even one."""
    assert trial.kind == "l2"
    pixels = picture(trial)
    pixels[..., 0, 0] = np.nan
    _, gradient = execute(trial, pixels)
    _, slopes = reference(pixels.astype(np.float64), "l2", 0)
    wanted = slopes.astype(TYPES[trial.dtype]).astype(np.float32)
    assert gradient is not None
    np.testing.assert_array_equal(gradient.astype(np.float32), wanted)


def reference(x: Array, kind: str, eps: float) -> tuple[Array, Array]:
    """Values and gradient in the type of `x`; the slope of |NaN| is 0, as PyTorch has it."""
    dx, dy = np.zeros_like(x), np.zeros_like(x)
    with np.errstate(all="ignore"):
        dx[..., :-1] = x[..., 1:] - x[..., :-1]
        dy[..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
        if kind == "l1":
            terms, by_dx, by_dy = (
                np.abs(dx) + np.abs(dy),
                np.nan_to_num(np.sign(dx)),
                np.nan_to_num(np.sign(dy)),
            )
        elif kind == "l2":
            terms, by_dx, by_dy = dx * dx + dy * dy, 2 * dx, 2 * dy
        else:
            terms = np.sqrt(dx * dx + dy * dy + x.dtype.type(eps))
            by_dx, by_dy = dx / terms, dy / terms
        gradient = -by_dx - by_dy
        gradient[..., 1:] += by_dx[..., :-1]
        gradient[..., 1:, :] += by_dy[..., :-1, :]
        return terms.sum((1, 2, 3)), gradient


def span(laid: Pictures) -> int:
    """Elements from the first to the last."""
    return 1 + sum((size - 1) * stride for size, stride in zip(laid.shape, laid.strides, strict=True))


def view(laid: Pictures, flat: Array) -> Array:
    """Flat memory as pictures."""
    strides = [stride * flat.itemsize for stride in laid.strides]
    return np.lib.stride_tricks.as_strided(flat, laid.shape, strides)


def scatter(laid: Pictures, pixels: Array) -> Array:
    """Pictures as flat memory; what lies between them is NaN."""
    flat = np.full(span(laid), np.nan, pixels.dtype)
    view(laid, flat)[:] = pixels
    return flat


def cases(unit: str) -> list[tuple[str, Callable[[], None]]]:
    """Quick runs that, together, a mutant of `variation.cu` must not pass."""
    assert unit == "variation"
    wide = {"float32": (2, 3, 23, 80), "float16": (2, 3, 23, 160), "bfloat16": (2, 3, 23, 160)}
    trials = [
        Trial(wide[dtype], kind, dtype) for kind, dtype in zip(("l1", "l2", "isotropic"), wide, strict=True)
    ]
    trials += [
        Trial((1, 2, 9, 264), "isotropic", counters=False),
        Trial((2, 2, 23, 70), "l1", layout="channels_last", gradient="channels_last"),
        Trial((1, 3, 7, 5), "l2", "float16", layout="sliced", gradient="contiguous"),
        Trial((1, 1, 6, 5), "isotropic", "bfloat16", offset=2),
        Trial((1, 3, 23, 80), "l1", gradient=None),
        Trial((1, 1, 5, 8), "l2", gradient=None),
        Trial((1, 1, 5, 8), "isotropic", gradient=None),
        Trial((1, 1, 5, 5), "l1", gradient=None),
        Trial((1, 2, 6, 8), "isotropic", "bfloat16", arch="sm_75"),
        # More blocks than a sum reads at once.
        Trial((1, 1, 2400, 8), gradient=None, multiprocessors=200),
        Trial((1, 1, 1, 1), "l2"),
    ]
    rounded = [Trial((1, 2, 6, width), "l2", "bfloat16", arch="sm_75") for width in (5, 16)]
    folded = [Trial((3, 1, 9, 8), "l2", multiprocessors=8, counters=counters) for counters in (False, True)]
    return [
        *((trial.label, partial(check, trial)) for trial in trials),
        *((f"rounding {trial.label}", partial(check_rounding, trial)) for trial in rounded),
        *((f"folded {trial.label}", partial(check_folded, trial)) for trial in folded),
    ]
