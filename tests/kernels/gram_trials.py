# SPDX-License-Identifier: Apache-2.0
"""Trials of the Gram matrix's kernels in the interpreter, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from interpreted import Memory, run
from ptx.cutting import guard_bits

from gantk.kernels.gram_plan import GramPlan, GramTargets, plan_gram
from gantk.kernels.launch import Device, Features

Array = np.ndarray[Any, Any]

TYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SHARED_BYTES = {"sm_75": 65_536, "sm_80": 166_912, "sm_86": 101_376, "sm_90a": 232_448, "sm_120": 101_376}
# Largest error of an element, relative to the norms of its two channels. Products of 16-bit numbers are exact, float32
# sums of some hundred terms are not; TF32 rounds both factors to 11 bits.
TOLERANCE = {"float16": 6e-7, "bfloat16": 6e-7, "exact": 6e-7, "tf32": 2.0**-10}


def padded(dtype: str, n: int, c: int, k: int) -> Features:
    """Rows that begin at multiples of 16 bytes and are followed by something else."""
    pitch = -(-k // 8) * 8 + 8
    return Features(dtype, (n, c, k), (c * pitch, pitch, 1))


def padded_last(dtype: str, n: int, c: int, k: int) -> Features:
    """The same with channels as neighbours."""
    pitch = -(-c // 8) * 8 + 8
    return Features(dtype, (n, c, k), (k * pitch, 1, pitch))


def strided(dtype: str, n: int, c: int, k: int) -> Features:
    """Every other place, every third channel."""
    return Features(dtype, (n, c, k), (3 * c * (2 * k + 1), 3 * (2 * k + 1), 2))


LAYOUTS: dict[str, Callable[[str, int, int, int], Features]] = {
    "nchw": Features.contiguous,
    "nhwc": Features.channels_last,
    "padded": padded,
    "padded_last": padded_last,
    "strided": strided,
}


@dataclass(frozen=True)
class Trial:
    """One run of a plan.

    Args:
        layers: Channels and places of each.
        dtype: Of the features.
        precision: Of float32 features.
        pictures: N.
        layout: One of `LAYOUTS`.
        offset: Bytes that features lie past a multiple of 16.
        arch: Whose code is run.
        multiprocessors: Few make long slices.
        tile: As `plan_gram` takes it.
        style: Whether there are targets, and a loss.
        at_once: Blocks that the interpreter runs side by side; `None` for what suits it.
    """

    layers: tuple[tuple[int, int], ...]
    dtype: str = "float32"
    precision: str = "exact"
    pictures: int = 1
    layout: str = "nchw"
    offset: int = 0
    arch: str = "sm_80"
    multiprocessors: int = 1
    tile: int | None = None
    style: bool = False
    at_once: int | None = None

    def features(self) -> list[Features]:
        laid = [LAYOUTS[self.layout](self.dtype, self.pictures, *layer) for layer in self.layers]
        alignment = math.gcd(16, self.offset) if self.offset else 16
        return [replace(each, alignment=alignment) for each in laid]

    def plan(self) -> GramPlan:
        number = int(self.arch.removeprefix("sm_").removesuffix("a"))
        device = Device(divmod(number, 10), self.multiprocessors, SHARED_BYTES[self.arch])
        return plan_gram(self.features(), device, self.precision, style=self.style, tile=self.tile)

    def tolerance(self) -> float:
        rounding, bits = TOLERANCE[self.precision if self.dtype == "float32" else self.dtype], guard_bits()
        return rounding if bits is None or self.dtype == "float32" else rounding + self.cut_off(bits)

    def cut_off(self, bits: int) -> float:
        """What sums of squares lose on tensor cores at most, relative to what they come to (`ptx/cutting.py`).

        They add 16 products at once: each loses less than 2^-(23 + guard bits) of the sum so far, the sum itself less
        than 2^-23. It grows evenly, so on average that is half of what it comes to; after 64 steps it goes to memory.
        """
        longest = max(min(layer.slice, 64 * layer.variant.step) for layer in self.plan().layers)
        additions = -(-longest // 16)
        return (additions + 1) / 2 * (16 * 2.0 ** -(23 + bits) + 2.0**-23)


@dataclass(frozen=True)
class Result:
    """What the kernels leave: of each layer [N, C, C], and with a style the loss [N]."""

    grams: list[Array]
    loss: Array | None


def numbers(trial: Trial) -> list[Array]:
    """Random features of each layer, [N, C, K], with a mean, so that sums grow as those of real ones do."""
    rng = np.random.default_rng(7)
    shapes = [(trial.pictures, *layer) for layer in trial.layers]
    return [(rng.standard_normal(shape) + 0.25).astype(TYPES[trial.dtype]) for shape in shapes]


def targets_of(trial: Trial) -> list[Array]:
    """Targets that are not symmetric: of every other layer one for all pictures, else one each."""
    rng = np.random.default_rng(8)
    counts = [1 if index % 2 == 0 else trial.pictures for index in range(len(trial.layers))]
    sizes = [channels for channels, _ in trial.layers]
    return [rng.random((n, c, c), np.float32) for n, c in zip(counts, sizes, strict=True)]


def execute(trial: Trial, values: Sequence[Array]) -> Result:
    """Run the plan; fails where something is not written that should be, or what lies between."""
    memory, plan = Memory(), trial.plan()
    features = [
        memory.put(scatter(laid, each), offset=trial.offset)
        for laid, each in zip(trial.features(), values, strict=True)
    ]
    squares = [channels**2 for channels, _ in trial.layers]
    workspace = memory.empty(plan.workspace_bytes // 4, np.float32)
    if not trial.style:
        grams = [memory.empty((trial.pictures, square), np.float32) for square in squares]
        run(plan.launches(features, grams, workspace), memory, trial.arch, blocks=trial.at_once)
        return Result([matrices(memory.get(gram)) for gram in grams], None)
    total = sum(squares)  # As the operator wants them: all layers of a picture, one after the other.
    differences = memory.empty((trial.pictures, total), np.float32)
    starts = [sum(squares[:index]) for index in range(len(squares))]
    targets = targets_of(trial)
    loss = memory.empty(trial.pictures, np.float32)
    style = GramTargets(
        [memory.put(target) for target in targets],
        [0 if len(target) == 1 else target[0].size for target in targets],
        weights_of(trial),
        loss,
    )
    launches = plan.launches(
        features,
        [differences + 4 * start for start in starts],
        workspace,
        gram_strides=[total] * len(squares),
        targets=style,
    )
    run(launches, memory, trial.arch, blocks=trial.at_once)
    both = zip(starts, squares, strict=True)
    flat = memory.get(differences)
    return Result([matrices(flat[:, start : start + square]) for start, square in both], memory.get(loss))


def weights_of(trial: Trial) -> list[float]:
    return [1.0 / (index + 1) for index in range(len(trial.layers))]


def matrices(flat: Array) -> Array:
    size = math.isqrt(flat.shape[1])
    return flat.reshape(len(flat), size, size)


def check(trial: Trial, values: Sequence[Array] | None = None) -> Result:
    """Run a trial and compare it with float64; returns what it yields."""
    values = numbers(trial) if values is None else values
    result = execute(trial, values)
    loss = np.zeros(trial.pictures)
    for index, (given, made) in enumerate(zip(values, result.grams, strict=True)):
        wide = given.astype(np.float64)
        gram, norms = reference(wide), np.linalg.norm(wide, axis=2) / math.sqrt(wide.shape[2])
        scale = norms[:, :, None] * norms[:, None, :]
        if trial.style:
            target = targets_of(trial)[index].astype(np.float64)
            gram = gram - target
            scale = scale + np.abs(target)
            loss += weights_of(trial)[index] * np.square(gram).mean((1, 2))
        error = (np.abs(made - gram) / scale).max()
        assert error <= trial.tolerance(), f"layer {index}: relative error {error:.2e}"
        if not trial.style:
            np.testing.assert_array_equal(made, made.swapaxes(1, 2), "it is not symmetric")
    if result.loss is not None:
        np.testing.assert_allclose(result.loss, loss, rtol=4 * trial.tolerance())
    return result


def reference(wide: Array) -> Array:
    return wide @ wide.swapaxes(1, 2) / wide.shape[2]


def span(laid: Features) -> int:
    """Elements from the first to the last."""
    return 1 + sum((size - 1) * stride for size, stride in zip(laid.shape, laid.strides, strict=True))


def scatter(laid: Features, values: Array) -> Array:
    """Features as flat memory; what lies between them is NaN."""
    flat = np.full(span(laid), np.nan, values.dtype)
    strides = [stride * flat.itemsize for stride in laid.strides]
    np.lib.stride_tricks.as_strided(flat, laid.shape, strides)[:] = values
    return flat


UNITS = ("gram", "gram_half", "gram_single")


def cases(unit: str) -> list[tuple[str, Callable[[], None]]]:
    """Quick runs that, together, a mutant of a unit must not pass."""
    trials = {
        "gram": [
            Trial(((72, 50), (3, 20)), arch="sm_75", pictures=2, style=True, multiprocessors=4),
            # Slices that not all warps have as many of.
            Trial(((20, 70),), arch="sm_75", multiprocessors=12),
            Trial(((66, 35),), "bfloat16", layout="nhwc", arch="sm_75"),
            Trial(((9, 30),), layout="strided", pictures=2, style=True),
            # So many slices that 32 groups share them, and as many layers as there may be.
            Trial(((20, 16 * 64), *[(3, 16)] * 7), arch="sm_75", pictures=2, multiprocessors=160, style=True),
        ],
        "gram_half": [
            Trial(((72, 456),), "float16", tile=64),
            Trial(((136, 456),), "bfloat16", layout="nhwc", tile=128),
            Trial(((40, 456),), "bfloat16", layout="nhwc", pictures=2, tile=64),
            Trial(((136, 200), (5, 64)), "float16", pictures=2, tile=128, multiprocessors=4),
            Trial(((70, 203),), "bfloat16", layout="padded", tile=64),
            Trial(((70, 100),), "float16", layout="padded_last", tile=128),
            Trial(((30, 150),), "float16", layout="strided"),
            Trial(((30, 150),), "bfloat16", offset=4),
            Trial(((70, 328),), "float16", arch="sm_75", tile=64),
            Trial(((5, 64 * 140),), "float16", tile=128),
            Trial(((5, 129),), "float16", layout="padded", tile=64),  # A step of one place.
            Trial(((130, 8),), "bfloat16", tile=64),  # A third row of tiles.
            # Half a word is left.
            Trial(((21, 71),), "float16", layout="padded", offset=4, arch="sm_75", tile=64),
        ],
        "gram_single": [
            Trial(((72, 228),), tile=64),
            Trial(((136, 100),), layout="nhwc", tile=128),
            Trial(((136, 228),), "float32", "tf32", tile=128),
            Trial(((72, 228),), "float32", "tf32", layout="nhwc", tile=64),
            Trial(((40, 75),), layout="padded", pictures=2),
            Trial(((30, 75),), layout="strided", tile=128),
            Trial(((5, 32 * 400),), tile=64),
            Trial(((5, 64 * 128),), tile=64),  # Slices end where sums would go to memory.
        ],
    }
    return [(str(trial.layers), lambda trial=trial: _pass(trial)) for trial in trials[unit]]


def _pass(trial: Trial) -> None:
    check(trial)
