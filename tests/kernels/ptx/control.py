# SPDX-License-Identifier: Apache-2.0
"""Branches, exits, block barriers, and what needs no work here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .faults import Fault, Unsupported
from .machine import Machine
from .numbers import Array
from .operands import Mask
from .segments import Gate, Step, emitter
from .syntax import Immediate, Instruction, Operand, Register, Symbol


def _split(machine: Machine, instruction: Instruction, mask: Mask) -> tuple[Array, Array]:
    """The threads of a mask for which the guard holds, and the others."""
    here = np.broadcast_to(mask, machine.lanes)
    if instruction.guard is None:
        return here, np.zeros(machine.lanes, bool)
    holds = machine.predicate(instruction.guard)()
    return here & holds, here & ~holds


def _label(machine: Machine, operand: Operand) -> int:
    if not isinstance(operand, Register | Symbol) or operand.name not in machine.entry.labels:
        raise Unsupported(f"branch to {operand}")
    return machine.entry.labels[operand.name]


@emitter("bra")
def _branch(machine: Machine, instruction: Instruction) -> Step | None:
    there, after = _label(machine, instruction.operands[0]), machine.place + 1
    if instruction.guard is None:
        machine.segment.end = lambda mask: machine.go(there, mask)
        return None
    holds = machine.predicate(instruction.guard)

    def end(mask: Mask) -> None:
        taken = holds() if mask is True else mask & holds()
        count = int(np.count_nonzero(taken))
        total = machine.lanes if mask is True else int(np.count_nonzero(mask))
        if count == total:
            machine.go(there, mask)
        elif count == 0:
            machine.go(after, mask)
        else:
            machine.go(after, mask & ~taken)
            machine.go(there, taken.copy())

    machine.segment.end = end
    return None


@emitter("brx")
def _branch_indexed(machine: Machine, instruction: Instruction) -> Step | None:
    index = machine.read(instruction.operands[0], "u32")
    table = instruction.operands[1]
    assert isinstance(table, Register | Symbol)
    places = [machine.entry.labels[name] for name in machine.entry.tables[table.name]]
    after = machine.place + 1

    def end(mask: Mask) -> None:
        here, others = _split(machine, instruction, mask)
        for number, place in enumerate(places):
            chosen = here & (index == number)
            if chosen.any():
                machine.go(place, chosen)
        if (here & (index >= len(places))).any():
            raise Fault("branch outside its table")
        if others.any():
            machine.go(after, others)

    machine.segment.end = end
    return None


@emitter("ret", "exit")
def _exit(machine: Machine, instruction: Instruction) -> Step | None:
    after = machine.place + 1

    def end(mask: Mask) -> None:
        leave, stay = _split(machine, instruction, mask)
        machine.exit(leave)
        if stay.any():
            machine.go(after, stay)

    machine.segment.end = end
    return None


@emitter("trap")
def _trap(machine: Machine, instruction: Instruction) -> Step | None:
    def trap(mask: Mask) -> None:
        raise Fault("trap")

    return trap


@emitter("nanosleep", "pmevent")
def _nothing(machine: Machine, instruction: Instruction) -> Step | None:
    return None


# Block barriers.


@dataclass
class _Barrier:
    """One named barrier of one block, between two completions."""

    expected: int = 0
    arrived: int = 0
    waiting: list[tuple[int, Array]] = field(default_factory=list)  # where they go on, and who
    warps: list[Array] = field(default_factory=list)
    places: set[int] = field(default_factory=set)
    seen: Array | None = None
    votes: list[tuple[Array, Any]] = field(default_factory=list)


class Barriers:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.states: dict[tuple[int, int], _Barrier] = {}
        machine.resetters.append(self.states.clear)
        machine.idle.append(self.say)

    def say(self) -> str:
        return ", ".join(
            f"barrier {number} of block {block}: {state.arrived} of {state.expected} threads came"
            for (block, number), state in self.states.items()
        )

    def arrive(
        self, block: int, number: int, expected: int, lanes: Array, place: int, waits: bool
    ) -> _Barrier | None:
        """Threads `lanes` of a block arrive; the completed barrier, once all are there."""
        machine = self.machine
        state = self.states.setdefault((block, number), _Barrier(expected))
        if state.expected != expected:
            raise Fault(f"barrier {number} is used for {state.expected} and for {expected} threads at once")
        warps = np.unique(machine.of_warp[lanes])
        state.arrived += len(lanes)
        state.places.add(place)
        seen = machine.shared.release(block, warps)
        state.seen = seen if state.seen is None else np.maximum(state.seen, seen)
        if waits:
            state.warps.append(warps)
            chosen = np.zeros(machine.lanes, bool)
            chosen[lanes] = True
            state.waiting.append((place + 1, chosen))
        if state.arrived > expected:
            raise Fault(f"barrier {number}: {state.arrived} threads arrived where {expected} were expected")
        if state.arrived < expected:
            return None
        for warps in state.warps:
            machine.shared.join(block, warps, state.seen)
        for after, chosen in state.waiting:
            machine.go(after, chosen)
        return self.states.pop((block, number))


def _barriers(machine: Machine) -> Barriers:
    found: Barriers = machine.extension(Barriers)
    return found


def _whole_warps(machine: Machine) -> Gate:
    """A warp reaches a barrier with all its threads, none having exited."""

    def gate(mask: Mask) -> Mask:
        if mask is True:
            return True
        here = mask.reshape(-1, 32)
        gone = (machine.exited & machine.exists).reshape(-1, 32)
        late = here.any(1) & gone.any(1)
        if late.any():
            raise Fault(
                f"a warp reaches a barrier after {int(gone[late][0].sum())} of its threads have exited"
            )
        return np.repeat((here | ~machine.exists.reshape(-1, 32)).all(1), 32) & mask

    return gate


@emitter("bar", "barrier")
def _barrier(machine: Machine, instruction: Instruction) -> Step | None:
    parts, operands = instruction.parts, instruction.operands
    if "warp" in parts:
        return _warp_barrier(machine, instruction)
    if "cluster" in parts:
        raise Unsupported("cluster barrier")
    if "red" in parts:
        return _voting_barrier(machine, instruction)
    barriers, place = _barriers(machine), machine.place
    waits = "arrive" not in parts
    machine.require(_whole_warps(machine))
    number = machine.read(operands[0], "u32")
    count = machine.read(operands[1], "u32") if len(operands) > 1 else None
    common = count is None and isinstance(operands[0], Immediate) and waits and instruction.guard is None

    def end(mask: Mask) -> None:
        if common and mask is True and not barriers.states and machine.threads == machine.width:
            machine.shared.meet_all()
            machine.go(place + 1, True)
            return
        here, others = _split(machine, instruction, mask)
        if others.any():
            machine.go(place + 1, others)
        for block in np.unique(machine.of_block[here]).tolist():
            lanes = np.flatnonzero(here & (machine.of_block == block))
            numbers = np.broadcast_to(number, machine.lanes)[lanes]
            for each in np.unique(numbers).tolist():
                chosen = lanes[numbers == each]
                expected = (
                    machine.threads
                    if count is None
                    else int(np.broadcast_to(count, machine.lanes)[chosen[0]])
                )
                done = barriers.arrive(block, each, expected, chosen, place, waits)
                if done and count is None and len(done.places) > 1:
                    raise Fault(
                        f"divergent barrier: threads of a block meet at {len(done.places)} different bar.sync"
                    )
        if not waits:
            machine.go(place + 1, here.copy())

    machine.segment.end = end
    return None


def _voting_barrier(machine: Machine, instruction: Instruction) -> Step | None:
    """bar.red: a barrier that counts, ands or ors a predicate of all threads."""
    barriers, place, parts = _barriers(machine), machine.place, instruction.parts
    machine.require(_whole_warps(machine))
    operation, kind = next(p for p in parts if p in ("popc", "and", "or")), parts[-1]
    put = machine.writer(instruction.operands[0], kind)
    holds = machine.predicate(instruction.operands[-1])
    number = instruction.operands[1]
    if not isinstance(number, Immediate) or len(instruction.operands) > 3 or instruction.guard is not None:
        raise Unsupported("bar.red with a count or a guard")

    def end(mask: Mask) -> None:
        here = np.broadcast_to(mask, machine.lanes)
        for block in np.unique(machine.of_block[here]).tolist():
            lanes = np.flatnonzero(here & (machine.of_block == block))
            state = barriers.states.setdefault((block, number.value), _Barrier(machine.threads))
            state.votes.append((lanes, holds()[lanes]))
            done = barriers.arrive(block, number.value, machine.threads, lanes, place, True)
            if done:
                votes = np.concatenate([v for _, v in done.votes])
                result = {"popc": votes.sum(), "and": votes.all(), "or": votes.any()}[operation]
                put(result.astype(np.uint32) if operation == "popc" else result,
                    (machine.of_block == block) & machine.exists)  # fmt: skip

    machine.segment.end = end
    return None


def _warp_barrier(machine: Machine, instruction: Instruction) -> Step | None:
    """bar.warp.sync: what the lanes wrote before it, they may all read after it."""
    from .warp import named_lanes

    machine.require(named_lanes(machine, instruction.operands[0]))

    def step(mask: Mask) -> None:
        threads = machine.active(mask)
        for block in np.unique(machine.of_block[threads]).tolist():
            machine.shared.tick(
                block, np.unique(machine.of_warp[threads[machine.of_block[threads] == block]])
            )

    return step
