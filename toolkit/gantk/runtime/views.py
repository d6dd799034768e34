# SPDX-License-Identifier: Apache-2.0
"""Other libraries' arrays in GPU memory, seen without a copy and in the order of the caller's stream."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gantk.errors import GantkError
from gantk.runtime import dlpack

_TYPES = {
    "<f8": "float64",
    "<f4": "float32",
    "<f2": "float16",
    "<i8": "int64",
    "<i4": "int32",
    "|i1": "int8",
    "|u1": "uint8",
    "|b1": "bool",
}

LEGACY_STREAM = 1
"""The handle of the default stream in both protocols, which forbid the 0 that stands for it elsewhere."""


def on_gpu(value: Any) -> bool:
    """Whether something is an array in GPU memory."""
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[0]) in (dlpack.CUDA, dlpack.CUDA_MANAGED)
    return hasattr(value, "__cuda_array_interface__")


@dataclass(frozen=True)
class View:
    """An array in GPU memory.

    Args:
        name: What the caller calls it, for messages.
        address: Of its first element.
        shape: In elements.
        strides: In elements.
        dtype: E.g. ``float32`` or ``bfloat16``.
        item_bytes: Of an element.
        ordinal: The GPU whose memory it is.
        read_only: Whether its owner forbids writing.
        owner: Keeps the memory alive.
    """

    name: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    item_bytes: int
    ordinal: int
    read_only: bool = False
    owner: object = None

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"

    @cached_property
    def span(self) -> tuple[int, int]:
        """The first address of its memory and the one after its last."""
        item = self.item_bytes
        steps = [(size - 1) * stride * item for size, stride in zip(self.shape, self.strides, strict=True)]
        first = self.address + sum(step for step in steps if step < 0)
        return first, self.address + sum(step for step in steps if step > 0) + item

    def is_contiguous(self) -> bool:
        """Whether elements lie as in C, whatever the strides of axes of one element."""
        return self._lies_as(dense(self.shape))

    def is_channels_last(self) -> bool:
        """Whether these are pictures [N, C, H, W] whose channels are neighbours, and that do not lie as in C."""
        if len(self.shape) != 4 or self.is_contiguous():
            return False
        return self._lies_as(channels_last(self.shape))

    def _lies_as(self, strides: tuple[int, ...]) -> bool:
        every = zip(self.shape, self.strides, strides, strict=True)
        return all(size == 1 or stride == wanted for size, stride, wanted in every)

    def overlaps(self, other: View) -> bool:
        (first, end), (other_first, other_end) = self.span, other.span
        return self.ordinal == other.ordinal and first < other_end and other_first < end

    @property
    def alignment(self) -> int:
        """The largest power of two, up to 16, that divides the address."""
        return math.gcd(self.address, 16)


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of an array that lies as in C, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of pictures [N, C, H, W] whose channels are neighbours."""
    _, c, h, w = shape
    return (c * h * w, 1, w * c, c)


@dataclass(frozen=True)
class Reader:
    """Sees arrays for one stream; how a GPU is asked is left to who makes it.

    Args:
        stream: The caller's handle, never 0.
        owner_of: The GPU whose memory an address is in.
        wait_for: Lets the stream wait for another, given by its handle, on a GPU.
        hint: What to do with an array that is not in GPU memory.
        alignment: What addresses must be a multiple of, in bytes.
    """

    stream: int
    owner_of: Callable[[int], int]
    wait_for: Callable[[int, int], None]
    hint: str
    alignment: int = 1

    def view(self, value: Any, name: str) -> View:
        """See an array of another library, whose work on it is done before what the stream gets next.

        Args:
            value: Anything with ``__dlpack__`` or ``__cuda_array_interface__``; the former is asked first, since it
                alone has bfloat16 and always tells of streams.
            name: For messages.

        Raises:
            GantkError: It is no array, is not in GPU memory, or cannot be seen.
        """
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
            return self._from_dlpack(value, name)
        if hasattr(value, "__cuda_array_interface__"):
            return self._from_interface(value, name)
        kind = type(value)
        raise GantkError(
            f"{name} is a {kind.__module__}.{kind.__qualname__}; an array in GPU memory is wanted, with __dlpack__ or "
            "__cuda_array_interface__",
            hint=self.hint,
        )

    def _from_dlpack(self, value: Any, name: str) -> View:
        kind, ordinal = value.__dlpack_device__()
        if int(kind) not in (dlpack.CUDA, dlpack.CUDA_MANAGED):
            raise GantkError(
                f"{name} is a {type(value).__name__} outside of GPU memory (DLPack device {int(kind)})",
                hint=self.hint,
            )
        try:
            try:
                capsule = value.__dlpack__(stream=self.stream, max_version=dlpack.VERSION)
            except TypeError:  # A producer from before DLPack 1.
                capsule = value.__dlpack__(stream=self.stream)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise GantkError(f"{name} cannot be seen as an array: {error}") from error
        tensor, flags = dlpack.read(capsule)
        shape = tuple(tensor.shape[: tensor.ndim])
        return View(
            name=name,
            address=(tensor.data or 0) + tensor.byte_offset,
            shape=shape,
            strides=tuple(tensor.strides[: tensor.ndim]) if tensor.strides else dense(shape),
            dtype=str(tensor.dtype),
            item_bytes=-(-tensor.dtype.bits * tensor.dtype.lanes // 8),
            ordinal=int(ordinal),
            read_only=bool(flags & dlpack.READ_ONLY),
            owner=(value, capsule),
        )

    def _from_interface(self, value: Any, name: str) -> View:
        """By the CUDA Array Interface, version 2 or 3."""
        try:
            found = value.__cuda_array_interface__
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise GantkError(f"{name} cannot be seen as an array: {error}") from error
        if found.get("mask") is not None:
            raise GantkError(f"{name} has a mask; an array without one is wanted")
        shape, typestr = tuple(found["shape"]), str(found["typestr"])
        item = int(typestr[2:])
        address, read_only = found["data"]
        strides = dense(shape)
        if found.get("strides") is not None:
            if any(stride % item for stride in found["strides"]):
                raise GantkError(
                    f"{name} has strides of {found['strides']} bytes; multiples of {item} are wanted"
                )
            strides = tuple(stride // item for stride in found["strides"])
        ordinal = self.owner_of(address) if address else 0  # Arrays without elements have no address.
        if found.get("stream") is not None:
            self.wait_for(found["stream"], ordinal)
        return View(
            name=name,
            address=address or 0,
            shape=shape,
            strides=strides,
            dtype=_TYPES.get(typestr, f"numpy type {typestr}"),
            item_bytes=item,
            ordinal=ordinal,
            read_only=bool(read_only),
            owner=value,
        )
