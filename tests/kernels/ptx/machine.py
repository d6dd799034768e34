# SPDX-License-Identifier: Apache-2.0
"""A kernel compiled for a few resident blocks: registers as numpy rows, instructions as closures over them.

Every closure takes a mask of threads (`True` for all) and executes one instruction for them at once. Threads run in
*fronts*, sets of threads at one place of the code; the front that is furthest behind runs first, so that diverged
threads meet again where their paths join. An instruction that needs company (a barrier, a warp collective, a wait)
has a gate, which says which threads of a front may go on; the others stay parked until something changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .faults import BudgetExceeded, Fault, Unsupported
from .memory import Memory
from .numbers import Array
from .shared import SharedMemory
from .text import BYTES, Address, Entry, Immediate, Instruction, Operand, Register, Symbol, Variable, Vector

Mask = Any  # True, or an array of bool, one a thread
Step = Callable[[Mask], None]
Gate = Callable[[Mask], Mask]

KINDS: dict[str, Any] = {
    "f16": np.float16, "f32": np.float32, "f64": np.float64, "pred": np.bool_,
    "bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32, "tf32": np.uint32,
    **{f"{kind}{bits}": np.dtype(f"{'i' if kind == 's' else 'u'}{bits // 8}")
       for kind in "bus" for bits in (8, 16, 32, 64)},
}  # fmt: skip

# Windows of generic addresses; global memory keeps its own addresses.
SHARED_WINDOW = 1 << 60
LOCAL_WINDOW = 2 << 60
PARAM_WINDOW = 3 << 60

EMITTERS: dict[str, Callable[[Machine, Instruction], Step | None]] = {}
WRAPPERS: list[Callable[[Machine, Instruction, Step], Step]] = []  # checks put around every instruction


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


class Machine:
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
        self.entry, self.block, self.grid, self.blocks = entry, block, grid, blocks
        self.threads = int(np.prod(block))
        self.warps = -(-self.threads // 32)
        self.width = 32 * self.warps
        self.lanes = blocks * self.width
        self._used: dict[str, bool] = {}
        self.memory = Memory()
        self.tensor_maps: tuple[Any, ...] = ()
        self._lay_out_shared(variables, dynamic_shared)
        self._lay_out_rest(variables)
        lane = np.arange(self.lanes)
        self.of_block = lane // self.width
        self.of_warp = lane % self.width // 32
        self.in_block = lane % self.width
        self.linear_block = np.zeros(self.lanes, np.int64)
        self.special = self._special_registers()
        self._allocate_registers()
        self.exists = np.zeros(self.lanes, bool)
        self.exited = np.zeros(self.lanes, bool)
        self.fronts: dict[int, Mask] = {}
        self.parked: dict[int, Mask] = {}
        self.pc = 0
        self.executed = 0
        self.resetters: list[Callable[[], None]] = []
        self.idle: list[Callable[[], str]] = []
        self._compile()

    # Layout.

    def _lay_out_shared(self, variables: list[Variable], dynamic: int) -> None:
        self.shared_offsets: dict[str, int] = {}
        end = 0
        for each in [*self.entry.shared, *(v for v in variables if v.space == "shared")]:
            end = -(-end // each.align) * each.align
            self.shared_offsets[each.name] = end
            end += each.bytes
        externs = [v for v in variables if v.space == "extern shared"]
        align = max([16, *(v.align for v in externs)])
        end = -(-end // align) * align
        self.shared_offsets.update({v.name: end for v in externs})
        self.shared_bytes = end + dynamic
        code = self.entry.code
        self.asynchronous = any(i.opcode.startswith(("mbarrier", "wgmma", "cp.async.bulk")) for i in code)
        self.shared = SharedMemory(
            self.blocks, self.shared_bytes, _granule(code, "shared"), self.warps, self.asynchronous
        )

    def _lay_out_rest(self, variables: list[Variable]) -> None:
        self.parameter_offsets: dict[str, int] = {}
        end = 0
        for each in self.entry.parameters:
            end = -(-end // each.align) * each.align
            self.parameter_offsets[each.name] = end
            end += each.bytes
        self.parameters = np.zeros(max(16, -(-end // 16) * 16), np.uint8)
        self.parameter_bytes = end
        self.local_offsets: dict[str, int] = {}
        end = 0
        for each in self.entry.local:
            end = -(-end // each.align) * each.align
            self.local_offsets[each.name] = end
            end += each.bytes
        self.local = np.zeros((self.lanes, max(16, -(-end // 16) * 16)), np.uint8)
        self.variables = [v for v in variables if v.space in ("const", "global")]
        self.symbols = {v.name: np.zeros(1, np.int64) for v in self.variables}
        self.global_granule = _granule(self.entry.code, "global")

    def _special_registers(self) -> dict[str, Array]:
        lane = self.in_block
        x, y, _ = self.block
        bits = np.uint32(1) << (lane % 32).astype(np.uint32)
        below = bits - np.uint32(1)
        special = {
            "%tid.x": lane % x, "%tid.y": lane // x % y, "%tid.z": lane // (x * y),
            "%laneid": lane % 32, "%warpid": lane // 32,
            "%lanemask_eq": bits, "%lanemask_lt": below, "%lanemask_le": below | bits,
            "%lanemask_ge": ~below, "%lanemask_gt": ~(below | bits),
        }  # fmt: skip
        for axis, name in enumerate("xyz"):
            special[f"%ntid.{name}"] = np.full(self.lanes, self.block[axis])
            special[f"%nctaid.{name}"] = np.full(self.lanes, self.grid[axis])
            special[f"%ctaid.{name}"] = np.zeros(self.lanes)
            special[f"%cluster_ctaid.{name}"] = np.zeros(self.lanes)
            special[f"%cluster_nctaid.{name}"] = np.ones(self.lanes)
        special["%cluster_ctarank"] = np.zeros(self.lanes)
        special["%cluster_nctarank"] = np.ones(self.lanes)
        special["%dynamic_smem_size"] = np.full(self.lanes, self.shared_bytes)
        return {name: value.astype(np.uint32) for name, value in special.items()}

    def _allocate_registers(self) -> None:
        sizes = {name: BYTES[kind] for name, kind in self.entry.registers.items()}
        self.files: dict[int, Array] = {}
        self.rows: dict[str, Array] = {}
        self.row_numbers: dict[str, int] = {}
        for size, dtype in ((1, np.bool_), (2, np.uint16), (4, np.uint32), (8, np.uint64)):
            names = [name for name, kind in self.entry.registers.items()
                     if sizes[name] == size and (kind == "pred") == (size == 1)]  # fmt: skip
            self.files[size] = np.zeros((len(names), self.lanes), dtype)
            self.rows.update({name: self.files[size][i] for i, name in enumerate(names)})
            self.row_numbers.update({name: i for i, name in enumerate(names)})

    def uses(self, opcode: str) -> bool:
        if opcode not in self._used:
            self._used[opcode] = any(i.opcode.startswith(opcode) for i in self.entry.code)
        return self._used[opcode]

    # Operands, when closures are made.

    def row(self, operand: Operand) -> Array:
        if not isinstance(operand, Register) or operand.name not in self.rows:
            raise Unsupported(f"{operand} where a register is wanted")
        return self.rows[operand.name]

    def read(self, operand: Operand, kind: str) -> Any:
        """What an operand is as `kind`: a live view of its register, or a scalar."""
        dtype = np.dtype(KINDS[kind])
        if isinstance(operand, Immediate):
            return _constant(operand, kind, dtype)
        if isinstance(operand, Symbol):
            return self._symbol(operand)
        if isinstance(operand, Register) and operand.name in self.special:
            row = self.special[operand.name]
        else:
            row = self.row(operand)
        if kind == "pred":
            if isinstance(operand, Register) and operand.negated:
                raise Unsupported("a negated predicate here")
            return row
        if row.dtype.itemsize == dtype.itemsize:
            return row.view(dtype)
        if row.dtype.itemsize > dtype.itemsize:
            return row.view(dtype)[:: row.dtype.itemsize // dtype.itemsize]
        raise Unsupported(f"{operand} is narrower than {kind}")

    def predicate(self, operand: Operand) -> Callable[[], Any]:
        """A function that gives a predicate operand's value, negated where `!` says so."""
        if isinstance(operand, Immediate):
            value = bool(operand.value)
            return lambda: np.full(self.lanes, value)
        row = self.row(operand)
        if isinstance(operand, Register) and operand.negated:
            return lambda: ~row
        return lambda: row

    def _symbol(self, symbol: Symbol) -> Any:
        if symbol.name in self.symbols:
            base = self.symbols[symbol.name]
            return base if not symbol.offset else _Shifted(base, symbol.offset)
        return np.uint64(self.symbol_offset(symbol))

    def symbol_offset(self, symbol: Symbol) -> int:
        for table in (self.shared_offsets, self.parameter_offsets, self.local_offsets):
            if symbol.name in table:
                return table[symbol.name] + symbol.offset
        raise Unsupported(f"symbol {symbol.name}")

    def target(self, operand: Operand, kind: str) -> tuple[Array, bool]:
        """The register as an array to write, and whether it holds exactly one value of `kind`."""
        row, dtype = self.row(operand), np.dtype(KINDS[kind])
        if row.dtype == np.bool_ or row.dtype.itemsize == dtype.itemsize:
            return row.view(dtype) if row.dtype != np.bool_ else row, True
        if row.dtype.itemsize < dtype.itemsize:
            raise Unsupported(f"{operand} is too narrow for {kind}")
        return row.view(np.dtype(f"{'i' if kind[0] == 's' else 'u'}{row.dtype.itemsize}")), False

    def writer(self, operand: Operand, kind: str) -> Callable[[Any, Mask], None]:
        """A function that stores values of `kind` in a register, widening them as PTX does."""
        if isinstance(operand, Register) and operand.name == "_":
            return lambda value, mask: None
        row, exact = self.target(operand, kind)
        dtype = np.dtype(KINDS[kind])
        if exact:

            def put(value: Any, mask: Mask) -> None:
                np.copyto(row, value, where=mask)
        else:
            unsigned = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{dtype.itemsize}")

            def put(value: Any, mask: Mask) -> None:
                np.copyto(row, np.asarray(value).view(unsigned), where=mask, casting="unsafe")

        return put

    def addresses(self, operand: Operand) -> Callable[[], Array]:
        """A function that gives the addresses (int64, one a thread) of `[base+offset]`."""
        if not isinstance(operand, Address):
            raise Unsupported(f"{operand} where an address is wanted")
        base, offset = operand.base, operand.offset
        if isinstance(base, Immediate):
            return lambda: np.full(self.lanes, base.value + offset, np.int64)
        if isinstance(base, Symbol):
            if base.name in self.symbols:
                cell = self.symbols[base.name]
                return lambda: np.full(self.lanes, cell[0] + offset, np.int64)
            fixed = np.full(self.lanes, self.symbol_offset(base) + offset, np.int64)
            return lambda: fixed
        row = self.row(base)
        if row.dtype.itemsize == 8:
            signed = row.view(np.int64)
            return (lambda: signed + offset) if offset else (lambda: signed)
        return lambda: row.astype(np.int64) + offset

    def vector(self, operand: Operand) -> tuple[Operand, ...]:
        return operand.items if isinstance(operand, Vector) else (operand,)

    # Compiling.

    def _compile(self) -> None:
        code = self.entry.code
        starts = {0, len(code), *self.entry.labels.values()}
        for place, instruction in enumerate(code):
            first = instruction.parts[0]
            if first in ("bra", "ret", "exit", "trap", "brx"):
                starts.add(place + 1)
            elif first in GATED or instruction.opcode.startswith(GATED_OPCODES):
                starts.update((place, place + 1) if first in ("bar", "barrier") else (place,))
        ordered = sorted(starts)
        self.segments: dict[int, Segment] = {}
        for start, stop in zip(ordered, [*ordered[1:], len(code)], strict=True):
            self.pc = start
            self.segments[start] = self._segment(start, stop)

    def _segment(self, start: int, stop: int) -> Segment:
        segment = Segment(start, stop - start)
        self.segment = segment
        for place in range(start, stop):
            instruction = self.entry.code[place]
            self.place = place
            emit = EMITTERS.get(instruction.parts[0])
            if emit is None:
                raise Unsupported(f"instruction `{instruction.text}`")
            try:
                step = emit(self, instruction)
            except Unsupported as error:
                raise Unsupported(f"{error}; in `{instruction.text}`") from None
            except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
                raise Unsupported(f"instruction `{instruction.text}` ({error!r})") from error
            if place == start and segment.gate is not None and instruction.guard is not None:
                segment.gate = self._guarded_gate(segment.gate, instruction.guard)
            if step is not None:
                for wrap in WRAPPERS:
                    step = wrap(self, instruction, step)
                segment.steps.append((self._guarded(step, instruction), instruction))
        return segment

    def _guarded(self, step: Step, instruction: Instruction) -> Step:
        if instruction.guard is None or instruction.parts[0] in ("bra", "ret", "exit"):
            return step
        holds = self.predicate(instruction.guard)

        def guarded(mask: Mask) -> None:
            chosen = holds() if mask is True else mask & holds()
            count = np.count_nonzero(chosen)
            if count:
                step(True if count == self.lanes else chosen)

        return guarded

    def _guarded_gate(self, gate: Gate, guard: Register) -> Gate:
        """Threads whose guard fails skip the instruction, and so need no gate."""
        holds = self.predicate(guard)

        def guarded(mask: Mask) -> Mask:
            here = np.broadcast_to(mask, self.lanes)
            chosen = here & holds()
            return (gate(chosen) if chosen.any() else chosen) | (here & ~holds())

        return guarded

    # Running.

    def run(
        self,
        memory: Memory,
        parameters: bytes,
        tensor_maps: tuple[Any, ...],
        budget: int,
        order: list[int] | None = None,
    ) -> int:
        """Execute the whole grid; returns how many instructions were executed (a step for many threads is one)."""
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
        memory.begin_launch(self.global_granule, total)
        order = list(range(total)) if order is None else order
        with np.errstate(all="ignore"):
            for first in range(0, total, self.blocks):
                self._run_batch(order[first : first + self.blocks])
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
        self.shared.reset()
        for reset in self.resetters:
            reset()
        self.parked.clear()
        self.fronts = {0: True if self.exists.all() else self.exists.copy()}
        self._schedule()

    def _schedule(self) -> None:
        end = len(self.entry.code)
        while self.fronts or self.parked:
            if not self.fronts:
                self._deadlock()
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


@dataclass(frozen=True)
class _Shifted:
    """A module variable's address plus an offset, known only once the variable has a place."""

    base: Array
    offset: int

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.base + self.offset


def _constant(operand: Immediate, kind: str, dtype: np.dtype[Any]) -> Any:
    if kind == "pred":
        return np.bool_(operand.value)
    if operand.float_bytes:
        if operand.float_bytes == dtype.itemsize:
            return np.array([operand.value], f"u{dtype.itemsize}").view(dtype)[0]
        return dtype.type(operand.as_float())
    wrapped = operand.value % (1 << (8 * dtype.itemsize))
    return np.array([wrapped], f"u{dtype.itemsize}").view(dtype)[0]


def _granule(code: list[Instruction], space: str) -> int:
    """The narrowest access to a state space: shadows need not be finer than this."""
    narrowest = 16
    for instruction in code:
        parts = instruction.parts
        if parts[0] in ("ld", "st", "atom", "red", "ldu"):
            touches = any(p == space or p.startswith(space + "::") for p in parts)
            generic = not any(
                p.split("::")[0] in ("global", "shared", "param", "local", "const") for p in parts
            )
            if touches or generic:
                narrowest = min(narrowest, BYTES[parts[-1]])
        elif instruction.opcode.startswith(("cp.async.ca", "cp.async.cg")):
            size = instruction.operands[2]
            narrowest = min(narrowest, size.value if isinstance(size, Immediate) else 4)
        elif parts[0] in ("mbarrier", "wgmma", "ldmatrix", "cp", "stmatrix"):
            narrowest = min(narrowest, 8 if parts[0] == "mbarrier" else 16)
    return narrowest


GATED = {
    "shfl",
    "vote",
    "redux",
    "ldmatrix",
    "stmatrix",
    "mma",
    "wgmma",
    "bar",
    "barrier",
    "setmaxnreg",
    "elect",
}
GATED_OPCODES = ("mbarrier.try_wait", "mbarrier.test_wait", "match.", "activemask")
