# SPDX-License-Identifier: Apache-2.0
"""Trials of the kernels of instance normalisation in the interpreter, against float64."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from interpreted import Memory, run
from twins import twin

from gantk.kernels.launch import Launch

Array = np.ndarray[Any, Any]

TYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# Of the largest result: what is left of float32 sums, and the rounding of the result.
TOLERANCE = {"float32": 2e-6, "float16": 6e-4, "bfloat16": 4.5e-3}
BORDERS = ("reflect", "edge", "constant")
EPSILON = 1e-3


@dataclass(frozen=True)
class Trial:
    """One run of a plan.

    Args:
        shape: Of the features, N x rows x columns x channels of a block.
        dtype: Of the features, of what is added and of the result.
        blocks: Pixels along the side of a block of the features, and of the result.
        starts: Of the pictures in the features.
        ends: The same; negative ones count from the end.
        border: One of `BORDERS`.
        pads: Above, left, below, right.
        others: How many rows and columns more what is added has above and to the left, and has below and to the right;
            `None`: nothing is added.
        own: Whether each picture has a scale and an offset of its own.
        normalizes: Or whether pixels are only moved, and rectified with an offset where they are rectified.
        rectifies: Whether negative results become 0.
        mean: Of the features, whose deviation is 1.
        multiprocessors: Few make large chunks.
        offset: Elements that the features lie past a multiple of 16 bytes.
        arch: Whose code is run.
    """

    shape: tuple[int, int, int, int]
    dtype: str = "float16"
    blocks: tuple[int, int] = (1, 1)
    starts: tuple[int, int] = (0, 0)
    ends: tuple[int, int] = (2**63 - 1, 2**63 - 1)
    border: str = "reflect"
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    others: tuple[int, int] | None = None
    own: bool = False
    normalizes: bool = True
    rectifies: bool = True
    mean: float = 0.25
    multiprocessors: int = 2
    offset: int = 0
    arch: str = "sm_80"

    @property
    def label(self) -> str:
        return f"{self.dtype} {'x'.join(map(str, self.shape))} {self.blocks[0]} to {self.blocks[1]} {self.border}"

    @property
    def channels(self) -> int:
        return self.shape[3] // self.blocks[0] ** 2


@dataclass(frozen=True)
class Numbers:
    """What a trial is given; `others` may be empty."""

    features: Array
    others: Array
    scale: Array
    offset: Array


@dataclass(frozen=True)
class Planned:
    """What the C++ of the plan makes of a trial."""

    workspace_bytes: int
    result_shape: tuple[int, ...]
    launches: list[Launch]


class RefusedError(Exception):
    """There is no plan; the text says why."""


def plan(trial: Trial, numbers: Numbers, addresses: tuple[int, ...] = (0,) * 6) -> Planned:
    alignment = 16 if trial.offset == 0 else np.dtype(TYPES[trial.dtype]).itemsize
    others = numbers.others.shape if trial.others is not None else (0,) * 4
    starts = (trial.others[0],) * 2 if trial.others is not None else (0, 0)
    fields = [
        list(TYPES).index(trial.dtype), *trial.shape, *trial.blocks, *trial.starts, *trial.ends,
        BORDERS.index(trial.border), *trial.pads, *others, *starts, int(trial.own), int(trial.normalizes),
        int(trial.rectifies), EPSILON,
        alignment, trial.multiprocessors, *addresses,
    ]  # fmt: skip
    line = " ".join(map(str, fields))
    program = twin("instance_norm_plan")
    said = subprocess.run([program], input=line, capture_output=True, text=True, check=True).stdout.strip()
    if said.startswith("refused"):
        raise RefusedError(said.partition(": ")[2])
    words = said.split()
    launches = [launch_of(words[start : start + 9]) for start in range(5, len(words), 9)]
    return Planned(int(words[0]), tuple(map(int, words[1:5])), launches)


def launch_of(words: list[str]) -> Launch:
    """A launch, as programs that plan in C++ print it: unit, kernel, grid, block, dependent, parameters."""
    unit, kernel, *sizes, dependent, parameters = words
    grid, block = tuple(map(int, sizes[:3])), (*map(int, sizes[3:]), 1)
    data = bytes.fromhex(parameters)

    class Parameters(ctypes.Structure):
        _fields_ = (("bytes", ctypes.c_uint64 * (len(data) // 8)),)

    given = Parameters.from_buffer_copy(data)
    return Launch(unit, kernel, grid, block, 0, given, dependent=dependent == "1")  # type: ignore[arg-type]


def numbers_of(trial: Trial) -> Numbers:
    rng = np.random.default_rng(sum(trial.shape))
    dtype = TYPES[trial.dtype]
    features = (rng.standard_normal(trial.shape) + trial.mean).astype(dtype)
    n, c = trial.shape[0], trial.channels
    others = np.zeros((0,) * 4, dtype)
    if trial.others is not None:
        high, wide = pictures_of(trial, features.astype(np.float64)).shape[1:3]
        more = sum(trial.others)
        others = rng.standard_normal((n, high + more, wide + more, c)).astype(dtype)
    shape = (n, c) if trial.own else (c,)
    return Numbers(
        features, others, rng.uniform(0.5, 1.5, shape).astype(np.float32),
        rng.standard_normal(shape).astype(np.float32),
    )  # fmt: skip


def execute(trial: Trial, numbers: Numbers) -> Array:
    """The result, as the kernels leave it; fails where a part of it is not written."""
    planned = plan(trial, numbers)
    memory = Memory()
    dtype = np.dtype(TYPES[trial.dtype])
    addresses = (
        memory.put(numbers.features, offset=trial.offset * dtype.itemsize),
        memory.put(numbers.others) if numbers.others.size else 0,
        memory.empty(planned.result_shape, dtype),
        memory.put(numbers.scale),
        memory.put(numbers.offset) if trial.normalizes or trial.rectifies else 0,
        memory.empty(planned.workspace_bytes // 4, np.float32),
    )
    run(plan(trial, numbers, addresses).launches, memory, trial.arch)
    assert memory.written(addresses[2]).all(), "not all of the result is written"
    return memory.get(addresses[2])


def check(trial: Trial) -> None:
    """Run a trial and compare it with float64."""
    numbers = numbers_of(trial)
    made, wanted = execute(trial, numbers).astype(np.float64), reference(trial, numbers)
    assert made.shape == wanted.shape
    # A mean that is large against the deviation takes digits from it: those of float32 that it has itself.
    tolerance = TOLERANCE[trial.dtype] + 2.0**-23 * abs(trial.mean)
    error = np.abs(made - wanted).max() / np.abs(wanted).max()
    assert error <= tolerance, f"{error:.2e} of the largest result; {tolerance:.2e} is allowed"


def pictures_of(trial: Trial, features: Array) -> Array:
    """The pictures in the features, [N, H, W, C]."""
    n, rows, columns, _ = features.shape
    block = trial.blocks[0]
    cells = features.reshape(n, rows, columns, block, block, trial.channels)
    pixels = cells.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows * block, columns * block, trial.channels)
    (top, left), (bottom, right) = trial.starts, trial.ends
    found: Array = pixels[:, top:bottom, left:right]
    return found


def reference(trial: Trial, numbers: Numbers) -> Array:
    """The result in float64."""
    pictures = pictures_of(trial, numbers.features.astype(np.float64))
    mean, variance = pictures.mean((1, 2), keepdims=True), pictures.var((1, 2), keepdims=True)
    scale, offset = (each.reshape(-1, 1, 1, trial.channels) for each in (numbers.scale, numbers.offset))
    if trial.normalizes:
        result = (pictures - mean) / np.sqrt(variance + EPSILON) * scale + offset
    else:
        result = pictures + offset if trial.rectifies else pictures
    if trial.others is not None:
        above, below = trial.others
        high, wide = numbers.others.shape[1] - below, numbers.others.shape[2] - below
        result = result + numbers.others.astype(np.float64)[:, above:high, above:wide]
    if trial.rectifies:
        result = np.maximum(result, 0)
    above, before, below, after = trial.pads
    how = {"reflect": "reflect", "edge": "edge", "constant": "constant"}[trial.border]
    framed = np.pad(result, ((0, 0), (above, below), (before, after), (0, 0)), how)  # type: ignore[call-overload]
    block = trial.blocks[1]
    n, high, wide, channels = framed.shape
    whole = np.pad(framed, ((0, 0), (0, -high % block), (0, -wide % block), (0, 0)))
    cells = whole.reshape(n, -(-high // block), block, -(-wide // block), block, channels).transpose(
        0, 1, 3, 2, 4, 5
    )
    return cells.reshape(n, *cells.shape[1:3], block * block * channels)


def cases(unit: str) -> list[tuple[str, Callable[[], None]]]:
    """Quick runs that, together, a mutant of `instance_norm.cu` must not pass."""
    assert unit == "instance_norm"
    trials = [
        Trial((2, 9, 7, 32)),
        Trial((1, 6, 5, 128), others=(1, 1), rectifies=False, multiprocessors=8),
        Trial((1, 5, 6, 4 * 16), blocks=(2, 1), starts=(1, 1), ends=(-1, -1), border="edge"),
        Trial((1, 4, 5, 16 * 8), blocks=(4, 4), ends=(13, 18), pads=(4, 4, 4, 4), own=True),
        Trial((2, 7, 6, 12), "float32", others=(0, 2), rectifies=False, border="constant", own=True),
        Trial((1, 9, 8, 5), "float32", pads=(0, 2, 3, 1)),
        Trial((2, 5, 4, 3), "bfloat16", arch="sm_75"),
        Trial((1, 7, 9, 16), "bfloat16", blocks=(1, 2), pads=(0, 0, 0, 0)),
        Trial((1, 3, 3, 2056), multiprocessors=3),
        Trial((1, 6, 6, 16), offset=1),
        Trial((1, 40, 30, 8), "float32", mean=300.0, rectifies=False),
        Trial((1, 1, 1, 8), pads=(0, 0, 0, 0)),
        Trial((2, 6, 5, 3), blocks=(1, 4), pads=(4, 4, 4, 4), normalizes=False, rectifies=False),
        Trial((2, 6, 5, 24), pads=(0, 0, 0, 0), normalizes=False),
        Trial((1, 2, 100, 24), "float16", pads=(0, 0, 0, 0)),
        Trial((1, 17, 16, 2048), pads=(0, 0, 0, 0), multiprocessors=20),
        # More chunks than `finish` reads at once.
        Trial((1, 68, 34, 256), pads=(0, 0, 0, 0), offset=1, multiprocessors=160),
    ]
    return [(trial.label, partial(check, trial)) for trial in trials]
