# SPDX-License-Identifier: Apache-2.0
"""Global memory between the warps of one block: they too need a barrier where they meet.

Each granule remembers the warp that wrote it last and one that read it since, with the clocks of `SharedMemory`, which
barriers and waits carry from warp to warp. Of several readers the last is known alone.
"""

from __future__ import annotations

import numpy as np

from .faults import Fault
from .memory import BASE, Memory
from .numbers import Array
from .shared import SharedMemory


class _Touched:
    """Who touched each granule last: the block's number in the grid plus one, its warp, and that warp's clock."""

    def __init__(self, granules: int) -> None:
        self.block = np.zeros(granules, np.int32)
        self.warp = np.zeros(granules, np.int16)
        self.clock = np.zeros(granules, np.int32)


class WarpOrder:
    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared

    def begin_launch(self, memory: Memory) -> None:
        """Forget who touched what."""
        self._memory, self._granule = memory, memory.granule
        self._wrote, self._read = (_Touched(-(-memory.size // self._granule)) for _ in range(2))

    def note_read(self, address: Array, count: int, linear: Array, block: Array, warp: Array) -> None:
        """Threads read `count` bytes at each address: of the blocks `linear` of the grid, `block` of those that run."""
        index, linear, block, warp = self._spread(address, count, linear, block, warp)
        self._conflict(self._wrote, index, linear, block, warp, "reads what warp {} wrote")
        self._note(self._read, index, linear, block, warp)

    def note_write(self, address: Array, count: int, linear: Array, block: Array, warp: Array) -> None:
        """The same for a write."""
        index, linear, block, warp = self._spread(address, count, linear, block, warp)
        self._conflict(self._wrote, index, linear, block, warp, "overwrites what warp {} wrote")
        self._conflict(self._read, index, linear, block, warp, "overwrites what warp {} may still read")
        self._note(self._wrote, index, linear, block, warp)

    def _spread(self, address: Array, count: int, *lanes: Array) -> tuple[Array, ...]:
        index, each = (
            self._memory.check(address, 1, 1, "access") // self._granule,
            max(1, count // self._granule),
        )
        if each == 1:
            return index, *lanes
        return (index[:, None] + np.arange(each)).reshape(-1), *(np.repeat(lane, each) for lane in lanes)

    def _conflict(
        self, touched: _Touched, index: Array, linear: Array, block: Array, warp: Array, what: str
    ) -> None:
        other = touched.warp[index]
        unseen = self._shared.clock[block, warp, other] < touched.clock[index]
        bad = np.flatnonzero(unseen & (touched.block[index] == linear + 1))
        if bad.size:
            first = int(bad[0])
            place = self._memory.name(BASE + int(index[first]) * self._granule)
            raise Fault(
                f"race of warps in global memory: warp {int(warp[first])} {what.format(int(other[first]))}, "
                f"without a barrier in between, at {place}"
            )

    def _note(self, touched: _Touched, index: Array, linear: Array, block: Array, warp: Array) -> None:
        touched.block[index], touched.warp[index] = linear + 1, warp
        touched.clock[index] = self._shared.clock[block, warp, warp]
