# SPDX-License-Identifier: Apache-2.0
"""Trials of the gradient's kernels in the interpreter, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from gram_trials import LAYOUTS, SHARED_BYTES, TYPES, scatter, span
from interpreted import Memory, run

from gantk.kernels.gram_gradient_plan import GradientStyle, GramGradientPlan, plan_gram_gradient
from gantk.kernels.launch import Device, Features

Array = np.ndarray[Any, Any]

# Largest error of a result relative to the sum of |S| |F| that it is made of: slopes are rounded to the type that is
# multiplied, 2^-11 of float16 and TF32, 2^-8 of bfloat16, TF32 rounds features too; random errors stay below.
TOLERANCE = {"float16": 2.0**-12, "bfloat16": 2.0**-9, "tf32": 2.0**-11, "exact": 2.0**-22, "simt": 2.0**-21}
# Of halves the result is rounded besides, relative to itself, and float16 has a smallest step.
RESULT = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
STEP = {"float32": 0.0, "float16": 2.0**-25, "bfloat16": 0.0}


@dataclass(frozen=True)
class Trial:
    """One run of a plan.

    Args:
        layers: Channels and places of each.
        dtype: Of the features.
        precision: Of float32 features.
        pictures: N.
        layout: Of the features, one of `LAYOUTS`.
        result: Of the gradient; `None`: as the plan has it, at a multiple of 16 bytes.
        offset: Bytes that features, and results that are not left to the plan, lie past one.
        arch: Whose code is run.
        multiprocessors: Few make long spans.
        shared_bytes: Less than the architecture has.
        style: Whether `gradient` are differences of a style loss, all layers of a picture one after the other.
        slopes: How large dG is.
        values: How large the features are.
        spike: A channel whose slopes are a thousand times as large.
        at_once: Blocks that the interpreter runs side by side; `None` for what suits it.
    """

    layers: tuple[tuple[int, int], ...]
    dtype: str = "float32"
    precision: str = "exact"
    pictures: int = 1
    layout: str = "nchw"
    result: str | None = None
    offset: int = 0
    arch: str = "sm_80"
    multiprocessors: int = 1
    shared_bytes: int | None = None
    style: bool = False
    slopes: float = 1.0
    values: float = 1.0
    spike: int | None = None
    at_once: int | None = None

    def laid(self, layout: str) -> list[Features]:
        alignment = math.gcd(16, self.offset) if self.offset else 16
        found = [LAYOUTS[layout](self.dtype, self.pictures, *layer) for layer in self.layers]
        return [replace(each, alignment=alignment) for each in found]

    def plan(self) -> GramGradientPlan:
        number = int(self.arch.removeprefix("sm_").removesuffix("a"))
        shared = self.shared_bytes or SHARED_BYTES[self.arch]
        device = Device(divmod(number, 10), self.multiprocessors, shared)
        results = None if self.result is None else self.laid(self.result)
        return plan_gram_gradient(self.laid(self.layout), device, self.precision, results=results)

    def tolerance(self) -> float:
        kinds = {layer.kernel for layer in self.plan().layers}
        kind = "simt" if any("simt" in each for each in kinds) else self.dtype
        return TOLERANCE[self.precision if kind == "float32" else kind]


@dataclass(frozen=True)
class Given:
    """Numbers of a trial: of each layer F [N, C, K] and dG [N, C, C], and of each picture what comes from above."""

    features: list[Array]
    gradients: list[Array]
    upstream: Array


def numbers(trial: Trial) -> Given:
    rng = np.random.default_rng(9)
    shapes = [(trial.pictures, *layer) for layer in trial.layers]
    given = Given(
        [(rng.standard_normal(shape) * trial.values).astype(TYPES[trial.dtype]) for shape in shapes],
        [(rng.standard_normal((n, c, c)) * trial.slopes).astype(np.float32) for n, c, _ in shapes],
        (rng.random(trial.pictures) + 0.5).astype(np.float32),
    )
    if trial.spike is not None:
        for gradient in given.gradients:
            gradient[:, :, trial.spike] *= 1000
    return given


def weights_of(trial: Trial) -> list[float]:
    return [1.0 / (index + 1) for index in range(len(trial.layers))]


def execute(trial: Trial, given: Given) -> list[Array]:
    """Run the plan; the gradient of each layer. Fails where a kernel writes between the results."""
    memory, plan = Memory(), trial.plan()
    features = [
        memory.put(scatter(laid, each), offset=trial.offset)
        for laid, each in zip(trial.laid(trial.layout), given.features, strict=True)
    ]
    laid = [layer.result for layer in plan.layers]
    offset = trial.offset if trial.result else 0
    results = [memory.empty(span(each), TYPES[trial.dtype], offset=offset) for each in laid]
    workspace = memory.empty(plan.workspace_bytes // 4, np.float32)
    if trial.style:
        flat = [each.reshape(trial.pictures, -1) for each in given.gradients]
        total = sum(each.shape[1] for each in flat)
        differences = memory.put(np.concatenate(flat, axis=1))
        starts = np.cumsum([0] + [each.shape[1] for each in flat[:-1]])
        gradients = [differences + 4 * int(start) for start in starts]
        strides = [(total, channels, 1) for channels, _ in trial.layers]
        style = GradientStyle(weights_of(trial), memory.put(np.repeat(given.upstream, 2)), 2)
        launches = plan.launches(
            gradients, features, results, workspace, gradient_strides=strides, style=style
        )
    else:
        gradients = [memory.put(each) for each in given.gradients]
        launches = plan.launches(gradients, features, results, workspace)
    run(launches, memory, trial.arch, blocks=trial.at_once)
    return [taken(each, memory.get(at)) for each, at in zip(laid, results, strict=True)]


def taken(laid: Features, flat: Array) -> Array:
    """The array that lies in flat memory so; fails where there is anything between its elements."""
    strides = [stride * flat.itemsize for stride in laid.strides]
    view = np.lib.stride_tricks.as_strided(flat, laid.shape, strides)
    found = view.astype(np.float64)
    view[:] = np.nan
    assert np.isnan(flat.astype(np.float32)).all(), "something was written between the results"
    return found


def reference(trial: Trial, given: Given) -> list[tuple[Array, Array]]:
    """Of each layer dF, and the sum of the sizes of what it is made of."""
    found = []
    for index, (values, gradient) in enumerate(zip(given.features, given.gradients, strict=True)):
        wide, slopes = values.astype(np.float64), gradient.astype(np.float64)
        slopes = (slopes + slopes.swapaxes(1, 2)) / wide.shape[2]
        if trial.style:
            factor = 2 * weights_of(trial)[index] / wide.shape[1] ** 2
            slopes = slopes * factor * given.upstream.astype(np.float64)[:, None, None]
        found.append((slopes @ wide, np.abs(slopes) @ np.abs(wide)))
    return found


def check(trial: Trial, given: Given | None = None) -> list[Array]:
    """Run a trial and compare it with float64; returns what it yields."""
    given = numbers(trial) if given is None else given
    made = execute(trial, given)
    for index, (result, (wanted, size)) in enumerate(zip(made, reference(trial, given), strict=True)):
        room = trial.tolerance() * size + RESULT[trial.dtype] * np.abs(wanted) + STEP[trial.dtype]
        excess = (np.abs(result - wanted) / room).max()
        assert excess <= 1, f"layer {index}: {excess:.3g} times the error that is allowed"
    return made


def check_rounding(trial: Trial) -> None:
    """Results that float32 holds are rounded to the nearest, of two to the even one; inf and NaN stay what they are."""
    assert (trial.pictures, trial.layers) == (2, ((1, 128),))
    features = np.arange(128, 256).astype(TYPES[trial.dtype])
    features[:3] = np.inf, -np.inf, np.nan
    # Of the feature 1.5, so that odd ones lie between two results.
    slopes = np.full(2, 0.75 * 128, np.float32)
    slopes.view(np.uint32)[1] = (
        0x7FFFFFFF  # What GPUs' own NaNs are: of all, the first to round to something else.
    )
    given = Given([np.tile(features, (2, 1, 1))], [slopes.reshape(2, 1, 1)], np.ones(2, np.float32))
    (made,) = execute(trial, given)
    wanted = (1.5 * features.astype(np.float64)).astype(TYPES[trial.dtype])
    np.testing.assert_array_equal(made[0, 0], wanted.astype(np.float64))
    assert np.isnan(made[1]).all()


UNITS = ("gram_gradient", "gram_gradient_half", "gram_gradient_single")


def trials(unit: str) -> list[Trial]:
    """Quick runs, one of each path: rings that turn more than twice, tails, strides, slopes that stay and that pass."""
    return {
        "gram_gradient": [
            Trial(((70, 66), (5, 130)), arch="sm_75", style=True, pictures=2),
            Trial(((33, 70),), "bfloat16", layout="strided", result="nhwc", arch="sm_75"),
            Trial(((66, 40),), "float16", layout="strided", result="nchw"),
            Trial(((34, 40),), layout="nhwc", arch="sm_75"),
            Trial(((48, 40),), "float16", slopes=1e-6, values=1e4, style=True),
            Trial(((33, 8),), "float16", spike=32),  # A warp's lanes come round to it.
        ],
        "gram_gradient_half": [
            Trial(((130, 300),), "float16", shared_bytes=101_376, multiprocessors=4),
            Trial(((40, 1100),), "float16", layout="nhwc", style=True, pictures=2),
            Trial(((72, 1096),), "bfloat16"),
            Trial(((200, 264),), "bfloat16", layout="padded_last", result="nhwc", shared_bytes=101_376),
            Trial(((20, 131),), "float16", offset=2),
            Trial(((22, 134),), "bfloat16", layout="padded", result="strided", offset=4),
            Trial(((70, 140),), "float16", layout="nhwc", arch="sm_75"),
            Trial(((70, 134), (3, 20)), "float16", arch="sm_75"),
            Trial(((48, 128),), "float16", slopes=1e8, values=1e-3),
            Trial(((1, 129), (1, 131)), "bfloat16"),  # One row, of any pitch; one place and three too many.
        ],
        "gram_gradient_single": [
            Trial(((70, 1060), (33, 140)), style=True, pictures=2),
            Trial(((100, 132),), layout="nhwc", result="padded_last", multiprocessors=4),
            Trial(((40, 132),), "float32", "tf32", layout="nhwc"),
            Trial(((36, 1060),), "float32", "tf32", offset=4),
        ],
    }[unit]


ROUNDED = [Trial(((1, 128),), "bfloat16", pictures=2, arch=arch) for arch in ("sm_75", "sm_80")]


def cases(unit: str) -> list[tuple[str, Callable[[], None]]]:
    """What a mutant of the gradient's kernels must not pass."""
    rounded = ROUNDED if unit == "gram_gradient" else []
    return [
        *((str(trial.layers), partial(_pass, trial)) for trial in trials(unit)),
        *((f"rounding {trial.arch}", partial(check_rounding, trial)) for trial in rounded),
    ]


def _pass(trial: Trial) -> None:
    check(trial)
