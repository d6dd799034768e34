# SPDX-License-Identifier: Apache-2.0
"""The partial kernels of the Gram matrix and what each is good for. Twin of `gantk/kernels/gram_variants.hpp`.

A variant sums tiles of the lower triangle over slices of the places. To add one: a row in `variant_of`, the kernel in
a unit of `kernels/cuda`, and its cost. Every variant writes whole tiles, row by row, so that one reduce kernel serves
all of them; sums above the diagonal of a diagonal tile, or outside of the matrix, need not be written.
"""

from __future__ import annotations

from dataclasses import dataclass

from gantk.errors import UsageError
from gantk.kernels.launch import ELEMENT_BYTES, PRECISIONS, Device, Features

STEP_BYTES = 128  # Of a channel, in one step of a kernel on tensor cores.
FEWEST_EXACT = 64  # Places. With fewer, 3xTF32 is less exact than plain float32 sums.


@dataclass(frozen=True)
class Variant:
    """One partial kernel.

    Args:
        unit: The source file that has it.
        kernel: Its name.
        tile: Rows and columns of a block's sums.
        step: Places that a block takes at a time; slices are multiples.
        threads: Of a block.
        stage_bytes: Shared memory of one strip (`tile` channels, `step` places) in all stages; twice as much where
            a launch has tiles beside the diagonal. 0: the kernel needs no dynamic shared memory.
        resident: Blocks that a multiprocessor is meant to hold at once.
        place_ps: Picoseconds of a place of a tile when a multiprocessor is full; from the rates of an H100, only to
            weigh plans against each other.
        lone_place_ps: The same for a block that has a multiprocessor to itself and waits for memory.
    """

    unit: str
    kernel: str
    tile: int
    step: int
    threads: int
    stage_bytes: int
    resident: int
    place_ps: int
    lone_place_ps: int


NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
# Tile: what a place costs, full and alone. 16-bit features are bound by memory, 3xTF32 by tensor cores.
_COSTS = {
    "f16": {64: (5000, 10000), 128: (9000, 12000)},
    "bf16": {64: (5000, 10000), 128: (9000, 12000)},
    "tf32": {64: (10000, 20000), 128: (18000, 24000)},
    "exact": {64: (13000, 25000), 128: (50000, 55000)},
}


def variant_of(features: Features, device: Device, precision: str, tile: int) -> Variant:
    """The kernel for features.

    Args:
        features: Of one layer.
        device: The GPU.
        precision: Of float32 features, one of `PRECISIONS`; that of others is their own.
        tile: 64 or 128, which kernels on tensor cores have; the other is always 64.

    Raises:
        UsageError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"the precision is {precision!r}; allowed are {', '.join(PRECISIONS)}")
    name = NAMES[features.dtype]
    if not _has_tensor_cores(features, device, precision):
        return Variant("gram", f"gantk_gram_simt_{name}", 64, 16, 128, 0, 3, 20000, 40000)
    math = precision if features.dtype == "float32" else name
    layout = "nhwc" if is_channels_last(features) else "nchw"
    stages = 3 if device.compute_capability >= (8, 0) else 2
    return Variant(
        unit="gram_half" if ELEMENT_BYTES[features.dtype] == 2 else "gram_single",
        kernel=f"gantk_gram_{math}_{layout}_{tile}",
        tile=tile,
        step=STEP_BYTES // ELEMENT_BYTES[features.dtype],
        threads=2 * tile,
        stage_bytes=stages * tile * STEP_BYTES,
        resident=128 // tile if math == "exact" else 256 // tile,
        place_ps=_COSTS[math][tile][0],
        lone_place_ps=_COSTS[math][tile][1],
    )


def is_channels_last(features: Features) -> bool:
    """Whether channels rather than places are read as neighbours."""
    return features.strides[1] < features.strides[2]


def is_vectorised(features: Features, size: int = 16) -> bool:
    """Whether every row is dense and begins at a multiple of `size` bytes, so that it is read in such pieces."""
    dense, rows = (1, 2) if is_channels_last(features) else (2, 1)
    pitches = [features.strides[axis] for axis in (0, rows) if features.shape[axis] > 1]
    is_dense = features.strides[dense] == 1 or features.shape[dense] == 1
    even = all(pitch * ELEMENT_BYTES[features.dtype] % size == 0 for pitch in pitches)
    return features.alignment >= size and is_dense and even


def _has_tensor_cores(features: Features, device: Device, precision: str) -> bool:
    if features.dtype == "float16":
        return device.compute_capability >= (7, 5)
    if features.dtype == "float32" and precision == "exact" and features.shape[2] < FEWEST_EXACT:
        return False
    return device.compute_capability >= (8, 0)
