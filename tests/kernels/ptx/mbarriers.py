# SPDX-License-Identifier: Apache-2.0
"""mbarrier objects: arrivals, transactions of bulk copies, waits by phase.

A waiting thread is parked until its phase is complete, so that a spin loop costs one step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .faults import Fault, Unsupported
from .machine import Machine
from .numbers import Array
from .operands import Mask
from .segments import Step, emitter
from .shared import MBARRIERS
from .syntax import Instruction, Register


@dataclass
class MBarrier:
    """One object: `phase` counts the completed phases, `bytes` is what copies still owe to the current one."""

    number: int
    expected: int
    pending: int
    made_by: int
    made_at: int
    phase: int = 0
    bytes: int = 0
    copies: int = 0  # the stamp of the newest copy that completes here
    is_fenced: bool = False  # whether the copy engine knows of it
    filled: int = 0  # the phase after the last one that a copy belonged to
    watched: int = 0  # the last phase that somebody has waited for
    seen: Array | None = None  # what the arrivals of this phase have seen
    published: Array | None = None  # what whoever waited for the last phase sees


class MBarriers:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.objects: dict[tuple[int, int], MBarrier] = {}
        machine.resetters.append(self.objects.clear)
        machine.idle.append(self.say)
        machine.finishers.append(self.check_watched)

    def say(self) -> str:
        return ", ".join(
            f"mbarrier at {address:#x} of block {block}: phase {each.phase} lacks {each.pending} arrival(s)"
            f" and {each.bytes} byte(s)"
            for (block, address), each in self.objects.items()
            if each.pending != each.expected or each.bytes
        )

    def find(self, lane: int, address: int) -> MBarrier:
        machine = self.machine
        block, warp = int(machine.of_block[lane]), int(machine.of_warp[lane])
        found = self.objects.get((block, address))
        if found is None:
            raise Fault(f"no mbarrier was made at shared {address:#x}")
        if machine.shared.clock[block, warp, found.made_by] < found.made_at:
            raise Fault(
                f"mbarrier at {address:#x} is used before its initialisation is visible to warp {warp}"
            )
        return found

    def make(self, lane: int, address: int, count: int) -> None:
        machine = self.machine
        machine.shared.check(np.array([address]), 8, 8, "mbarrier")
        if not 1 <= count < 2**20:
            raise Fault(f"mbarrier for {count} arrivals")
        block, warp = int(machine.of_block[lane]), int(machine.of_warp[lane])
        if (block, address) in self.objects:
            raise Fault(f"mbarrier at {address:#x} is made twice")
        number = sum(1 for b, _ in self.objects if b == block)
        if number >= MBARRIERS:
            raise Unsupported(f"more than {MBARRIERS} mbarriers")
        stamp = int(machine.shared.clock[block, warp, warp])
        self.objects[block, address] = MBarrier(number, count, count, warp, stamp)

    def fence(self, mask: Mask) -> None:
        """fence.mbarrier_init: the copy engine sees what these warps have made."""
        threads = self.machine.active(mask)
        by = {
            *zip(self.machine.of_block[threads].tolist(), self.machine.of_warp[threads].tolist(), strict=True)
        }
        for (block, _), each in self.objects.items():
            each.is_fenced |= (block, each.made_by) in by

    def check_watched(self) -> None:
        for (_, address), each in self.objects.items():
            if each.filled > each.watched:
                raise Fault(
                    f"mbarrier at {address:#x}: the block ends before anyone has waited for its last copy"
                )

    def arrive(self, lane: int, address: int, count: int, bytes_: int) -> int:
        """`count` arrivals that also announce `bytes_`; the phase they belong to."""
        machine, found = self.machine, self.find(lane, address)
        block, warp = int(machine.of_block[lane]), int(machine.of_warp[lane])
        phase = found.phase
        found.bytes += bytes_
        if count:
            found.pending -= count
            if found.pending < 0:
                raise Fault(f"mbarrier at {address:#x}: more arrivals than the {found.expected} of a phase")
            seen = machine.shared.release(block, np.array([warp]))
            found.seen = seen if found.seen is None else np.maximum(found.seen, seen)
        self.complete(found)
        return phase

    def receive(self, found: MBarrier, bytes_: int) -> None:
        """A bulk copy has brought bytes."""
        if not found.is_fenced:
            raise Fault(
                "a copy completes on an mbarrier that no fence.mbarrier_init has shown to the copy engine"
            )
        found.filled = found.phase + 1
        found.bytes -= bytes_
        self.complete(found)

    def complete(self, found: MBarrier) -> None:
        if found.pending or found.bytes:
            return
        assert found.seen is not None
        seen = found.seen if found.published is None else np.maximum(found.seen, found.published)
        seen = seen.copy()
        agent = self.machine.shared.barrier_agent + found.number
        seen[agent] = max(seen[agent], found.copies)
        found.published, found.seen = seen, None
        found.phase += 1
        found.pending = found.expected
        self.machine.wake()

    def acquire(self, lane: int, address: int) -> None:
        found = self.find(lane, address)
        found.watched = found.phase
        if found.published is not None:
            machine = self.machine
            warp = np.array([machine.of_warp[lane]])
            machine.shared.join(int(machine.of_block[lane]), warp, found.published)


def mbarriers(machine: Machine) -> MBarriers:
    found: MBarriers = machine.extension(MBarriers)
    return found


@emitter("mbarrier")
def _emit_mbarrier(machine: Machine, instruction: Instruction) -> Step | None:
    name = instruction.parts[1]
    table = {"init": _init, "inval": _invalidate, "arrive": _arrive, "expect_tx": _expect,
             "try_wait": _wait, "test_wait": _wait}  # fmt: skip
    if name not in table:
        raise Unsupported(f"mbarrier.{name}")
    return table[name](machine, instruction)


def _init(machine: Machine, instruction: Instruction) -> Step:
    objects, address = mbarriers(machine), machine.addresses(instruction.operands[0])
    count = machine.read(instruction.operands[1], "u32")

    def step(mask: Mask) -> None:
        at, counts = address(), np.broadcast_to(count, machine.lanes)
        for lane in machine.active(mask).tolist():
            objects.make(lane, int(at[lane]), int(counts[lane]))

    return step


def _invalidate(machine: Machine, instruction: Instruction) -> Step:
    objects, address = mbarriers(machine), machine.addresses(instruction.operands[0])

    def step(mask: Mask) -> None:
        at = address()
        for lane in machine.active(mask).tolist():
            objects.find(lane, int(at[lane]))
            del objects.objects[int(machine.of_block[lane]), int(at[lane])]

    return step


def _arrive(machine: Machine, instruction: Instruction) -> Step:
    """mbarrier.arrive{.expect_tx} {state,} [address]{, count or bytes}."""
    parts, operands = instruction.parts, list(instruction.operands)
    if "noComplete" in parts:
        raise Unsupported("mbarrier.arrive.noComplete")
    put = None
    if not hasattr(operands[0], "base"):
        target = operands.pop(0)
        put = None if isinstance(target, Register) and target.name == "_" else machine.writer(target, "u64")
    objects, address = mbarriers(machine), machine.addresses(operands[0])
    argument = machine.read(operands[1], "u32") if len(operands) > 1 else np.uint32(1)
    announces = "expect_tx" in parts

    def step(mask: Mask) -> None:
        at, numbers = address(), np.broadcast_to(argument, machine.lanes)
        phases = np.zeros(machine.lanes, np.uint64)
        for lane in machine.active(mask).tolist():
            count, bytes_ = (1, int(numbers[lane])) if announces else (int(numbers[lane]), 0)
            phases[lane] = objects.arrive(lane, int(at[lane]), count, bytes_)
        if put is not None:
            put(phases, mask)

    return step


def _expect(machine: Machine, instruction: Instruction) -> Step:
    objects, address = mbarriers(machine), machine.addresses(instruction.operands[0])
    bytes_ = machine.read(instruction.operands[1], "u32")

    def step(mask: Mask) -> None:
        at, numbers = address(), np.broadcast_to(bytes_, machine.lanes)
        for lane in machine.active(mask).tolist():
            objects.arrive(lane, int(at[lane]), 0, int(numbers[lane]))

    return step


def _wait(machine: Machine, instruction: Instruction) -> Step:
    """try_wait{.parity} p, [address], parity or state: here it succeeds, because the gate holds others back."""
    operands = instruction.operands
    objects, address = mbarriers(machine), machine.addresses(operands[1])
    parity = "parity" in instruction.parts
    token = machine.read(operands[2], "u32" if parity else "u64")
    put = machine.writer(operands[0], "pred")

    def complete(lane: int, at: int, value: int) -> bool:
        phase = objects.find(lane, at).phase
        return phase & 1 != value & 1 if parity else phase > value

    def gate(mask: Mask) -> Mask:
        at, tokens = address(), np.broadcast_to(token, machine.lanes)
        threads = machine.active(mask)
        go = np.zeros(machine.lanes, bool)
        keys = np.stack([machine.of_block[threads] * machine.warps + machine.of_warp[threads],
                         at[threads], tokens[threads].astype(np.int64)], axis=1)  # fmt: skip
        _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        ready = np.array(
            [complete(int(threads[i]), int(at[threads[i]]), int(tokens[threads[i]])) for i in first]
        )
        go[threads] = ready[group.reshape(-1)]
        for i in first[ready]:
            objects.acquire(int(threads[i]), int(at[threads[i]]))
        return go

    machine.require(gate)
    return lambda mask: put(np.ones(machine.lanes, bool), mask)
