# SPDX-License-Identifier: Apache-2.0
"""A kernel's instructions as segments of straight-line code: closures, the gate before them, the branch at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .faults import Unsupported
from .operands import Mask, names_in
from .syntax import Instruction, Register

if TYPE_CHECKING:
    from .machine import Machine

Step = Callable[[Mask], None]
Gate = Callable[[Mask], Mask]
Wrapper = Callable[["Machine", Instruction, Step], Step]
Run = tuple[Callable[[Instruction], bool], Callable[["Machine", list[Instruction]], Step]]

EMITTERS: dict[str, Callable[[Machine, Instruction], Step | None]] = {}
WRAPPERS: list[Wrapper] = []  # checks put around every instruction
RUNS: list[Run] = []  # which instructions may run as one if independent, and how to make their closure


def emitter(*names: str) -> Callable[[Any], Any]:
    """Register a function that turns the instructions of these first words into closures."""

    def register(function: Any) -> Any:
        EMITTERS.update(dict.fromkeys(names, function))
        return function

    return register


@dataclass
class Segment:
    """Straight-line code: an optional gate at its first instruction, closures, and how it ends."""

    start: int
    length: int = 0
    gate: Gate | None = None
    steps: list[tuple[Step, Instruction]] = field(default_factory=list)
    end: Callable[[Mask], None] | None = None  # moves the threads itself; None: they fall through


def compile_segments(machine: Machine) -> dict[int, Segment]:
    """All segments of the kernel by where they start."""
    ordered = sorted(_starts(machine))
    return {
        start: _segment(machine, start, stop)
        for start, stop in zip(ordered, [*ordered[1:], len(machine.entry.code)], strict=True)
    }


_ENDING = {"bra", "brx", "ret", "exit", "trap", "bar", "barrier"}
_GATED = {"shfl", "vote", "redux", "wgmma", "bar", "barrier", "setmaxnreg", "elect"}
_GATED_OPCODES = ("mbarrier.try_wait", "mbarrier.test_wait", "activemask")


def _starts(machine: Machine) -> set[int]:
    """Where segments begin: at labels, after branches, at instructions that need a gate.

    Once a gate has let whole warps through, the matrix instructions that follow in straight line need none.
    """
    code, labels = machine.entry.code, set(machine.entry.labels.values())
    starts = {0, len(code), *labels}
    whole_warps = False
    for place, instruction in enumerate(code):
        first = instruction.parts[0]
        whole_warps = whole_warps and place not in labels
        if first in _ENDING:
            starts.add(place + 1)
            whole_warps = False
        if first in ("mma", "ldmatrix"):
            if not whole_warps or instruction.guard is not None:
                starts.add(place)
                whole_warps = instruction.guard is None
        elif first in _GATED or instruction.opcode.startswith(_GATED_OPCODES):
            starts.add(place)
            whole_warps = False
    return starts


def _segment(machine: Machine, start: int, stop: int) -> Segment:
    segment = machine.segment = Segment(start, stop - start)
    place = start
    while place < stop:
        machine.place = place
        run = _run_from(machine, place, stop)
        instruction = run[0]
        step = _emit(machine, run)
        if place == start and segment.gate is not None and instruction.guard is not None:
            segment.gate = _guarded_gate(machine, segment.gate, instruction.guard)
        if step is not None:
            for wrap in WRAPPERS:
                step = wrap(machine, instruction, step)
            segment.steps.append((_guarded(machine, step, instruction), instruction))
        place += len(run)
    return segment


def _run_from(machine: Machine, place: int, stop: int) -> list[Instruction]:
    """The instruction at a place, with those after it that may be executed at once with it."""
    first = machine.entry.code[place]
    run, written = [first], set(names_in(first.operands[:1]))
    fits = next((fits for fits, _ in RUNS if fits(first)), None)
    if fits is None or first.guard is not None or machine.uses("wgmma.mma_async"):
        return run
    for instruction in machine.entry.code[place + 1 : stop]:
        same = instruction.opcode == first.opcode and instruction.guard is None and fits(instruction)
        if not same or written & set(names_in(instruction.operands)):
            break
        run.append(instruction)
        written.update(names_in(instruction.operands[:1]))
    return run


def _emit(machine: Machine, run: list[Instruction]) -> Step | None:
    instruction = run[0]
    emit = EMITTERS.get(instruction.parts[0])
    if emit is None:
        raise Unsupported(f"instruction `{instruction.text}`")
    try:
        if len(run) > 1:
            return next(make for fits, make in RUNS if fits(instruction))(machine, run)
        return emit(machine, instruction)
    except Unsupported as error:
        raise Unsupported(f"{error}; in `{instruction.text}`") from None
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise Unsupported(f"instruction `{instruction.text}` ({error!r})") from error


def _guarded(machine: Machine, step: Step, instruction: Instruction) -> Step:
    if instruction.guard is None or instruction.parts[0] in ("bra", "ret", "exit"):
        return step
    holds = machine.predicate(instruction.guard)

    def guarded(mask: Mask) -> None:
        chosen = holds() if mask is True else mask & holds()
        count = np.count_nonzero(chosen)
        if count:
            step(True if count == machine.lanes else chosen)

    return guarded


def _guarded_gate(machine: Machine, gate: Gate, guard: Register) -> Gate:
    """Threads whose guard fails skip the instruction, and so need no gate."""
    holds = machine.predicate(guard)

    def guarded(mask: Mask) -> Mask:
        here = np.broadcast_to(mask, machine.lanes)
        chosen = here & holds()
        return (gate(chosen) if chosen.any() else chosen) | (here & ~holds())

    return guarded
