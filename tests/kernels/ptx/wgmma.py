# SPDX-License-Identifier: Apache-2.0
"""wgmma: matrix products of a warp group, read from shared memory through descriptors, done asynchronously.

Results are computed at once but kept aside. The accumulator registers hold a NaN that names the pending result until
`wgmma.wait_group` has covered it: moves carry that NaN along (the compiler moves accumulators between products),
a further product finds the pending sum through it, and everything else that touches it is a fault. What the engine
reads of shared memory counts as being read until the wait, so that overwriting it earlier is a race.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from . import numbers
from .bulk import swizzled
from .cutting import add_products
from .faults import Fault, Unsupported
from .machine import Machine
from .mma import fragments_a
from .numbers import Array
from .operands import Mask, names_in
from .segments import WRAPPERS, Step, emitter
from .syntax import Immediate, Instruction, Register, Vector
from .warp import full_warps

TAG = np.uint32(0x7FA00000)  # a quiet-bit-free NaN; the low 20 bits name the pending result
_MARK = np.uint32(0xFFF00000)
_NUMBER = np.uint32(0x000FFFFF)


def tagged(bits: Array) -> Array:
    """Which registers hold a result that was not waited for."""
    return (bits & _MARK) == TAG


class Engine:
    """The products in flight of every warp group."""

    def __init__(self, machine: Machine) -> None:
        if machine.warps % 4:
            raise Unsupported("wgmma in a block that is no multiple of 128 threads")
        self.machine = machine
        self.groups = machine.lanes // 128
        outputs = _accumulators(machine)
        self.rows = np.array([machine.row_numbers[name] for name in outputs])
        self.touching = set(outputs)
        machine.resetters.append(self.reset)
        self.reset()

    def reset(self) -> None:
        self.pending = np.zeros((1, self.machine.lanes), np.float32)  # row 0: never used
        self.used = 1
        self.committed = np.zeros(self.groups, np.int64)
        self.done = np.zeros(self.groups, np.int64)
        self.fenced = np.zeros(self.groups, bool)
        self.group_of = np.zeros((1, self.groups), np.int64)

    def of(self, mask: Mask) -> Array:
        """The warp groups of a mask."""
        if mask is True:
            return np.arange(self.groups)
        return np.flatnonzero(mask.reshape(-1, 128)[:, 0])

    def slots(self, count: int, groups: Array) -> Array:
        """Numbers for `count` new results, of the groups' open commit group."""
        if self.used + count > len(self.pending):
            self.pending = np.concatenate(
                [self.pending, np.zeros((count + len(self.pending), self.machine.lanes), np.float32)]
            )
            self.group_of = np.concatenate(
                [self.group_of, np.zeros((count + len(self.group_of), self.groups), np.int64)]
            )
        numbers_ = np.arange(self.used, self.used + count)
        self.group_of[numbers_[:, None], groups] = self.committed[groups] + 1
        self.used += count
        if self.used > int(_NUMBER):
            raise Unsupported("more pending wgmma results than there are names for")
        return numbers_

    def sums(self, file: Array, rows: Array, lanes: slice) -> Array:
        """The accumulators' values, pending or settled."""
        bits = file[rows, lanes]
        hold = tagged(bits)
        number = (bits & _NUMBER).astype(np.int64) * hold
        pending = self.pending[number, np.arange(lanes.start, lanes.stop)]
        return np.where(hold, pending, bits.view(np.float32))

    def settle(self, groups: Array) -> None:
        """Give registers the results of the groups that are done."""
        machine = self.machine
        file = machine.files[4]
        block = file[self.rows]
        hold = tagged(block)
        number = (block & _NUMBER).astype(np.int64) * hold
        lane = np.arange(machine.lanes)
        group = lane // 128
        ready = hold & (self.group_of[number, group] <= self.done[group]) & np.isin(group, groups)
        values = self.pending[number, lane].view(np.uint32)
        block[ready] = values[ready]
        file[self.rows] = block
        if not (hold & ~ready).any():
            self.used = 1


def _accumulators(machine: Machine) -> list[str]:
    """Registers that can hold a pending result: outputs of wgmma, and what moves copy from those."""
    names = {o.name for i in machine.entry.code if i.opcode.startswith("wgmma.mma_async")
             for o in i.operands[0].items if isinstance(o, Register)}  # type: ignore[union-attr]  # fmt: skip
    moves = [(i.operands[0].name, i.operands[1].name) for i in machine.entry.code
             if i.parts[0] == "mov" and all(isinstance(o, Register) for o in i.operands)]  # type: ignore[union-attr]  # fmt: skip
    grew = True
    while grew:
        size = len(names)
        names.update(target for target, source in moves if source in names)
        grew = len(names) > size
    return sorted(n for n in names if n in machine.row_numbers)


def engine(machine: Machine) -> Engine:
    found: Engine = machine.extension(Engine)
    return found


def guard_registers(machine: Machine, instruction: Instruction, step: Step) -> Step:
    """Refuse an instruction that touches a pending result; remember that registers were touched since the fence."""
    parts = instruction.parts
    if parts[0] == "wgmma" or not machine.uses("wgmma.mma_async"):
        return step
    state = engine(machine)
    names = list(names_in(instruction.operands))
    touched = [machine.rows[n] for n in names if n in state.touching]
    if not touched:
        return step
    if parts[0] == "mov" and len(names) == 2 and all(isinstance(o, Register) for o in instruction.operands):
        return step

    moves = parts[0] == "mov"

    def checked(mask: Mask) -> None:
        for row in touched:
            bad = tagged(row) & mask
            if bad.any():
                raise Fault(
                    "an accumulator of wgmma is touched before wgmma.wait_group covers it"
                    f" (thread {int(np.argmax(bad))})"
                )
        if not moves:  # the compiler itself puts moves between the fence and the product
            state.fenced[state.of(mask) if mask is True else np.unique(np.flatnonzero(mask) // 128)] = False
        step(mask)

    return checked


WRAPPERS.append(guard_registers)


@emitter("wgmma")
def _emit_wgmma(machine: Machine, instruction: Instruction) -> Step:
    machine.require(full_warps(machine, 128))
    name = instruction.parts[1]
    if name == "mma_async":
        return _product(machine, instruction)
    state, shared = engine(machine), machine.shared

    def fence(mask: Mask) -> None:
        state.fenced[state.of(mask)] = True

    def commit(mask: Mask) -> None:
        state.committed[state.of(mask)] += 1

    def wait(mask: Mask) -> None:
        pending = instruction.operands[0]
        assert isinstance(pending, Immediate)
        groups = state.of(mask)
        state.done[groups] = np.maximum(state.done[groups], state.committed[groups] - pending.value)
        state.settle(groups)
        for group in groups.tolist():
            block, local = divmod(group, machine.warps // 4)
            warps = 4 * local + np.arange(4)
            shared.clock[block, warps, machine.warps + local] = state.done[group]

    return {"fence": fence, "commit_group": commit, "wait_group": wait}[name]


def _product(machine: Machine, instruction: Instruction) -> Step:
    shape = re.search(r"\.m64n(\d+)k(\d+)\.f32\.(\w+)\.(\w+)$", instruction.opcode)
    if shape is None or shape[3] != shape[4]:
        raise Unsupported("shape of wgmma")
    columns, depth, kind = int(shape[1]), int(shape[2]), shape[3]
    if columns not in range(8, 257, 8):
        raise Fault(f"wgmma of {columns} columns; a multiple of 8 up to 256 is wanted")
    if depth != {"tf32": 8, "f16": 16, "bf16": 16}.get(kind):
        raise Unsupported("depth of wgmma")
    outputs, first, second, scale, *flags = instruction.operands
    negate_a, negate_b, *transposes = (f.value for f in flags if isinstance(f, Immediate))
    from_registers = isinstance(first, Vector)
    transpose_a = bool(transposes[0]) if len(transposes) == 2 else False
    transpose_b = bool(transposes[-1]) if transposes else False
    rows = np.array([machine.row_numbers[o.name] for o in machine.vector(outputs) if isinstance(o, Register)])
    if len(rows) != columns // 2:
        raise Unsupported("number of accumulators")
    fragment = (
        np.array([machine.row_numbers[o.name] for o in first.items]) if isinstance(first, Vector) else None
    )  # type: ignore[union-attr]
    left = None if from_registers else machine.read(first, "u64")
    right = machine.read(second, "u64")
    keeps = machine.predicate(scale)
    state, file = engine(machine), machine.files[4]
    thread = np.arange(128)
    i = np.arange(columns // 2)[:, None]
    row = thread // 32 * 16 + thread % 32 // 4 + 8 * (i % 4 // 2)
    column = i // 4 * 8 + thread % 4 * 2 + i % 2
    sign = np.float32(negate_a * negate_b)

    def step(mask: Mask) -> None:
        groups = state.of(mask)
        slots = state.slots(len(rows), groups)
        for group in groups.tolist():
            lanes = slice(128 * group, 128 * group + 128)
            if not state.fenced[group]:
                raise Fault("wgmma without wgmma.fence after its registers were written or read")
            reader = _Reader(machine, state, group)
            if fragment is not None:
                if tagged(file[fragment, lanes]).any():
                    raise Fault("wgmma reads registers that hold a pending result")
                words = np.ascontiguousarray(file[fragment, lanes])[None]
                a = fragments_a(words, kind).reshape(64, depth)
            else:
                a = reader.operand(_uniform(left, lanes), 64, depth, kind, transpose_a)
            b = reader.operand(_uniform(right, lanes), columns, depth, kind, transpose_b)
            keep = keeps()[lanes]
            if keep.any() != keep.all():
                raise Fault("threads of a warp group disagree on scale-d")
            addend = np.zeros((64, columns), np.float32)
            if keep[0]:
                addend[row, column] = state.sums(file, rows, lanes)
            state.pending[slots, lanes] = add_products(sign * a, b.T, addend)[row, column]
            file[rows, lanes] = (TAG | slots.astype(np.uint32))[:, None]

    return step


def _uniform(value: Any, lanes: slice) -> int:
    if not isinstance(value, np.ndarray):
        return int(value)
    part = value[lanes]
    if (part != part[0]).any():
        raise Fault("threads of a warp group give different descriptors")
    return int(part[0])


class _Reader:
    """Reads operands of a product from shared memory, for one warp group."""

    def __init__(self, machine: Machine, state: Engine, group: int) -> None:
        self.machine, self.shared = machine, machine.shared
        self.block, self.local = divmod(group, machine.warps // 4)
        self.stamp = int(state.committed[group]) + 1

    def operand(self, descriptor: int, rows: int, depth: int, kind: str, transposed: bool) -> Array:
        """(rows, depth) float32 of a matrix descriptor (PTX manual, "Matrix Descriptor Format")."""
        item = 4 if kind == "tf32" else 2
        if transposed and item != 2:
            raise Fault("only 16-bit operands may be transposed")
        address = _element_addresses(descriptor, rows, depth, item, transposed)
        low, high = int(address.min()), int(address.max())
        if low < 0 or high + item > self.shared.size:
            raise Fault(f"wgmma reads shared memory out of bounds at {high:#x} of {self.shared.size:#x}")
        flat = address + self.block * self.shared.stride
        granules = np.unique(flat // self.shared.granule)
        for warp in range(4 * self.local, 4 * self.local + 4):
            self.shared.note_async_read(
                granules, self.block, warp, self.machine.warps + self.local, self.stamp
            )
        bits = self.shared.data.view(f"u{item}")[flat // item]
        if kind == "tf32":
            return numbers.tf32_operand(bits)
        return numbers.bf16_to_f32(bits) if kind == "bf16" else bits.view(np.float16).astype(np.float32)


def _element_addresses(descriptor: int, rows: int, depth: int, item: int, transposed: bool) -> Array:
    start = (descriptor & 0x3FFF) << 4
    leading, stride = (descriptor >> 16 & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    if descriptor >> 49 & 7:
        raise Unsupported("base offset of a matrix descriptor")
    span = {0: 0, 1: 128, 2: 64, 3: 32}[descriptor >> 62]
    m, k = np.arange(rows)[:, None], np.arange(depth)
    if not transposed:
        if span:
            place = m // 8 * stride + m % 8 * span + k * item
        else:
            place = m // 8 * stride + m % 8 * 16 + k * item // 16 * leading + k * item % 16
    elif span:
        atom = span // item
        place = m // atom * leading + m % atom * item + k // 8 * stride + k % 8 * span
    else:
        place = m // 8 * stride + m % 8 * item + k % 8 * 16 + k // 8 * leading
    return swizzled(start + place, span)
