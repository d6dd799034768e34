# SPDX-License-Identifier: Apache-2.0
"""What the threads of a warp do together: shuffles, votes, ldmatrix, mma.

All of them have a gate: a warp goes on when every thread that the instruction names has come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .faults import Fault, Unsupported
from .machine import Machine
from .numbers import Array
from .operands import Mask
from .segments import Gate, Step, emitter
from .syntax import Immediate, Instruction, Operand, Pair


def full_warps(machine: Machine, size: int = 32) -> Gate:
    """Let warps (or warp groups, of 128 threads) through once all their threads are there."""

    def gate(mask: Mask) -> Mask:
        if mask is True and machine.width % size == 0:
            return True
        groups = np.broadcast_to(mask, machine.lanes).reshape(
            -1, size if machine.width % size == 0 else machine.width
        )
        gone = machine.exited.reshape(groups.shape)
        if (groups.any(1) & gone.any(1)).any() or machine.width % size:
            raise Fault(f"collective of {size} threads, some of which have exited or never were")
        return np.repeat(groups.all(1), groups.shape[1])

    return gate


def named_lanes(machine: Machine, operand: Operand) -> Gate:
    """Let warps through once all lanes of the member mask are there."""
    members = machine.read(operand, "u32")
    bits = np.uint32(1) << (np.arange(machine.lanes, dtype=np.uint32) % np.uint32(32))
    everyone = isinstance(operand, Immediate) and operand.value % 2**32 == 2**32 - 1

    def gate(mask: Mask) -> Mask:
        if mask is True and everyone:
            return True
        wanted = np.broadcast_to(members, machine.lanes)
        here = np.broadcast_to(mask, machine.lanes)
        if (here & (wanted & bits == 0)).any():
            raise Fault("a thread executes a collective whose member mask does not name it")
        masks = wanted.reshape(-1, 32)
        present = here.reshape(-1, 32)
        first = masks[np.arange(len(masks)), present.argmax(1)]
        if (present & (masks != first[:, None])).any():
            raise Fault("threads of one warp give different member masks")
        named = (first[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1) != 0
        if (present.any(1)[:, None] & named & machine.exited.reshape(-1, 32)).any():
            raise Fault("a collective names threads that have exited")
        ready = present.any(1) & (present | ~named).all(1)
        return np.repeat(ready, 32) & here

    return gate


@emitter("shfl")
def _shuffle(machine: Machine, instruction: Instruction) -> Step:
    machine.require(named_lanes(machine, instruction.operands[4]))
    mode = instruction.parts[2]
    target = instruction.operands[0]
    put = machine.writer(target.first if isinstance(target, Pair) else target, "b32")
    inside = machine.writer(target.second, "pred") if isinstance(target, Pair) else None
    value, amount, clamp = (machine.read(o, "u32") for o in instruction.operands[1:4])
    lane = np.tile(np.arange(32), machine.lanes // 32)
    base = np.arange(machine.lanes) - lane
    members = machine.read(instruction.operands[4], "u32")

    def step(mask: Mask) -> None:
        by = np.broadcast_to(amount, machine.lanes).astype(np.int64) & 31
        control = np.broadcast_to(clamp, machine.lanes).astype(np.int64)
        segment = control >> 8 & 31
        bound = control & 31
        most = (lane & segment) | (bound & ~segment)
        least = lane & segment
        if mode == "up":
            source = lane - by
            valid = source >= most
        elif mode == "down":
            source = lane + by
            valid = source <= most
        elif mode == "bfly":
            source = lane ^ by
            valid = source <= most
        else:
            source = least | (by & ~segment)
            valid = source <= most
        source = np.where(valid, source, lane)
        named = np.broadcast_to(members, machine.lanes) >> source.astype(np.uint32) & np.uint32(1)
        if (np.broadcast_to(mask, machine.lanes) & (named == 0)).any():
            raise Fault("shfl reads a lane that the member mask does not name")
        put(np.broadcast_to(value, machine.lanes)[base + source], mask)
        if inside is not None:
            inside(valid, mask)

    return step


def _warp_words(machine: Machine, chosen: Array) -> Array:
    """One word a thread: bit i says whether lane i of its warp is chosen."""
    rows = chosen.reshape(-1, 32)
    words = (rows.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1).astype(np.uint32)
    return np.repeat(words, 32)


@emitter("vote")
def _vote(machine: Machine, instruction: Instruction) -> Step:
    machine.require(named_lanes(machine, instruction.operands[2]))
    mode, kind = instruction.parts[2], instruction.parts[-1]
    put = machine.writer(instruction.operands[0], kind)
    holds = machine.predicate(instruction.operands[1])

    def step(mask: Mask) -> None:
        here = np.broadcast_to(mask, machine.lanes)
        yes = _warp_words(machine, here & holds())
        everyone = _warp_words(machine, here)
        result: dict[str, Callable[[], Any]] = {
            "ballot": lambda: yes, "any": lambda: yes != 0, "all": lambda: yes == everyone,
            "uni": lambda: (yes == everyone) | (yes == 0),
        }  # fmt: skip
        put(result[mode](), mask)

    return step


@emitter("activemask")
def _active_mask(machine: Machine, instruction: Instruction) -> Step:
    put = machine.writer(instruction.operands[0], "b32")
    return lambda mask: put(_warp_words(machine, np.broadcast_to(mask, machine.lanes)), mask)


@emitter("redux")
def _reduce(machine: Machine, instruction: Instruction) -> Step:
    machine.require(named_lanes(machine, instruction.operands[2]))
    operation, kind = instruction.parts[2], instruction.parts[-1]
    ufunc: Any = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
                  "or": np.bitwise_or, "xor": np.bitwise_xor}[operation]  # fmt: skip
    if kind == "f32":
        raise Unsupported("redux of floats")
    put, value = machine.writer(instruction.operands[0], kind), machine.read(instruction.operands[1], kind)

    def step(mask: Mask) -> None:
        rows = np.broadcast_to(value, machine.lanes).reshape(-1, 32)
        here = np.broadcast_to(mask, machine.lanes).reshape(-1, 32)
        info = np.iinfo(rows.dtype)
        neutral = {"min": info.max, "max": info.min, "and": -1 if info.min < 0 else info.max}.get(
            operation, 0
        )
        whole = np.where(here, rows, rows.dtype.type(neutral))
        put(np.repeat(ufunc.reduce(whole, axis=1, dtype=rows.dtype), 32), mask)

    return step


@emitter("elect")
def _elect(machine: Machine, instruction: Instruction) -> Step:
    machine.require(named_lanes(machine, instruction.operands[1]))
    target = instruction.operands[0]
    assert isinstance(target, Pair)
    put, chosen = machine.writer(target.first, "b32"), machine.writer(target.second, "pred")

    def step(mask: Mask) -> None:
        first = np.broadcast_to(mask, machine.lanes).reshape(-1, 32).argmax(1)
        lane = np.tile(np.arange(32), machine.lanes // 32)
        leader = np.repeat(first, 32)
        put(leader.astype(np.uint32), mask)
        chosen(lane == leader, mask)

    return step


@emitter("ldmatrix")
def _load_matrix(machine: Machine, instruction: Instruction) -> Step:
    parts = instruction.parts
    if "m8n8" not in parts or parts[-1] != "b16":
        raise Unsupported("shape of ldmatrix")
    machine.require(full_warps(machine))
    targets = machine.vector(instruction.operands[0])
    puts = [machine.writer(each, "b32") for each in targets]
    address = machine.addresses(instruction.operands[1])
    transposed = "trans" in parts
    number = len(targets)
    rows = np.arange(8 * number)

    def step(mask: Mask) -> None:
        warps = np.arange(machine.lanes // 32)
        if mask is not True:
            warps = warps[mask.reshape(-1, 32)[:, 0]]
        threads = (warps[:, None] * 32 + rows).reshape(
            -1
        )  # lane 8 i + r holds the address of row r of matrix i
        shared, at = machine.shared, address()[threads]
        block, warp = machine.of_block[threads], machine.of_warp[threads]
        shared.check(at, 16, 16, "ldmatrix")
        flat = at + block * shared.stride
        shared.note_read(flat, 16, block, warp, None)
        data = shared.data.view(np.uint32)[(flat // 4)[:, None] + np.arange(4)]
        matrices = data.reshape(len(warps), number, 8, 4)
        if transposed:
            halves = np.ascontiguousarray(matrices).view(np.uint16)
            matrices = np.ascontiguousarray(halves.swapaxes(2, 3)).view(np.uint32)
        for i, put in enumerate(puts):
            if mask is True:
                put(matrices[:, i].reshape(-1), True)
            else:
                whole = np.zeros((machine.lanes // 32, 32), np.uint32)
                whole[warps] = matrices[:, i].reshape(-1, 32)
                put(whole.reshape(-1), mask)

    return step
