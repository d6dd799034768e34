# SPDX-License-Identifier: Apache-2.0
"""Trials of the kernel of a generator's last layer in the interpreter, against float64."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from instance_norm_trials import RefusedError, launch_of
from interpreted import Memory, run
from twins import twin

from gantk.kernels.launch import Launch

Array = np.ndarray[Any, Any]

# float16 features and weights are exact; sums are float32's, and the result is rounded, between -1 and 1.
TOLERANCE = 2.0**-11 + 2e-6


@dataclass(frozen=True)
class Trial:
    """One run of the plan.

    Args:
        shape: Of the features, N x H x W x C.
        made: Channels of the picture.
        offset: Elements that the features lie past a multiple of 16 bytes.
        arch: Whose code is run.
        dark: Whether all features are far below zero, so that the picture is of the bias alone, and weights are large
            enough to show the smallest number that comes from elsewhere.
    """

    shape: tuple[int, int, int, int]
    made: int = 3
    offset: int = 0
    arch: str = "sm_80"
    dark: bool = False

    @property
    def label(self) -> str:
        return f"{'x'.join(map(str, self.shape))} to {self.made} {self.arch}{' dark' if self.dark else ''}"


@dataclass(frozen=True)
class Numbers:
    """What a trial is given."""

    features: Array
    before: Array
    weights: Array
    bias: Array


def numbers_of(trial: Trial) -> Numbers:
    rng = np.random.default_rng(sum(trial.shape))
    channels = trial.shape[3]
    weights = rng.standard_normal((channels, trial.made, 4, 4)) / np.sqrt(2 * channels)
    features = rng.standard_normal(trial.shape)
    if trial.dark:
        features, weights = np.full_like(features, -60000), np.full_like(weights, 60000)
    return Numbers(
        features.astype(np.float16),
        rng.standard_normal(channels).astype(np.float32),
        weights.astype(np.float16),
        rng.standard_normal(trial.made).astype(np.float32),
    )


def plan(trial: Trial, addresses: tuple[int, ...] = (0,) * 5) -> tuple[tuple[int, ...], Launch]:
    """The picture's shape, and the launch."""
    alignment = 16 if trial.offset == 0 else 2
    fields = [*trial.shape, trial.shape[3], trial.made, 4, 4, alignment, *addresses]
    line = " ".join(map(str, fields))
    program = twin("to_picture_plan")
    said = subprocess.run([program], input=line, capture_output=True, text=True, check=True).stdout.strip()
    if said.startswith("refused"):
        raise RefusedError(said.partition(": ")[2])
    words = said.split()
    return tuple(map(int, words[:4])), launch_of(words[4:])


def execute(trial: Trial, numbers: Numbers) -> Array:
    """The picture, as the kernel leaves it; fails where a part of it is not written."""
    memory = Memory()
    shape, _ = plan(trial)
    addresses = (
        memory.put(numbers.features, offset=2 * trial.offset),
        memory.put(numbers.before),
        memory.put(numbers.weights),
        memory.put(numbers.bias),
        memory.empty(shape, np.float16),
    )
    run([plan(trial, addresses)[1]], memory, trial.arch)
    assert memory.written(addresses[4]).all(), "not all of the picture is written"
    return memory.get(addresses[4])


def reference(numbers: Numbers) -> Array:
    """The picture in float64, of features that were rounded to float16 after their ReLU, as memory has them."""
    sums = numbers.features.astype(np.float32) + numbers.before
    active = np.maximum(sums, 0).astype(np.float16).astype(np.float64)
    n, height, width, _ = active.shape
    whole = np.zeros((n, numbers.weights.shape[1], 2 * height + 2, 2 * width + 2))
    for row in range(4):
        for column in range(4):
            products = np.einsum(
                "nhwc,cm->nmhw", active, numbers.weights[:, :, row, column].astype(np.float64)
            )
            whole[:, :, row : row + 2 * height : 2, column : column + 2 * width : 2] += products
    picture = np.tanh(whole[:, :, 1:-1, 1:-1] + numbers.bias[:, None, None])
    found: Array = picture
    return found


def check(trial: Trial) -> None:
    """Run a trial and compare it with float64."""
    numbers = numbers_of(trial)
    made, wanted = execute(trial, numbers).astype(np.float64), reference(numbers)
    assert made.shape == wanted.shape
    error = np.abs(made - wanted).max()
    assert error <= TOLERANCE, f"{error:.2e}; {TOLERANCE:.2e} is allowed"


def cases(unit: str) -> list[tuple[str, Callable[[], None]]]:
    """Quick runs that, together, a mutant of `to_picture.cu` must not pass."""
    assert unit == "to_picture"
    trials = [
        Trial((1, 5, 7, 40)),
        Trial((2, 16, 16, 32), 8),
        Trial((1, 17, 33, 64), 1),
        Trial((1, 1, 1, 8), 4),
        Trial((1, 18, 3, 72), 5, arch="sm_75"),
        Trial((3, 2, 18, 16), 2, arch="sm_90a"),
        Trial((1, 17, 3, 8), dark=True),
    ]
    return [(trial.label, partial(check, trial)) for trial in trials]
