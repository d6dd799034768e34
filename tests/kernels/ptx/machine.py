# SPDX-License-Identifier: Apache-2.0
"""Runs a kernel: a few thread blocks at a time, all their threads at once.

Every closure takes a mask of threads (`True` for all) and executes one instruction for them. Threads run in *fronts*,
sets of threads at one place of the code; the front that is furthest behind runs first, so that diverged threads meet
again where their paths join. An instruction that needs company (a barrier, a warp collective, a wait) has a gate,
which says which threads of a front may go on; the others stay parked until something changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .faults import BudgetExceeded, Fault
from .memory import Memory
from .numbers import Array
from .operands import Mask, Operands
from .order import WarpOrder
from .segments import Gate, Segment, compile_segments
from .syntax import Entry, Instruction, Variable


class Machine(Operands):
    """One kernel, `blocks` of its thread blocks at a time."""

    def __init__(
        self,
        entry: Entry,
        variables: list[Variable],
        block: tuple[int, int, int],
        grid: tuple[int, int, int],
        dynamic_shared: int,
        blocks: int,
    ) -> None:
        if (threads := math.prod(block)) > entry.most_threads:
            raise Fault(f"{entry.name} takes {entry.most_threads} threads a block at most, not {threads}")
        super().__init__(entry, variables, block, grid, dynamic_shared, blocks)
        self.exists = np.zeros(self.lanes, bool)
        self.exited = np.zeros(self.lanes, bool)
        self.fronts: dict[int, Mask] = {}
        self.parked: dict[int, Mask] = {}
        self.executed, self.budget = 0, 0
        self.resetters: list[Callable[[], None]] = []  # called for every batch of new blocks
        self.finishers: list[Callable[[], None]] = []  # called when a batch has ended; they may raise faults
        self.idle: list[Callable[[], str]] = []  # each says what is waited for, in a deadlock
        self.extensions: dict[type, Any] = {}
        self.dependent = False  # A programmatic dependent launch, of whose threads some have not waited yet.
        self.waited = np.ones(self.lanes, bool)
        self.order = WarpOrder(self.shared)
        self.segment, self.place = Segment(0), 0  # what is being compiled
        self.segments = compile_segments(self)

    def extension(self, kind: type) -> Any:
        """The one object of this class that goes with the machine (its barriers, its copies), made when first used."""
        if kind not in self.extensions:
            self.extensions[kind] = kind(self)
        return self.extensions[kind]

    def require(self, gate: Gate) -> None:
        """The instruction being compiled needs a gate; amid a segment, the segment's own gate serves."""
        if self.place == self.segment.start:
            self.segment.gate = gate

    def run(
        self,
        memory: Memory,
        parameters: bytes,
        tensor_maps: tuple[Any, ...],
        budget: int,
        order: list[int] | None = None,
        *,
        dependent: bool = False,
    ) -> int:
        """Execute the whole grid; returns how many instructions were executed (a step for many threads is one).

        A `dependent` launch may begin before the one before it has ended; see `dependence`.
        """
        if len(parameters) != self.parameter_bytes:
            raise Fault(
                f"{self.entry.name} takes {self.parameter_bytes} bytes of parameters, {len(parameters)} were given"
            )
        self.parameters[: len(parameters)] = np.frombuffer(parameters, np.uint8)
        self.memory, self.tensor_maps = memory, tensor_maps
        self.executed, self.budget = 0, budget
        for each in self.variables:
            if each.name not in memory.symbols:
                initial = each.initial.ljust(each.bytes, b"\0")
                memory.symbols[each.name] = memory.put(
                    np.frombuffer(initial, np.uint8), align=max(16, each.align)
                )
            self.symbols[each.name][0] = memory.symbols[each.name]
        total = int(np.prod(self.grid))
        memory.begin_launch(self.global_granule, total, follows=dependent)
        self.dependent = dependent
        self.order.begin_launch(memory)
        order = list(range(total)) if order is None else order
        waited = False
        with np.errstate(all="ignore"):
            for first in range(0, total, self.blocks):
                self._run_batch(order[first : first + self.blocks])
                waited = waited or bool(self.waited[self.exists].any())
        if not waited:
            raise Fault(f"{self.entry.name}: no thread waits for the launch before it, which it may outrun")
        return self.executed

    def _run_batch(self, numbers: list[int]) -> None:
        x, y, _ = self.grid
        ids = np.array(numbers + [0] * (self.blocks - len(numbers)))
        per_lane = ids[self.of_block]
        self.linear_block[:] = per_lane
        self.special["%ctaid.x"][:] = per_lane % x
        self.special["%ctaid.y"][:] = per_lane // x % y
        self.special["%ctaid.z"][:] = per_lane // (x * y)
        self.exists[:] = (self.in_block < self.threads) & (self.of_block < len(numbers))
        self.exited[:] = ~self.exists
        for file in self.files.values():
            file.view(np.uint8).fill(0 if file.dtype == np.bool_ else 0xFF)
        self.local.fill(0xFF)
        self.waited.fill(not self.dependent)
        self.shared.reset()
        for reset in self.resetters:
            reset()
        self.parked.clear()
        self.fronts = {0: True if self.exists.all() else self.exists.copy()}
        self._schedule()
        for finish in self.finishers:
            finish()

    def _schedule(self) -> None:
        end = len(self.entry.code)
        while self.fronts or not self.exited.all():
            if not self.fronts:
                self._deadlock()  # the rest is parked, or stands at a barrier
            pc = min(self.fronts)
            mask = self.fronts.pop(pc)
            if pc == end:
                self.exit(mask)
                continue
            segment = self.segments[pc]
            if segment.gate is not None:
                mask = self._pass_gate(pc, mask, segment.gate)
                if mask is None:
                    continue  # all of them wait
            self.executed += segment.length
            if self.executed > self.budget:
                raise BudgetExceeded(f"{self.entry.name}: more than {self.budget} instructions; does it end?")
            self._execute(segment, mask)
            if segment.end is None:
                self.go(pc + segment.length, mask)
            else:
                try:
                    segment.end(mask)
                except Fault as fault:
                    raise self._located(fault, self.entry.code[pc + segment.length - 1]) from None

    def _execute(self, segment: Segment, mask: Mask) -> None:
        instruction = None
        try:
            for step, instruction in segment.steps:  # noqa: B007
                step(mask)
        except Fault as fault:
            assert instruction is not None
            raise self._located(fault, instruction) from None

    def _pass_gate(self, pc: int, mask: Mask, gate: Gate) -> Mask | None:
        waiting = self.parked.pop(pc, None)
        if waiting is not None:
            mask = mask | waiting
        try:
            go = gate(mask)
        except Fault as fault:
            raise self._located(fault, self.entry.code[pc]) from None
        if go is True:
            return True
        left = np.logical_and(mask, ~go)
        if left.any():
            self.parked[pc] = left
        if not go.any():
            return None
        return True if go.all() else go

    def _located(self, fault: Fault, instruction: Instruction) -> Fault:
        if " | " in str(fault):
            return fault
        return type(fault)(f"{fault} | {self.entry.name}: `{instruction.text}`")

    def _deadlock(self) -> None:
        exited = int((self.exited & self.exists).sum())
        waits = [
            f"{int(np.sum(mask))} thread(s) at `{self.entry.code[pc].text}`"
            for pc, mask in sorted(self.parked.items())
        ]
        waits += [text for text in (say() for say in self.idle) if text]
        raise Fault(
            f"deadlock in {self.entry.name}, a barrier or collective that not all reach: "
            + "; ".join(waits)
            + f"; {exited} thread(s) have exited"
        )

    # For the closures.

    def go(self, pc: int, mask: Mask) -> None:
        """Let threads run on from `pc`."""
        there = self.fronts.get(pc)
        self.fronts[pc] = mask if there is None else (True if mask is True else there | mask)

    def wake(self) -> None:
        """Something that a parked thread may wait for has changed."""
        for pc, mask in self.parked.items():
            self.go(pc, mask)
        self.parked.clear()

    def exit(self, mask: Mask) -> None:
        self.exited |= mask

    def active(self, mask: Mask) -> Array:
        """The numbers of the threads of a mask."""
        return np.arange(self.lanes) if mask is True else np.flatnonzero(mask)

    def places(self, threads: Array) -> tuple[Array, Array, Array]:
        """Of threads: their blocks' numbers in the grid and among those that run, and their warps' in the block."""
        return self.linear_block[threads], self.of_block[threads], self.of_warp[threads]
