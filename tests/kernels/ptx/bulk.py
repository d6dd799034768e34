# SPDX-License-Identifier: Apache-2.0
"""cp.*: the copies of one thread (see accesses), bulk copies, and tiles fetched through a tensor map (TMA).

A tensor map is read as its specification, not in NVIDIA's 128 opaque bytes: `offset` inside the parameters, `address`,
`element`, `sizes`, `strides_bytes`, `box` (innermost dimension first; strides from the second on) and `swizzle`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .copies import copy_groups, emit_commit, emit_copy, emit_wait
from .faults import Fault, Unsupported
from .machine import Machine
from .mbarriers import MBarrier, mbarriers
from .numbers import Array
from .operands import PARAM_WINDOW, Mask
from .segments import Step, emitter
from .syntax import Address, Instruction

_ELEMENT_BYTES = {"float32": 4, "tfloat32": 4, "tf32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "float64": 8,
                  "int32": 4, "uint32": 4, "uint16": 2}  # fmt: skip
_SWIZZLE_ROWS = {128: 7, 64: 3, 32: 1}


def swizzled(address: Array, span: int) -> Array:
    """Where a byte of a tile really lies: address bits 4.. are xored with bits 7.. (span 128, 64, 32 or 0)."""
    if span == 0:
        return address
    return address ^ ((address >> 7 & _SWIZZLE_ROWS[span]) << 4)


def swizzle_span(name: Any) -> int:
    """128, 64, 32 or 0 of what a tensor map calls its swizzle."""
    digits = re.search(r"\d+", str(name))
    span = int(digits[0]) if digits else 0
    if span not in (0, *_SWIZZLE_ROWS):
        raise Fault(f"swizzle {name}")
    return span


@emitter("cp")
def _copy(machine: Machine, instruction: Instruction) -> Step | None:
    opcode = instruction.opcode
    if opcode.startswith(("cp.async.ca", "cp.async.cg")):
        return emit_copy(machine, instruction)
    if opcode == "cp.async.commit_group":
        return emit_commit(machine, instruction)
    if opcode.startswith("cp.async.wait"):
        return emit_wait(machine, instruction)
    if opcode.startswith("cp.async.bulk.prefetch"):
        return None
    if opcode.startswith("cp.async.bulk.tensor.") and ".global.tile" in opcode.replace(
        ".global.mbarrier", ".global.tile"
    ):
        return _tile(machine, instruction)
    if opcode.startswith("cp.async.bulk.shared") and "complete_tx::bytes" in opcode:
        return _bulk(machine, instruction)
    if opcode.startswith("cp.async.mbarrier.arrive.noinc"):
        return _arrive_when_copied(machine, instruction)
    raise Unsupported(opcode)


def _arrive_when_copied(machine: Machine, instruction: Instruction) -> Step:
    """The mbarrier gets this thread's arrival once its cp.async copies are done; here they are done at once."""
    groups, objects = copy_groups(machine), mbarriers(machine)
    address = machine.addresses(instruction.operands[0])

    def step(mask: Mask) -> None:
        groups.wait(mask, None)
        at = address()
        for lane in machine.active(mask).tolist():
            objects.arrive(lane, int(at[lane]), 1, 0)

    return step


class _Landing:
    """A bulk copy's writes to shared memory, stamped for the mbarrier that completes it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.objects = mbarriers(machine)

    def write(self, lane: int, flat: Array, data: Array, barrier: MBarrier) -> None:
        """`flat`: the place of each 16-byte unit, (units,); `data`: (units, 16)."""
        machine = self.machine
        shared = machine.shared
        barrier.copies += 1
        block, warp = int(machine.of_block[lane]), int(machine.of_warp[lane])
        every = np.ones(len(flat), np.int64)
        shared.note_write(
            flat, 16, every * block, every * warp, every * (shared.barrier_agent + barrier.number),
            every * barrier.copies, every * -1,
        )  # fmt: skip
        shared.data[flat[:, None] + np.arange(16)] = data
        self.objects.receive(barrier, data.size)


def _bulk(machine: Machine, instruction: Instruction) -> Step:
    """cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [to], [from], bytes, [mbarrier]."""
    to, source, bytes_, at = instruction.operands[:4]
    target, origin, barrier = (machine.addresses(o) for o in (to, source, at))
    size = machine.read(bytes_, "u32")
    landing = _Landing(machine)

    def step(mask: Mask) -> None:
        for lane in machine.active(mask).tolist():
            count, place, first = (
                int(np.broadcast_to(size, machine.lanes)[lane]),
                target()[lane],
                origin()[lane],
            )
            if count % 16 or place % 16 or first % 16:
                raise Fault(
                    f"bulk copy of {count} bytes from {int(first):#x} to {int(place):#x}: not in 16-byte units"
                )
            machine.shared.check(np.array([place]), count, 1, "bulk copy")
            units = first + 16 * np.arange(count // 16)
            blocks = np.full(len(units), machine.linear_block[lane])
            data = machine.memory.load(units, 8, 2, blocks).view(np.uint8).reshape(-1, 16)
            flat = place + machine.of_block[lane] * machine.shared.stride + 16 * np.arange(count // 16)
            found = landing.objects.find(lane, int(barrier()[lane]))
            landing.write(lane, flat, data, found)

    return step


def _tile(machine: Machine, instruction: Instruction) -> Step:
    """cp.async.bulk.tensor.Nd...: [to], [map, {x, y, ...}], [mbarrier]."""
    if any(p.startswith("im2col") or p.startswith("multicast") for p in instruction.parts):
        raise Unsupported(instruction.opcode)
    to, source, at = instruction.operands[:3]
    assert isinstance(source, Address)
    target, map_address, barrier = (
        machine.addresses(to),
        machine.addresses(Address(source.base, source.offset)),
        None,
    )
    barrier = machine.addresses(at)
    coordinates = [machine.read(each, "s32") for each in source.coordinates]
    rank = int(next(p for p in instruction.parts if re.fullmatch(r"[1-5]d", p))[0])
    if rank != len(coordinates):
        raise Unsupported("rank of coordinates")
    landing = _Landing(machine)

    def step(mask: Mask) -> None:
        for lane in machine.active(mask).tolist():
            spec = _find_map(machine, int(map_address()[lane]))
            if len(spec.sizes) != rank:
                raise Fault(f"a tile of rank {rank} through a tensor map of rank {len(spec.sizes)}")
            corner = [int(np.broadcast_to(c, machine.lanes)[lane]) for c in coordinates]
            data = _read_tile(machine, spec, corner, int(machine.linear_block[lane]))
            place = int(target()[lane])
            machine.shared.check(np.array([place]), data.size, 128, "tile")
            base = place + int(machine.of_block[lane]) * machine.shared.stride
            flat = swizzled(base + 16 * np.arange(data.size // 16), swizzle_span(spec.swizzle))
            found = landing.objects.find(lane, int(barrier()[lane]))
            landing.write(lane, flat, data.reshape(-1, 16), found)

    return step


def _find_map(machine: Machine, address: int) -> Any:
    offset = address - PARAM_WINDOW if address >= PARAM_WINDOW else address
    for spec in machine.tensor_maps:
        if spec.offset == offset:
            if offset % 64:
                raise Fault(f"tensor map at byte {offset} of the parameters: it must lie at a multiple of 64")
            return spec
    raise Fault(f"no tensor map at byte {offset} of the parameters")


def _read_tile(machine: Machine, spec: Any, corner: list[int], block: int) -> Array:
    """The box at a corner, bytes in order of the dimensions, zero where it leaves the tensor.

    On an H100 the copy engine traps (ILLEGAL_INSTRUCTION) on a corner between two units of 16 bytes, whatever the
    swizzle and also where the box is wholly outside.
    """
    item = _ELEMENT_BYTES[str(spec.element)]
    if corner[0] * item % 16:
        raise Fault(f"a tile at element {corner[0]} of {item} bytes: not at a multiple of 16 bytes")
    sizes, box = list(spec.sizes), list(spec.box)
    strides = [item, *spec.strides_bytes][: len(sizes)]
    _validate(spec, item, sizes, box, strides)
    inside = np.ones((), bool)
    offsets = np.zeros((), np.int64)
    for dimension in range(
        len(sizes)
    ):  # innermost last in memory order, so each goes in front of the ones before
        index = corner[dimension] + np.arange(box[dimension])
        inside = ((index >= 0) & (index < sizes[dimension])).reshape(-1, *[1] * inside.ndim) & inside
        offsets = (index * strides[dimension]).reshape(-1, *[1] * offsets.ndim) + offsets
    inside, offsets = inside.reshape(-1), offsets.reshape(-1)
    data = np.zeros((len(offsets), item), np.uint8)
    if inside.any():
        addresses = spec.address + offsets[inside]
        loaded = machine.memory.load(addresses, item, 1, np.full(len(addresses), block))
        data[inside] = loaded.view(np.uint8).reshape(-1, item)
    return data.reshape(-1)


def _validate(spec: Any, item: int, sizes: list[int], box: list[int], strides: list[int]) -> None:
    """What cuTensorMapEncodeTiled would refuse."""
    span = swizzle_span(spec.swizzle)
    wrong = (
        ("address", spec.address % 16 != 0),
        ("strides", any(s % 16 or not 0 < s < 2**40 for s in strides[1:])),
        ("sizes", any(not 1 <= s <= 2**32 for s in sizes)),
        ("box", any(not 1 <= b <= 256 for b in box) or box[0] * item % 16 != 0),
        ("swizzle", span != 0 and box[0] * item > span),
        ("rank", not 1 <= len(sizes) <= 5 or len(box) != len(sizes)),
    )
    for what, bad in wrong:
        if bad:
            raise Fault(f"tensor map with a bad {what}: {spec}")
