# SPDX-License-Identifier: Apache-2.0
"""Moves, selections and operations on bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .faults import Unsupported
from .machine import Machine
from .numbers import Array
from .operands import KINDS, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Mask
from .segments import Step, emitter
from .syntax import BYTES, Immediate, Instruction, Register, Vector


@emitter("mov")
def _move(machine: Machine, instruction: Instruction) -> Step:
    target, source = instruction.operands
    kind = instruction.parts[-1]
    if isinstance(source, Vector):
        return _pack(machine, instruction, source)
    if isinstance(target, Vector):
        return _unpack(machine, instruction, target)
    if kind == "pred":
        row, value = machine.row(target), machine.predicate(source)
        return lambda mask: np.copyto(row, value(), where=mask)
    if isinstance(source, Register) and source.name in ("%clock", "%clock64", "%globaltimer", "%smid"):
        put = machine.writer(target, kind)
        return lambda mask: put(KINDS[kind].type(machine.executed), mask)
    if not isinstance(source, Immediate) or not source.float_bytes:
        kind = "b" + str(8 * BYTES[kind])
    put, value_ = machine.writer(target, kind), machine.read(source, kind)
    if isinstance(value_, np.ndarray):
        row, exact = machine.target(target, kind)
        if exact and row.dtype == value_.dtype:
            return lambda mask: np.copyto(row, value_, where=mask)
    dtype = np.dtype(KINDS[kind])
    return lambda mask: put(np.asarray(value_).astype(dtype), mask)


def _pack(machine: Machine, instruction: Instruction, source: Vector) -> Step:
    whole = instruction.parts[-1]
    part = BYTES[whole] // len(source.items)
    put = machine.writer(instruction.operands[0], f"b{8 * BYTES[whole]}")
    values = [machine.read(item, f"b{8 * part}") for item in source.items]

    def step(mask: Mask) -> None:
        stacked = np.stack([np.broadcast_to(v, machine.lanes) for v in values], axis=1)
        put(np.ascontiguousarray(stacked).view(f"u{BYTES[whole]}")[:, 0], mask)

    return step


def _unpack(machine: Machine, instruction: Instruction, target: Vector) -> Step:
    whole = BYTES[instruction.parts[-1]]
    part = whole // len(target.items)
    value = machine.read(instruction.operands[1], f"b{8 * whole}")
    puts = [machine.writer(item, f"b{8 * part}") for item in target.items]

    def step(mask: Mask) -> None:
        pieces = np.ascontiguousarray(np.broadcast_to(value, machine.lanes)).view(f"u{part}")
        pieces = pieces.reshape(machine.lanes, -1).copy()  # a target may be part of the source
        for i, put in enumerate(puts):
            put(pieces[:, i], mask)

    return step


_WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAM_WINDOW, "global": 0, "const": 0}


@emitter("cvta")
def _convert_address(machine: Machine, instruction: Instruction) -> Step:
    space = next(p.split("::")[0] for p in instruction.parts if p.split("::")[0] in _WINDOWS)
    window = np.uint64(_WINDOWS[space])
    put, value = machine.writer(instruction.operands[0], "u64"), machine.read(instruction.operands[1], "u64")
    if instruction.parts[1] == "to":
        return lambda mask: put(np.asarray(value).astype(np.uint64) - window, mask)
    return lambda mask: put(np.asarray(value).astype(np.uint64) + window, mask)


@emitter("isspacep")
def _is_space(machine: Machine, instruction: Instruction) -> Step:
    put, value = machine.writer(instruction.operands[0], "pred"), machine.read(instruction.operands[1], "u64")
    window = np.uint64(_WINDOWS[instruction.parts[1].split("::")[0]] >> 60)
    return lambda mask: put(value >> np.uint64(60) == window, mask)


@emitter("selp")
def _select(machine: Machine, instruction: Instruction) -> Step:
    kind = instruction.parts[-1]
    put = machine.writer(instruction.operands[0], kind)
    first, second = (machine.read(o, kind) for o in instruction.operands[1:3])
    chooses = machine.predicate(instruction.operands[3])
    return lambda mask: put(np.where(chooses(), first, second), mask)


@emitter("slct")
def _select_by_sign(machine: Machine, instruction: Instruction) -> Step:
    kind, sign_kind = instruction.parts[-2:]
    put = machine.writer(instruction.operands[0], kind)
    first, second = (machine.read(o, kind) for o in instruction.operands[1:3])
    sign = machine.read(instruction.operands[3], sign_kind)
    return lambda mask: put(np.where(sign >= 0, first, second), mask)


def _words(
    machine: Machine, instruction: Instruction, function: Callable[..., Any], kind: str = "u32"
) -> Step:
    put = machine.writer(instruction.operands[0], kind)
    sources = [machine.read(operand, kind) for operand in instruction.operands[1:]]
    return lambda mask: put(function(*(np.broadcast_to(s, machine.lanes) for s in sources)), mask)


@emitter("lop3")
def _logic3(machine: Machine, instruction: Instruction) -> Step:
    *_, table = instruction.operands
    if not isinstance(table, Immediate):
        raise Unsupported("lop3 with a predicate")
    bits = table.value
    put = machine.writer(instruction.operands[0], "b32")
    a, b, c = (machine.read(o, "b32") for o in instruction.operands[1:4])

    def step(mask: Mask) -> None:
        result = np.zeros(machine.lanes, np.uint32)
        for row in range(8):
            if bits >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        put(result, mask)

    return step


@emitter("prmt")
def _permute(machine: Machine, instruction: Instruction) -> Step:
    if len(instruction.parts) > 2:
        raise Unsupported("prmt with a mode")

    def permute(a: Array, b: Array, selector: Array) -> Array:
        bytes_ = np.stack([a, b], axis=1).view(np.uint8).reshape(-1, 8)
        choice = (selector[:, None] >> (4 * np.arange(4, dtype=np.uint32))) & 15
        picked = np.take_along_axis(bytes_, (choice & 7).astype(np.int64), axis=1)
        signs = (picked.view(np.int8) >> 7).view(np.uint8)
        return np.ascontiguousarray(np.where(choice & 8, signs, picked)).view(np.uint32)[:, 0]

    return _words(machine, instruction, permute)


@emitter("bfe")
def _extract(machine: Machine, instruction: Instruction) -> Step:
    kind = instruction.parts[-1]
    size = 8 * BYTES[kind]
    put, value = machine.writer(instruction.operands[0], kind), machine.read(instruction.operands[1], kind)
    start, length = (machine.read(o, "u32") for o in instruction.operands[2:])
    unsigned, signed = np.dtype(f"u{size // 8}"), np.dtype(f"i{size // 8}")

    def step(mask: Mask) -> None:
        first = np.minimum(start & np.uint32(255), size).astype(np.int64)
        count = np.minimum(np.minimum(length & np.uint32(255), size).astype(np.int64), size - first)
        left = np.broadcast_to(value, machine.lanes).view(unsigned) << (size - first - count).astype(unsigned)
        right = (size - count).astype(unsigned)
        result = left.view(signed) >> right.view(signed) if kind[0] == "s" else left >> right
        put(np.where(count == 0, 0, result).astype(KINDS[kind]), mask)

    return step


@emitter("bfi")
def _insert(machine: Machine, instruction: Instruction) -> Step:
    kind = instruction.parts[-1]
    size = 8 * BYTES[kind]
    dtype = np.dtype(KINDS[kind])
    put = machine.writer(instruction.operands[0], kind)
    field, base = (machine.read(o, kind) for o in instruction.operands[1:3])
    start, length = (machine.read(o, "u32") for o in instruction.operands[3:])

    def step(mask: Mask) -> None:
        first = np.minimum(start & np.uint32(255), size).astype(dtype)
        count = np.minimum(length & np.uint32(255), size).astype(dtype)
        ones = np.where(count >= size, ~dtype.type(0), (dtype.type(1) << count) - dtype.type(1)) << first
        put(((field << first) & ones) | (base & ~ones), mask)

    return step


@emitter("shf")
def _funnel(machine: Machine, instruction: Instruction) -> Step:
    _, side, mode, _ = instruction.parts

    def funnel(low: Array, high: Array, amount: Array) -> Array:
        count = amount & np.uint32(31) if mode == "wrap" else np.minimum(amount, np.uint32(32))
        both = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
        if side == "l":
            return ((both << count.astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)
        return (both >> count.astype(np.uint64)).astype(np.uint32)

    return _words(machine, instruction, funnel)


@emitter("popc", "clz", "brev", "bfind")
def _count(machine: Machine, instruction: Instruction) -> Step:
    name, kind = instruction.parts[0], instruction.parts[-1]
    size = BYTES[kind]
    value = machine.read(instruction.operands[1], f"b{8 * size}")
    put = machine.writer(instruction.operands[0], f"b{8 * size}" if name == "brev" else "u32")

    def step(mask: Mask) -> None:
        words = np.ascontiguousarray(np.broadcast_to(value, machine.lanes))
        bits = np.unpackbits(
            words.view(np.uint8).reshape(-1, size)[:, ::-1], axis=1
        )  # most significant first
        if name == "popc":
            put(bits.sum(1).astype(np.uint32), mask)
        elif name == "brev":
            put(np.packbits(bits[:, ::-1], axis=1)[:, ::-1].copy().view(f"u{size}")[:, 0], mask)
        else:
            if name == "bfind" and kind[0] == "s":
                bits = bits ^ bits[:, :1]
            zeros = np.where(bits.any(1), bits.argmax(1), 8 * size)
            if (
                name == "bfind"
            ):  # the place of the first one, or how far to shift it to the top; without one, ~0
                place = zeros if "shiftamt" in instruction.parts else 8 * size - 1 - zeros
                zeros = np.where(bits.any(1), place, -1)
            put(zeros.astype(np.uint32), mask)

    return step
