# SPDX-License-Identifier: Apache-2.0
"""What a plan is made from and what it yields: a device, features, launches. Twin of `gantk/kernels/launch.hpp`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from gantk.errors import GantkError

ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PRECISIONS = ("exact", "tf32")  # Of float32 features: as float32 sums would have them, or rounded to TF32.
Extent = tuple[int, int, int]


@dataclass(frozen=True)
class Device:
    """What a plan knows of a GPU.

    Args:
        compute_capability: (major, minor).
        multiprocessors: How many.
        shared_bytes: What one block may have at most, opted in.
    """

    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int


@dataclass(frozen=True)
class Features:
    """Features of shape (N, C, K), where K stands for H * W, and how they lie in memory.

    Args:
        dtype: One of `ELEMENT_BYTES`.
        shape: (N, C, K), each at least 1.
        strides: Between pictures, channels and places, in elements.
        alignment: The largest power of two, up to 16, that divides the address of the first element.
    """

    dtype: str
    shape: tuple[int, int, int]
    strides: tuple[int, int, int]
    alignment: int = 16

    def __post_init__(self) -> None:
        if self.dtype not in ELEMENT_BYTES:
            raise GantkError(f"features are {self.dtype}; the kernels take {', '.join(ELEMENT_BYTES)}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GantkError(f"features have shape {list(self.shape)}; N x C x K is wanted, each at least 1")
        if min(self.strides) < 0:
            raise GantkError(f"features have strides {list(self.strides)}; none may be negative")
        if self.alignment not in (1, 2, 4, 8, 16) or self.alignment < ELEMENT_BYTES[self.dtype]:
            raise GantkError(
                f"features are aligned to {self.alignment} bytes; at least {ELEMENT_BYTES[self.dtype]} are wanted"
            )

    @classmethod
    def contiguous(cls, dtype: str, pictures: int, channels: int, places: int) -> Features:
        """Features as PyTorch lays them out by default (NCHW)."""
        return cls(dtype, (pictures, channels, places), (channels * places, places, 1))

    @classmethod
    def channels_last(cls, dtype: str, pictures: int, channels: int, places: int) -> Features:
        """Features whose channels are neighbours (NHWC)."""
        return cls(dtype, (pictures, channels, places), (channels * places, 1, channels))


@dataclass(frozen=True)
class TensorMap:
    """A CUtensorMap that the front end encodes into the parameters before the launch.

    Args:
        offset: In the parameters, in bytes, a multiple of 64.
        address: Of the tensor.
        element: One of `ELEMENT_BYTES`, or tfloat32: float32 that the copy rounds to TF32.
        sizes: Innermost first, in elements.
        strides_bytes: Of every dimension but the innermost.
        box: Innermost first, in elements.
        swizzle: In bytes: 0, 32, 64 or 128.
    """

    offset: int
    address: int
    element: str
    sizes: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int = 128


@dataclass(frozen=True)
class Launch:
    """One kernel launch, ready for cuLaunchKernel.

    Args:
        unit: The source file, without its extension.
        kernel: The name of an ``extern "C"`` kernel in it.
        grid: Blocks.
        block: Threads.
        shared_bytes: Dynamic shared memory; above 48 KiB it wants opting in.
        parameters: The kernel's only argument, by value.
        tensor_maps: To be encoded into the parameters first.
        dependent: It waits by itself for the launch before it, and may come before that has ended (CUDA C++
            Programming Guide, Programmatic Dependent Launch).
    """

    unit: str
    kernel: str
    grid: Extent
    block: Extent
    shared_bytes: int
    parameters: ctypes.Structure
    tensor_maps: tuple[TensorMap, ...] = ()
    dependent: bool = False
