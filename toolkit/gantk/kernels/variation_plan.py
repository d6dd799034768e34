# SPDX-License-Identifier: Apache-2.0
"""Chooses kernel, bands and grid of the total variation. Twin of `gantk/kernels/variation_plan.hpp`.

A thread owns a column, one pixel wide or a pack of 16 bytes, of one channel; a block owns 128 neighbouring columns and
walks down a band of rows. The value of a picture is the sum of its blocks' sums, in a fixed order.

Memory is the bound: P pixels of b bytes want P * b bytes read, with the gradient P * b more written. A band of R rows
reads one row more, with the gradient two, mostly from the second-level cache, where a neighbour has just put it. A
thread of packs has 4 rows of 16 bytes under way, a block 8 KiB. An H200 wants 32 KiB a multiprocessor for 4.2 TB/s at a
latency of 1 us, and memory that is busy takes longer: with four blocks it reached 3.3 TB/s, warm, where a copy reaches
4.2 (`benchmarks/results/kernels-h200.json`). So there are as many blocks as fit at once, by the bounds that the kernels
are compiled for, and bands are as high as leaves so many, 2 to 64 rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gantk.errors import GantkError, UsageError
from gantk.kernels.launch import ELEMENT_BYTES, Device, Extent, Launch
from gantk.kernels.parameters import VARIATION_THREADS, VariationParameters

KINDS = ("l1", "l2", "isotropic")  # As `VariationParameters.kind` counts them.

_Four = tuple[int, int, int, int]
_PACK_BYTES = 16
_MOST_PIXELS = 2**48  # Far above any memory, and far below what 64-bit offsets hold.
_MOST_BLOCKS, _MOST_ALONG = 2**31 - 1, 65535  # Of a grid, in x and in y and z.
_FEWEST_ROWS, _MOST_ROWS = 2, 64
# Blocks a multiprocessor: of packs as many as fit, of single pixels, with fewer bytes under way, in turns.
_BLOCKS_OF_PACKS, _BLOCKS_OF_PACKS_WITH_GRADIENT, _BLOCKS_OF_PIXELS = 8, 5, 16
_SMALLEST_EPS, _LARGEST_EPS = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # float32's normal numbers.


@dataclass(frozen=True)
class Pictures:
    """Pictures of shape (N, C, H, W) and how they lie in memory.

    Args:
        dtype: One of `ELEMENT_BYTES`.
        shape: (N, C, H, W), each at least 1.
        strides: Between pictures, channels, rows and columns, in elements.
        alignment: The largest power of two, up to 16, that divides the address of the first element.
    """

    dtype: str
    shape: _Four
    strides: _Four
    alignment: int = 16

    def __post_init__(self) -> None:
        if self.dtype not in ELEMENT_BYTES:
            raise GantkError(f"pictures are {self.dtype}; the kernels take {', '.join(ELEMENT_BYTES)}")
        if len(self.shape) != 4 or min(self.shape) < 1:
            raise GantkError(
                f"pictures have shape {list(self.shape)}; N x C x H x W is wanted, each at least 1"
            )
        if len(self.strides) != 4 or min(self.strides) < 0:
            raise GantkError(f"pictures have strides {list(self.strides)}; four are wanted, none negative")
        if self.alignment not in (1, 2, 4, 8, 16) or self.alignment < ELEMENT_BYTES[self.dtype]:
            raise GantkError(
                f"pictures are aligned to {self.alignment} bytes; at least {ELEMENT_BYTES[self.dtype]} are wanted"
            )
        spans = [size * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        if max(math.prod(self.shape), *spans) > _MOST_PIXELS:
            raise GantkError(
                f"pictures of shape {list(self.shape)} and strides {list(self.strides)} span more than 2^48 elements"
            )

    @classmethod
    def contiguous(cls, dtype: str, *shape: int) -> Pictures:
        """Pictures as PyTorch lays them out by default (NCHW)."""
        n, c, h, w = shape
        return cls(dtype, (n, c, h, w), (c * h * w, h * w, w, 1))

    @classmethod
    def channels_last(cls, dtype: str, *shape: int) -> Pictures:
        """Pictures whose channels are neighbours (NHWC)."""
        n, c, h, w = shape
        return cls(dtype, (n, c, h, w), (c * h * w, 1, w * c, c))


@dataclass(frozen=True)
class VariationPlan:
    """How to launch the total variation of pictures of one shape and layout.

    Args:
        kernel: Its name.
        grid: Blocks of a picture; pictures along y and z.
        workspace_bytes: Wanted for the blocks' sums, with any content.
        counters: How many 32-bit zeros a single launch wants; 0 where one launch is enough without.
        parameters: All but the addresses, as bytes.
    """

    kernel: str
    grid: Extent
    workspace_bytes: int
    counters: int
    parameters: bytes

    def launches(
        self, pictures: int, value: int, gradient: int = 0, workspace: int = 0, counters: int = 0
    ) -> tuple[Launch, ...]:
        """One launch, or two where the sums want a second.

        Args:
            pictures: Address of the first element.
            value: Address of float32[N].
            gradient: Address of the gradient; 0 where the plan is for the value alone.
            workspace: Address of `workspace_bytes` bytes, a multiple of 4.
            counters: Address of `counters` 32-bit zeros, which every launch leaves zero. The caller zeroes them once,
                when it makes them; launches that may run at the same time must not share them. 0: sum in a second
                launch instead, to the same bits.
        """
        filled = VariationParameters.from_buffer_copy(self.parameters)
        filled.pictures, filled.gradient, filled.value = pictures, gradient, value
        filled.partials = workspace
        filled.counters = counters if self.counters else 0
        block = (VARIATION_THREADS, 1, 1)
        first = Launch("variation", self.kernel, self.grid, block, 0, filled)
        if self.counters == 0 or counters:
            return (first,)
        each = (1, *self.grid[1:])
        return first, Launch("variation", "gantk_variation_finish", each, block, 0, filled, dependent=True)


def plan_variation(
    pictures: Pictures, kind: str, eps: float, device: Device, gradient: Pictures | None = None
) -> VariationPlan:
    """Plan the variation of pictures, and with `gradient` their gradient in the same pass.

    Args:
        pictures: What is read.
        kind: One of `KINDS`, which `gantk.ops.total_variation` describes.
        eps: Above 0, for ``isotropic`` alone. What float32 cannot hold as a normal number becomes the nearest.
        device: What it will run on.
        gradient: How the gradient will lie, of the shape and type of the pictures; `None` for the value alone.

    Raises:
        UsageError: Another kind, or an eps that is no number above 0.
        GantkError: A gradient of another shape or type, or more pictures than a grid has blocks.
    """
    if kind not in KINDS:
        raise UsageError(f"the kind of total variation is {kind!r}; allowed are {', '.join(KINDS)}")
    if kind == "isotropic" and not (math.isfinite(eps) and eps > 0):
        raise UsageError(f"eps is {eps}; a number above 0 is wanted")
    into = pictures if gradient is None else gradient
    if (into.shape, into.dtype) != (pictures.shape, pictures.dtype):
        raise GantkError(
            f"the gradient is {into.dtype}{list(into.shape)}; {pictures.dtype}{list(pictures.shape)} is wanted"
        )
    if _turned(pictures):
        pictures, into = _turn(pictures), _turn(into)
    packs = _packed(pictures) and _packed(into)
    batch, channels, height, width = pictures.shape
    columns = channels * width // (_pack(pictures) if packs else 1)
    column_blocks = _divided_up(columns, VARIATION_THREADS)
    each = _BLOCKS_OF_PIXELS
    if packs:
        each = _BLOCKS_OF_PACKS if gradient is None else _BLOCKS_OF_PACKS_WITH_GRADIENT
    rows = _rows_of_a_band(height, column_blocks * batch, each * device.multiprocessors)
    blocks = column_blocks * _divided_up(height, rows)
    if blocks > _MOST_BLOCKS or batch > _MOST_ALONG**2:
        raise GantkError(f"pictures of shape {list(pictures.shape)} want more blocks than a grid has")
    parameters = VariationParameters(
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        picture_strides=pictures.strides,
        gradient_strides=into.strides,
        columns=columns,
        blocks=blocks,
        column_blocks=column_blocks,
        rows=rows,
        channels_fastest=channels > 1 and width > 1 and pictures.strides[1] < pictures.strides[3],
        kind=KINDS.index(kind),
        eps=min(max(eps, _SMALLEST_EPS), _LARGEST_EPS) if kind == "isotropic" else 0.0,
    )
    return VariationPlan(
        kernel=_kernel(kind, pictures.dtype, packs, gradient is not None),
        grid=(blocks, min(batch, _MOST_ALONG), _divided_up(batch, _MOST_ALONG)),
        workspace_bytes=4 * batch * blocks if blocks > 1 else 0,
        counters=batch if blocks > 1 else 0,
        parameters=bytes(parameters),
    )


def _kernel(kind: str, dtype: str, packs: bool, gradient: bool) -> str:
    rows = f"{kind}_packed" if packs else "strided"
    return f"gantk_variation_{rows}_{dtype}{'_gradient' if gradient else ''}"


def _rows_of_a_band(height: int, across: int, blocks: int) -> int:
    """As many as leave enough blocks, in bands of nearly the same height; `across` counts blocks beside each other."""
    bands = max(1, blocks // across)
    rows = min(max(_divided_up(height, bands), _FEWEST_ROWS), _MOST_ROWS)
    return _divided_up(height, _divided_up(height, rows))


def _turned(pictures: Pictures) -> bool:
    """Whether height and width are to be exchanged: neighbouring threads are to read what lies side by side."""
    _, _, height, width = pictures.shape
    if width == 1:
        return height > 1
    return height > 1 and pictures.strides[2] < pictures.strides[3]


def _turn(pictures: Pictures) -> Pictures:
    (n, c, h, w), (by_n, by_c, by_h, by_w) = pictures.shape, pictures.strides
    return Pictures(pictures.dtype, (n, c, w, h), (by_n, by_c, by_w, by_h), pictures.alignment)


def _pack(pictures: Pictures) -> int:
    """Elements of 16 bytes."""
    return _PACK_BYTES // ELEMENT_BYTES[pictures.dtype]


def _packed(pictures: Pictures) -> bool:
    """Whether every row is a whole number of aligned packs."""
    pack = _pack(pictures)
    apart = [
        stride for size, stride in zip(pictures.shape[:3], pictures.strides[:3], strict=True) if size > 1
    ]
    return (
        pictures.alignment >= _PACK_BYTES
        and pictures.strides[3] == 1
        and pictures.shape[3] % pack == 0
        and all(stride % pack == 0 for stride in apart)
    )


def _divided_up(a: int, b: int) -> int:
    return -(-a // b)
