# SPDX-License-Identifier: Apache-2.0
"""Shared memory of the resident blocks, with vector clocks that find races of warps and of asynchronous copies.

Who may touch shared memory is an *agent*: each warp; the cp.async engine of each warp; the wgmma engine of each
warp group; and one agent for every mbarrier, which stands for the bulk copies that complete on it. Each warp keeps
a vector clock: how far it has seen every agent. An access is stamped with its agent's clock, and a later access by
a warp that has not seen that stamp is a race. Barriers, mbarriers and waits are what make warps see.

Within one warp, a thread that reads what another thread wrote needs a barrier or `__syncwarp` in between as well.
"""

from __future__ import annotations

import numpy as np

from .faults import Fault
from .numbers import Array

MBARRIERS = 64


class SharedMemory:
    def __init__(self, blocks: int, size: int, granule: int, warps: int, mbarriers: bool) -> None:
        self.blocks, self.size, self.granule, self.warps = blocks, size, granule, warps
        self.stride = max(1024, -(-size // 1024) * 1024)
        self.groups = -(-warps // 4)
        self.readers = warps + self.groups
        self.copy_agent = self.readers  # + warp
        self.barrier_agent = self.copy_agent + warps  # + number of the mbarrier
        self.agents = self.barrier_agent + (MBARRIERS if mbarriers else 0)
        self.data = np.empty(blocks * self.stride, np.uint8)
        granules = len(self.data) // granule
        self.writer = np.zeros(granules, np.int32)
        self.wrote_at = np.zeros(granules, np.int32)
        self.writer_lane = np.zeros(granules, np.int32)
        self.read_at = np.zeros((granules, self.readers), np.int32)
        self.unfenced = np.zeros(granules if mbarriers else 0, np.int32)
        self.clock = np.zeros((blocks, warps, self.agents), np.int32)
        self.reset()

    def reset(self) -> None:
        """New blocks: unwritten memory reads as NaN."""
        self.data.fill(0xFF)
        for each in (self.writer, self.wrote_at, self.writer_lane, self.read_at, self.unfenced, self.clock):
            each.fill(0)
        warps = np.arange(self.warps)
        self.clock[:, warps, warps] = 1

    # Order.

    def tick(self, block: int, warps: Array) -> None:
        self.clock[block, warps, warps] += 1

    def join(self, block: int, warps: Array, seen: Array) -> None:
        self.clock[block, warps] = np.maximum(self.clock[block, warps], seen)

    def release(self, block: int, warps: Array) -> Array:
        """What these warps have seen together, for whoever waits for them; their own clocks move on."""
        seen = self.clock[block, warps].max(axis=0)
        self.tick(block, warps)
        return seen

    def meet_all(self) -> None:
        """Every warp of every block passed one barrier."""
        self.clock[:] = self.clock.max(axis=1, keepdims=True)
        warps = np.arange(self.warps)
        self.clock[:, warps, warps] += 1

    # Addresses.

    def check(self, address: Array, count: int, align: int, what: str) -> None:
        if (address & (align - 1)).any():
            bad = int(address[(address & (align - 1)) != 0][0])
            raise Fault(f"misaligned shared {what} of {count} bytes at {bad:#x}")
        low, high = int(address.min()), int(address.max())
        if low < 0 or high + count > self.size:
            bad = low if low < 0 else high
            raise Fault(f"shared {what} of {count} bytes out of bounds at {bad:#x} of {self.size:#x}")

    def _spread(self, flat: Array, count: int) -> tuple[Array, int]:
        each = max(1, count // self.granule)
        if each == 1:
            return flat // self.granule, 1
        return ((flat // self.granule)[:, None] + np.arange(each)).reshape(-1), each

    # Accesses by threads. `block`, `warp` and `lane` (thread of its block) are arrays, one item a thread.

    def load(self, address: Array, width: int, count: int, block: Array, warp: Array, lane: Array) -> Array:
        self.check(address, width * count, width * count, "load")
        flat = address + block * self.stride
        self.note_read(flat, width * count, block, warp, lane)
        return self.data.view(f"u{width}")[(flat // width)[:, None] + np.arange(count)]

    def store(self, address: Array, values: Array, block: Array, warp: Array, lane: Array) -> None:
        width, count = values.dtype.itemsize, values.shape[1]
        self.check(address, width * count, width * count, "store")
        flat = address + block * self.stride
        self.note_write(flat, width * count, block, warp, warp, None, lane)
        view = self.data.view(values.dtype)
        index = (flat // width)[:, None] + np.arange(count)
        view[index] = values
        if (view[index] != values).any():
            raise Fault("threads store different values to one place of shared memory at once")

    def note_read(self, flat: Array, count: int, block: Array, warp: Array, lane: Array | None) -> None:
        index, each = self._spread(flat, count)
        if each > 1:
            block, warp = np.repeat(block, each), np.repeat(warp, each)
            lane = None if lane is None else np.repeat(lane, each)
        self._see_writes(index, block, warp, lane, "reads")
        self.read_at[index, warp] = self.clock[block, warp, warp]

    def note_write(
        self,
        flat: Array,
        count: int,
        block: Array,
        warp: Array,
        agent: Array,
        stamp: Array | None,
        lane: Array,
    ) -> None:
        """A write that `warp` starts and `agent` does, at the agent's clock `stamp` (its own, for a warp)."""
        index, each = self._spread(flat, count)
        if stamp is None:
            stamp = self.clock[block, warp, warp]
        if each > 1:
            block, warp, agent = np.repeat(block, each), np.repeat(warp, each), np.repeat(agent, each)
            stamp, lane = np.repeat(stamp, each), np.repeat(lane, each)
        self._see_writes(index, block, warp, lane, "writes")
        self._see_reads(index, block, warp)
        self.writer[index], self.wrote_at[index], self.writer_lane[index] = agent, stamp, lane
        if (self.writer[index] != agent).any():
            raise Fault("shared-memory race: two warps write one place at once")
        if len(self.unfenced):
            self.unfenced[index] = np.where(agent < self.warps, block * self.warps + warp + 1, 0)

    def _see_writes(self, index: Array, block: Array, warp: Array, lane: Array | None, what: str) -> None:
        writer, wrote = self.writer[index], self.wrote_at[index]
        bad = self.clock[block, warp, writer] < wrote
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise Fault(self._race(int(index[first]), int(warp[first]), int(writer[first]), what))
        if lane is not None:
            now = self.clock[block, warp, warp]
            bad = (writer == warp) & (wrote == now) & (self.writer_lane[index] != lane)
            if bad.any():
                first = int(np.flatnonzero(bad)[0])
                raise Fault(
                    f"shared-memory race within warp {int(warp[first])}: thread {int(lane[first])} {what} what thread "
                    f"{int(self.writer_lane[index[first]])} wrote, without a barrier or __syncwarp, at "
                    f"byte {self._byte(int(index[first])):#x}"
                )

    def _see_reads(self, index: Array, block: Array, warp: Array) -> None:
        bad = (self.read_at[index] > self.clock[block, warp, : self.readers]).any(axis=1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            place, me = int(index[first]), int(warp[first])
            reader = int(np.argmax(self.read_at[place] > self.clock[block[first], me, : self.readers]))
            raise Fault(
                f"shared-memory race: warp {me} overwrites byte {self._byte(place):#x}, which "
                f"{self._agent(reader)} may still read"
            )

    def _race(self, place: int, warp: int, writer: int, what: str) -> str:
        return (
            f"shared-memory race: warp {warp} {what} byte {self._byte(place):#x}, which {self._agent(writer)} wrote "
            "without a barrier or wait in between"
        )

    def _byte(self, place: int) -> int:
        return place * self.granule % self.stride

    def _agent(self, agent: int) -> str:
        if agent < self.warps:
            return f"warp {agent}"
        if agent < self.readers:
            return f"wgmma of warp group {agent - self.warps}"
        if agent < self.barrier_agent:
            return f"cp.async of warp {agent - self.copy_agent}"
        return f"a bulk copy (mbarrier {agent - self.barrier_agent})"

    # The asynchronous proxy.

    def fence_proxy(self, block: Array, warp: Array) -> None:
        """fence.proxy.async: what these warps wrote, and what they saw others write, is there for async reads."""
        for b, w in {(int(b), int(w)) for b, w in zip(block, warp, strict=True)}:
            mine = slice(b * self.stride // self.granule, (b + 1) * self.stride // self.granule)
            writer = np.minimum(self.writer[mine], self.agents - 1)
            seen = self.clock[b, w][writer] >= self.wrote_at[mine]
            part = self.unfenced[mine]
            part[seen & (part != 0)] = 0

    def note_async_read(self, index: Array, block: int, warp: int, agent: int, stamp: int) -> None:
        """Granules read by an engine that `warp` started: it finishes when the warp waits for clock `stamp`."""
        blocks = np.full(len(index), block)
        self._see_writes(index, blocks, np.full(len(index), warp), None, "lets an engine read")
        if self.unfenced[index].any():
            raise Fault(
                "shared memory written by threads is read by the async proxy without fence.proxy.async, at "
                f"byte {self._byte(int(index[self.unfenced[index] != 0][0])):#x}"
            )
        self.read_at[index, agent] = stamp
