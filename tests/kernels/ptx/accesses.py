# SPDX-License-Identifier: Apache-2.0
"""Loads, stores, atomics and cp.async."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .dependence import check_read, check_write
from .faults import Fault, Unsupported
from .machine import Machine
from .numbers import Array
from .operands import KINDS, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Mask
from .segments import Step, emitter
from .syntax import BYTES, Address, Immediate, Instruction, Operand, Symbol

_SPACES = ("global", "shared", "local", "param", "const")


def _space(instruction: Instruction) -> str:
    return next((p.split("::")[0] for p in instruction.parts if p.split("::")[0] in _SPACES), "generic")


def _count(instruction: Instruction) -> int:
    return next((int(p[1:]) for p in instruction.parts if p in ("v2", "v4", "v8")), 1)


def _resolve(address: Array) -> tuple[str, Array]:
    """The state space of generic addresses, which one instruction may not mix, and the addresses in it."""
    window = address >> 60
    if (window != window[0]).any():
        raise Fault("one generic access touches several state spaces")
    space = {
        0: "global",
        SHARED_WINDOW >> 60: "shared",
        LOCAL_WINDOW >> 60: "local",
        PARAM_WINDOW >> 60: "param",
    }
    if int(window[0]) not in space:
        raise Fault(f"address {int(address[0]):#x} is in no state space")
    return space[int(window[0])], address & ((1 << 60) - 1)


def _load(
    machine: Machine, space: str, address: Array, threads: Array, width: int, count: int, nc: bool
) -> Array:
    if space == "generic":
        space, address = _resolve(address)
    if space in ("global", "const"):
        loaded = machine.memory.load(address, width, count, machine.linear_block[threads], nc)
        if machine.dependent:
            check_read(machine, address, width * count, threads, constant=nc)
        machine.order.note_read(address, width * count, *machine.places(threads))
        return loaded
    if space == "shared":
        return machine.shared.load(
            address,
            width,
            count,
            machine.of_block[threads],
            machine.of_warp[threads],
            machine.in_block[threads],
        )
    buffer = machine.local if space == "local" else machine.parameters[None]
    row = threads if space == "local" else np.zeros_like(threads)
    index = _place(space, address, width, count, buffer.shape[1])
    return buffer.view(f"u{width}")[row[:, None], index]


def _place(space: str, address: Array, width: int, count: int, size: int) -> Array:
    if (address % (width * count)).any():
        raise Fault(f"misaligned {space} access of {width * count} bytes")
    if address.min() < 0 or address.max() + width * count > size:
        raise Fault(f"{space} access out of bounds at {int(address.max())} of {size} bytes")
    return (address // width)[:, None] + np.arange(count)


@emitter("ld", "ldu")
def _emit_load(machine: Machine, instruction: Instruction) -> Step:
    kind, space, count = instruction.parts[-1], _space(instruction), _count(instruction)
    width, nc = BYTES[kind], "nc" in instruction.parts
    puts = [machine.writer(item, kind) for item in machine.vector(instruction.operands[0])]
    if len(puts) != count:
        raise Unsupported("vector length")
    source = instruction.operands[1]
    if space == "param" and isinstance(source, Address) and isinstance(source.base, Symbol):
        return _load_parameter(machine, source, puts, kind)
    address = machine.addresses(source)
    dtype = np.dtype(KINDS[kind])
    everyone = np.arange(machine.lanes)

    def step(mask: Mask) -> None:
        if mask is True:
            values = _load(machine, space, address(), everyone, width, count, nc)
            for i, put in enumerate(puts):
                put(np.ascontiguousarray(values[:, i]).view(dtype), True)
            return
        threads = np.flatnonzero(mask)
        values = _load(machine, space, address()[threads], threads, width, count, nc)
        whole = np.empty(machine.lanes, values.dtype)
        for i, put in enumerate(puts):
            whole[threads] = values[:, i]
            put(whole.view(dtype), mask)

    return step


def _load_parameter(machine: Machine, source: Address, puts: list[Any], kind: str) -> Step:
    """At a fixed place all threads load the same; most of a kernel's first instructions are these."""
    assert isinstance(source.base, Symbol)
    start, count = machine.symbol_offset(source.base) + source.offset, len(puts)
    width, dtype = BYTES[kind], np.dtype(KINDS[kind])
    _place("param", np.array([start]), width, count, len(machine.parameters))
    values = machine.parameters[start : start + width * count].view(dtype)

    def step(mask: Mask) -> None:
        for i, put in enumerate(puts):
            put(values[i], mask)

    return step


@emitter("st")
def _emit_store(machine: Machine, instruction: Instruction) -> Step:
    kind, space = instruction.parts[-1], _space(instruction)
    word = f"b{8 * BYTES[kind]}"
    items = machine.vector(instruction.operands[1])
    values = [machine.read(item, kind if _is_float(item) else word) for item in items]
    address = machine.addresses(instruction.operands[0])
    dtype = np.dtype(KINDS[word])

    def step(mask: Mask) -> None:
        threads = machine.active(mask)
        block = np.empty((len(threads), len(values)), dtype)
        for i, value in enumerate(values):
            block[:, i] = value[threads].view(dtype) if isinstance(value, np.ndarray) else value.view(dtype)
        where, at = space, address()[threads]
        if where == "generic":
            where, at = _resolve(at)
        if where == "global":
            check_write(machine, threads)
            machine.memory.store(at, block, machine.linear_block[threads])
            machine.order.note_write(at, dtype.itemsize * len(values), *machine.places(threads))
        elif where == "shared":
            machine.shared.store(
                at, block, machine.of_block[threads], machine.of_warp[threads], machine.in_block[threads]
            )
        elif where == "local":
            index = _place("local", at, dtype.itemsize, len(values), machine.local.shape[1])
            machine.local.view(dtype)[threads[:, None], index] = block
        else:
            raise Fault(f"store to .{where}")

    return step


def _is_float(item: Operand) -> bool:
    return isinstance(item, Immediate) and item.float_bytes > 0


@emitter("prefetch", "prefetchu", "discard", "applypriority")
def _emit_hint(machine: Machine, instruction: Instruction) -> Step | None:
    return None


# Atomics: one thread after another, in thread order. Floats are refused: their sums depend on the order.


def _inc(old: int, value: int) -> int:
    return 0 if old >= value else old + 1


_ATOMIC: dict[str, Callable[[int, int], int]] = {
    "add": lambda old, value: old + value, "min": min, "max": max, "and": lambda old, value: old & value,
    "or": lambda old, value: old | value, "xor": lambda old, value: old ^ value, "exch": lambda old, value: value,
    "inc": _inc, "dec": lambda old, value: value if old == 0 or old > value else old - 1,
}  # fmt: skip


@emitter("atom", "red")
def _emit_atomic(machine: Machine, instruction: Instruction) -> Step:
    parts, kind = instruction.parts, instruction.parts[-1]
    if kind in ("f16", "f32", "f64", "bf16", "f16x2", "bf16x2"):
        raise Unsupported("an atomic on floats, whose result depends on the order")
    operation = next(p for p in parts[1:] if p in _ATOMIC or p == "cas")
    returns = parts[0] == "atom"
    operands = list(instruction.operands)
    put = machine.writer(operands.pop(0), kind) if returns else None
    address = machine.addresses(operands[0])
    sources = [machine.read(operand, kind) for operand in operands[1:]]
    space, width = _space(instruction), BYTES[kind]
    dtype, modulus = np.dtype(KINDS[kind]), 1 << 8 * width

    def apply(old: int, lane: int) -> int:
        values = [int(np.broadcast_to(s, machine.lanes)[lane]) for s in sources]
        if operation == "cas":
            return values[1] if old == values[0] else old
        return _ATOMIC[operation](old, values[0])

    def step(mask: Mask) -> None:
        threads = machine.active(mask)
        where, at = space, address()[threads]
        if where == "generic":
            where, at = _resolve(at)
        if where == "shared":
            machine.shared.check(at, width, width, "atomic")
            view, index = (
                machine.shared.data.view(dtype),
                (at + machine.of_block[threads] * machine.shared.stride) // width,
            )
        elif where == "global":
            check_write(machine, threads)
            view, index = machine.memory.peek(at, width)
            view = view.view(dtype)
        else:
            raise Fault(f"atomic in .{where}")
        old_values = np.zeros(machine.lanes, dtype)
        for lane, place, target in zip(threads.tolist(), index.tolist(), at.tolist(), strict=True):
            if where == "global":
                machine.memory.note_atomic(target, width)
                machine.memory.synchronise(target, int(machine.linear_block[lane]))
            old = int(view[place])
            old_values[lane] = old
            view[place] = np.array(apply(old, lane) % modulus, f"u{width}").view(dtype)
        if put is not None:
            put(old_values, mask)

    return step


@emitter("membar", "fence")
def _emit_fence(machine: Machine, instruction: Instruction) -> Step | None:
    opcode = instruction.opcode
    if opcode.startswith("fence.proxy.async"):

        def proxy(mask: Mask) -> None:
            threads = machine.active(mask)
            machine.shared.fence_proxy(machine.of_block[threads], machine.of_warp[threads])

        return proxy
    if opcode.startswith("fence.mbarrier_init"):
        from .mbarriers import mbarriers

        return mbarriers(machine).fence
    if opcode.startswith("fence.proxy") or opcode.endswith(("cta",)):
        return None
    return lambda mask: machine.memory.fence(machine.linear_block[machine.active(mask)])
