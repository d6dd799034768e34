# SPDX-License-Identifier: Apache-2.0
"""Global memory: arrays at guarded addresses, with every access checked.

One arena of bytes holds all allocations with gaps between them. Addresses do not fit in 32 bits, so that a pointer
cut short faults too. For one launch, shadow arrays remember which block wrote and which read each granule (the
width of the kernel's smallest access): two blocks that meet there without an atomic in between are a race.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .faults import Fault
from .numbers import Array

BASE = 0x7F00_0000_0000
GAP = 4096
_MANY = -1


@dataclass(frozen=True)
class _Allocation:
    start: int
    bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Memory:
    """Allocations of one test: `put` and `empty` give addresses, `get` reads an array back."""

    def __init__(self) -> None:
        self._allocations: list[_Allocation] = []
        self._starts = np.zeros(0, np.int64)
        self._ends = np.zeros(0, np.int64)
        self._end = GAP
        self._data = np.zeros(1 << 16, np.uint8)
        self._written = np.zeros(1 << 16, np.uint8)
        self.symbols: dict[Any, int] = {}
        self._earlier, self._atomics = np.zeros((2, 0), bool)
        self._writer = np.zeros(0, np.int32)
        self.granule = 4
        self.begin_launch(4, 1)

    def put(self, array: Array, align: int = 256, offset: int = 0) -> int:
        """The address of a copy of `array`, at `offset` bytes past a multiple of `align`."""
        start = self._allocate(array.nbytes, tuple(array.shape), array.dtype, align, offset)
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._data[start : start + array.nbytes] = flat
        self._written[start : start + array.nbytes] = 1
        return BASE + start

    def empty(self, shape: int | tuple[int, ...], dtype: Any, align: int = 256, offset: int = 0) -> int:
        """The address of an array never written: a kernel that reads it before writing faults."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        bytes_ = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start = self._allocate(bytes_, shape, np.dtype(dtype), align, offset)
        self._data[start : start + bytes_] = 0xFF  # NaN in every float format
        return BASE + start

    def get(self, address: int) -> Array:
        """A copy of the array that was put (or reserved) at `address`."""
        for each in self._allocations:
            if each.start == address - BASE:
                raw = self._data[each.start : each.start + each.bytes].copy()
                return raw.view(each.dtype).reshape(each.shape)
        raise KeyError(f"no array was put at {address:#x}")

    def written(self, address: int) -> Array:
        """For each element of the array at `address`: whether all of its bytes were written."""
        for each in self._allocations:
            if each.start == address - BASE:
                flags = self._written[each.start : each.start + each.bytes]
                return flags.reshape(-1, each.dtype.itemsize).all(1).reshape(each.shape)
        raise KeyError(f"no array was put at {address:#x}")

    def _allocate(
        self, count: int, shape: tuple[int, ...], dtype: np.dtype[Any], align: int, offset: int
    ) -> int:
        start = -(-self._end // align) * align + offset
        self._end = start + count + GAP
        if self._end > len(self._data):
            room = max(2 * len(self._data), -(-self._end // 4096) * 4096)
            self._data = np.concatenate([self._data, np.zeros(room - len(self._data), np.uint8)])
            self._written = np.concatenate([self._written, np.zeros(room - len(self._written), np.uint8)])
        self._allocations.append(_Allocation(start, count, shape, dtype))
        self._starts = np.array([a.start + BASE for a in self._allocations], np.int64)
        self._ends = np.array([a.start + a.bytes + BASE for a in self._allocations], np.int64)
        return start

    def begin_launch(self, granule: int, blocks: int, *, follows: bool = False) -> None:
        """Forget who touched what: an earlier launch is over before this one begins, unless this one `follows` it."""
        wrote = np.repeat(self._writer != 0, self.granule)[: self._end] if follows else np.zeros(0, bool)
        wrote = np.pad(wrote, (0, self._end - len(wrote)))
        if follows:
            wrote[: len(self._earlier)] |= self._earlier
        wrote[: len(self._atomics)] |= self._atomics if follows else False
        self._earlier = wrote
        self._earlier_sums = np.concatenate([[0], np.cumsum(wrote)])
        self._atomics = np.zeros(self._end, bool)
        self.granule = granule
        self._writer = np.zeros(0, np.int32)
        self._reader = np.zeros(0, np.int32)
        self._blocks = blocks
        self._seen: dict[int, int] = {}  # for each block, bits of the blocks whose writes it may read
        self._found: dict[int, int] = {}  # the same, of an atomic that no fence has followed yet
        self._released: dict[int, int] = {}
        self._unfenced: set[int] = set()

    def _shadow(self) -> tuple[Array, Array]:
        if len(self._writer) * self.granule < self._end:
            self._writer, self._reader = np.zeros((2, -(-self._end // self.granule)), np.int32)
        return self._writer, self._reader

    def check(self, address: Array, count: int, align: int, what: str) -> Array:
        """Offsets in the arena of `count` bytes at each address, or a fault: alignment, then bounds."""
        if count == 0 or not address.size:
            return address - BASE
        if (address & (align - 1)).any():
            bad = int(address[(address & (align - 1)) != 0][0])
            raise Fault(f"misaligned global {what} of {count} bytes at {bad:#x}")
        place = np.searchsorted(self._starts, address, side="right") - 1
        bad_lanes = (place < 0) | (address + count > self._ends[place]) if len(self._starts) else address >= 0
        if bad_lanes.any():
            lane = int(np.flatnonzero(bad_lanes)[0])
            raise Fault(
                f"global {what} of {count} bytes out of bounds at {self.name(int(address[lane]))}"
                f" ({int(bad_lanes.sum())} thread(s))"
            )
        return address - BASE

    @property
    def size(self) -> int:
        """Bytes of the arena that are in use, gaps and all."""
        return self._end

    def name(self, address: int) -> str:
        """An address as a byte of an array."""
        place = int(np.searchsorted(self._starts, address, side="right")) - 1
        if place < 0:
            return f"{address:#x}, below every allocation"
        each = self._allocations[place]
        return (
            f"{address:#x}: byte {address - BASE - each.start} of an array of {each.bytes} bytes {each.shape}"
        )

    def load(self, address: Array, width: int, count: int, blocks: Array, constant: bool = False) -> Array:
        """(threads, count) unsigned values of `width` bytes; `blocks` says which block each thread is of."""
        offset = self.check(address, width * count, width * count, "load")
        index = (offset // width)[:, None] + np.arange(count)
        unsigned = np.dtype(f"u{width}")
        flags = self._written.view(unsigned)[index]
        full = np.array([1] * width, np.uint8).view(unsigned)[0]
        if (flags != full).any():
            lane = int(np.flatnonzero((flags != full).any(1))[0])
            raise Fault(f"load of uninitialised global memory at {self.name(int(address[lane]))}")
        self._note_read(offset, width * count, blocks, constant)
        return self._data.view(unsigned)[index]

    def store(self, address: Array, values: Array, blocks: Array) -> None:
        """Write (threads, count) unsigned values at each address."""
        width, count = values.dtype.itemsize, values.shape[1]
        offset = self.check(address, width * count, width * count, "store")
        index = (offset // width)[:, None] + np.arange(count)
        self._note_write(offset, width * count, blocks)
        view = self._data.view(values.dtype)
        view[index] = values
        if (view[index] != values).any():
            lane = int(np.flatnonzero((view[index] != values).any(1))[0])
            raise Fault(f"threads store different values to one place, {self.name(int(address[lane]))}")
        self._written.view(values.dtype)[index] = np.array([1] * width, np.uint8).view(values.dtype)[0]

    def of_earlier(self, address: Array, count: Array) -> Array:
        """Whether any of `count` bytes at each address was written by a launch that this one follows."""
        offset = address - BASE
        return np.asarray(self._earlier_sums[offset + count] > self._earlier_sums[offset])

    def note_atomic(self, address: int, width: int) -> None:
        """An atomic has written `width` bytes."""
        self._atomics[address - BASE : address - BASE + width] = True

    def peek(self, address: Array, width: int) -> tuple[Array, Array]:
        """For an atomic: the words' view of the arena and each thread's index in it, checked."""
        offset = self.check(address, width, width, "atomic")
        if not self._written[offset].all():
            raise Fault("atomic on uninitialised global memory")
        return self._data.view(f"u{width}"), offset // width

    def raw(self, address: int, count: int) -> Array:
        """`count` bytes for an asynchronous copy whose bounds the caller keeps; still within one allocation."""
        offset = int(self.check(np.array([address]), count, 1, "copy")[0])
        if not self._written[offset : offset + count].all():
            raise Fault(f"copy of uninitialised global memory at {self.name(address)}")
        return self._data[offset : offset + count]

    # Races between blocks.

    def _granules(self, offset: Array, count: int, blocks: Array) -> tuple[Array, Array]:
        each = max(1, count // self.granule)
        if each == 1:
            return offset // self.granule, blocks + 1
        index = (offset // self.granule)[:, None] + np.arange(each)
        return index.reshape(-1), np.repeat(blocks + 1, each)

    def _note_read(self, offset: Array, count: int, blocks: Array, constant: bool) -> None:
        writer, reader = self._shadow()
        index, block = self._granules(offset, count, blocks)
        wrote = writer[index]
        if constant and wrote.any():
            raise Fault("ld.global.nc of memory that this launch writes: the read-only cache may be stale")
        self._conflict((wrote != 0) & (wrote != block), wrote, block, index, "reads what another block wrote")
        seen = reader[index]
        reader[index] = np.where((seen == 0) | (seen == block), block, _MANY)
        if len(np.unique(blocks)) > 1:  # Two blocks of this very step may have read one granule.
            reader[index[reader[index] != block]] = _MANY

    def _note_write(self, offset: Array, count: int, blocks: Array) -> None:
        writer, reader = self._shadow()
        index, block = self._granules(offset, count, blocks)
        wrote, read = writer[index], reader[index]
        self._conflict(
            (wrote != 0) & (wrote != block), wrote, block, index, "writes what another block wrote"
        )
        self._conflict((read != 0) & (read != block), read, block, index, "writes what another block read")
        writer[index] = block
        if (writer[index] != block).any():
            raise Fault("race between blocks: two write one place at once")
        self._unfenced.update(np.unique(blocks).tolist())

    def _conflict(self, bad: Array, other: Array, block: Array, index: Array, what: str) -> None:
        if not bad.any():
            return
        for lane in np.flatnonzero(bad):
            me, them = int(block[lane]) - 1, int(other[lane])
            seen = self._seen.get(me, 0) | 1 << me
            needed = (1 << self._blocks) - 1 if them == _MANY else 1 << (them - 1)
            if needed & ~seen:
                place = self.name(BASE + int(index[lane]) * self.granule)
                raise Fault(f"race between blocks: block {me} {what} at {place}")

    def fence(self, blocks: Array) -> None:
        """A device-wide fence: orders what these blocks wrote before their next atomics, and their past atomics
        before what they read next."""
        for block in np.unique(blocks).tolist():
            self._unfenced.discard(block)
            self._seen[block] = self._seen.get(block, 0) | self._found.pop(block, 0)

    def synchronise(self, address: int, block: int) -> None:
        """An atomic at `address`: publishes what the block wrote and fenced, and finds what others published."""
        known = self._released.get(address, 0)
        if block not in self._unfenced:
            self._released[address] = known | self._seen.get(block, 0) | 1 << block
        self._found[block] = self._found.get(block, 0) | known
