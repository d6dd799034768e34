# SPDX-License-Identifier: Apache-2.0
"""cp.async: copies that a thread starts and later waits for.

The bytes are copied at once, but are stamped with the group that carries them; a reader has seen the stamp only once
the copying warp has waited for the group, and told the reader through a barrier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .dependence import check_read
from .faults import Fault, Unsupported
from .machine import Machine
from .numbers import Array
from .operands import Mask
from .segments import Step
from .syntax import Immediate, Instruction, Register


class CopyGroups:
    """For each thread: how many groups it committed, and whether the open one holds copies."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.committed = np.zeros(machine.lanes, np.int32)
        self.done = np.zeros(machine.lanes, np.int32)
        self.copied = np.zeros(machine.lanes, bool)
        machine.resetters.append(self.reset)

    def reset(self) -> None:
        self.committed.fill(0)
        self.done.fill(0)
        self.copied.fill(False)

    def wait(self, mask: Mask, pending: int | None) -> None:
        """Groups older than the last `pending` are done; None: everything, committed or not."""
        machine = self.machine
        done = self.committed + 1 if pending is None else self.committed - pending
        np.copyto(self.done, np.maximum(self.done, done), where=mask)
        least = (
            np.where(self.copied, self.done, np.int32(2**30))
            .reshape(machine.blocks, machine.warps, 32)
            .min(2)
        )
        warps = np.arange(machine.warps)
        agents = machine.shared.copy_agent + warps
        clock = machine.shared.clock
        clock[:, warps, agents] = np.maximum(clock[:, warps, agents], np.where(least == 2**30, 0, least))


def copy_groups(machine: Machine) -> CopyGroups:
    found: CopyGroups = machine.extension(CopyGroups)
    return found


def emit_copy(machine: Machine, instruction: Instruction) -> Step:
    """cp.async.{ca,cg} [shared], [global], size{, source size | ignore predicate}."""
    groups = copy_groups(machine)
    operands = instruction.operands
    size = operands[2]
    if not isinstance(size, Immediate) or size.value not in (4, 8, 16):
        raise Unsupported("cp.async size")
    bytes_ = size.value
    target, source = machine.addresses(operands[0]), machine.addresses(operands[1])
    some: Any = bytes_
    ignore: Callable[[], Any] | None = None
    if len(operands) > 3:
        last = operands[3]
        if isinstance(last, Register) and machine.entry.registers.get(last.name) == "pred":
            ignore = machine.predicate(last)
        elif not any(p.startswith("L2::cache_hint") for p in instruction.parts) or len(operands) > 4:
            some = machine.read(last, "u32")

    def step(mask: Mask) -> None:
        threads = machine.active(mask)
        counts = np.broadcast_to(some, machine.lanes)[threads].astype(np.int64)
        if ignore is not None:
            counts = np.where(ignore()[threads], 0, counts)
        if (counts > bytes_).any():
            raise Fault(f"cp.async of {int(counts.max())} bytes to {bytes_}")
        data = _fetch(machine, source()[threads], counts, threads, bytes_)
        shared, block, warp = machine.shared, machine.of_block[threads], machine.of_warp[threads]
        address = target()[threads]
        shared.check(address, bytes_, bytes_, "cp.async")
        flat = address + block * shared.stride
        stamp = groups.committed[threads] + 1
        agent = warp + shared.copy_agent
        shared.note_write(flat, bytes_, block, warp, agent, stamp, machine.in_block[threads])
        groups.copied[threads] = True
        shared.data[flat[:, None] + np.arange(bytes_)] = data

    return step


def _fetch(machine: Machine, source: Array, counts: Array, threads: Array, bytes_: int) -> Array:
    """(threads, bytes_) bytes, zero past each thread's count."""
    data = np.zeros((len(threads), bytes_), np.uint8)
    if (source & (bytes_ - 1)).any():
        raise Fault(f"misaligned global source of a cp.async of {bytes_} bytes")
    blocks = machine.linear_block[threads]
    read = counts > 0
    machine.order.note_read(source[read], 1, *machine.places(threads[read]))
    whole = counts == bytes_
    if whole.any():
        width = min(8, bytes_)
        loaded = machine.memory.load(source[whole], width, bytes_ // width, blocks[whole])
        data[whole] = loaded.view(np.uint8).reshape(-1, bytes_)
    for count in np.unique(counts[~whole]).tolist():
        chosen = np.flatnonzero(counts == count)
        for byte in range(count):
            loaded = machine.memory.load(source[chosen] + byte, 1, 1, blocks[chosen])
            data[chosen, byte] = loaded[:, 0]
    if machine.dependent:
        check_read(machine, source[read], counts[read], threads[read])
    return data


def emit_commit(machine: Machine, instruction: Instruction) -> Step:
    groups = copy_groups(machine)
    return lambda mask: np.add(groups.committed, 1, out=groups.committed, where=mask)


def emit_wait(machine: Machine, instruction: Instruction) -> Step:
    groups = copy_groups(machine)
    if instruction.opcode == "cp.async.wait_all":
        return lambda mask: groups.wait(mask, None)
    pending = instruction.operands[0]
    if not isinstance(pending, Immediate):
        raise Unsupported("cp.async.wait_group of a register")
    return lambda mask: groups.wait(mask, pending.value)
