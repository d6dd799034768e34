# SPDX-License-Identifier: Apache-2.0
"""mma.sync, and runs of instructions that can be executed as one.

A kernel's inner loop is mostly long runs of mma or fma that do not depend on one another. Executed together, as one
stack of matrices or rows, they cost a tenth of the numpy calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import numbers
from .cutting import add_products
from .faults import Unsupported
from .machine import Machine
from .numbers import Array
from .operands import Mask
from .segments import RUNS, Step, emitter
from .syntax import Instruction, Operand, Register
from .warp import full_warps

_SHAPES = {"m16n8k4": ("tf32",), "m16n8k8": ("tf32", "f16", "bf16"), "m16n8k16": ("f16", "bf16")}

# A thread g * 4 + t of a warp holds, of each matrix, what the PTX manual draws ("Matrix Fragments for mma"). Below,
# w counts warps, i the registers, h the halves of a register; a transposition turns fragments into matrices.


def _numbers(words: Array, kind: str) -> Array:
    """Words as float32, one more axis of 2 for 16-bit kinds."""
    if kind == "tf32":
        return numbers.tf32_operand(words)
    halves = words.view(np.uint16).reshape(*words.shape, 2)
    return numbers.bf16_to_f32(halves) if kind == "bf16" else halves.view(np.float16).astype(np.float32)


def fragments_a(words: Array, kind: str) -> Array:
    """(stack, registers, 32 w) words to (stack, w, 16, K) float32: the row-major operand."""
    stack, registers, threads = words.shape
    values = _numbers(words, kind).reshape(
        stack, registers // 2, 2, threads // 32, 8, 4, -1
    )  # s i1 i0 w g t h
    return values.transpose(0, 3, 2, 4, 1, 5, 6).reshape(stack, threads // 32, 16, -1)


def fragments_b(words: Array, kind: str) -> Array:
    """(stack, registers, 32 w) words to (stack, w, K, 8) float32: the column-major operand."""
    stack, registers, threads = words.shape
    values = _numbers(words, kind).reshape(stack, registers, threads // 32, 8, 4, -1)  # s i w g t h
    return values.transpose(0, 2, 1, 4, 5, 3).reshape(stack, threads // 32, -1, 8)


def _products_to_registers(product: Array) -> Array:
    """(stack, w, 16, 8) to (4 stack, 32 w): what each register of D gets."""
    stack, warps = product.shape[:2]
    values = product.reshape(stack, warps, 2, 8, 4, 2)  # s w i1 g t i0
    return values.transpose(0, 2, 5, 1, 3, 4).reshape(4 * stack, 32 * warps)


def _registers_to_products(registers: Array) -> Array:
    """The other way round, for the addend."""
    stack, warps = len(registers) // 4, registers.shape[1] // 32
    values = registers.reshape(stack, 2, 2, warps, 8, 4)  # s i1 i0 w g t
    return values.transpose(0, 3, 1, 4, 5, 2).reshape(stack, warps, 16, 8)


def _rows(machine: Machine, operand: Operand) -> tuple[int, ...]:
    items = machine.vector(operand)
    if not all(isinstance(o, Register) for o in items):
        raise Unsupported("an immediate in a fragment")
    return tuple(machine.row_numbers[o.name] for o in items if isinstance(o, Register))


def _once(tuples: list[tuple[int, ...]]) -> tuple[Array, Array]:
    """The different register tuples, and which of them each instruction uses."""
    different = sorted(set(tuples))
    return np.array(different), np.array([different.index(each) for each in tuples])


def _multiply_accumulate(machine: Machine, run: list[Instruction]) -> Step:
    parts = run[0].parts
    shape, kind = parts[3], parts[-2]
    if kind not in _SHAPES.get(shape, ()) or parts[4:7] != ("row", "col", "f32") or parts[-1] != "f32":
        raise Unsupported("shape of mma")
    machine.require(full_warps(machine))
    file = machine.files[4]
    rows_a, use_a = _once([_rows(machine, i.operands[1]) for i in run])
    rows_b, use_b = _once([_rows(machine, i.operands[2]) for i in run])
    targets = np.array([_rows(machine, i.operands[0]) for i in run]).reshape(-1)
    addends = [machine.read(o, "f32") for i in run for o in machine.vector(i.operands[3])]
    in_place = all(isinstance(a, np.ndarray) for a in addends)
    sources = np.array([_rows(machine, i.operands[3]) for i in run]).reshape(-1) if in_place else None

    def step(mask: Mask) -> None:
        a, b = fragments_a(file[rows_a], kind)[use_a], fragments_b(file[rows_b], kind)[use_b]
        if sources is not None:
            addend = file[sources].view(np.float32)
        else:
            addend = np.stack([np.broadcast_to(c, machine.lanes) for c in addends])
        result = _products_to_registers(add_products(a, b, _registers_to_products(addend)))
        _put_rows(file, targets, result, mask)

    return step


def _put_rows(file: Array, rows: Array, values: Array, mask: Mask) -> None:
    if mask is True:
        file[rows] = values.view(np.uint32)
    else:
        threads = np.flatnonzero(mask)
        file[rows[:, None], threads] = values.view(np.uint32)[:, threads]


@emitter("mma")
def _one(machine: Machine, instruction: Instruction) -> Step:
    return _multiply_accumulate(machine, [instruction])


def _fused_additions(machine: Machine, run: list[Instruction]) -> Step:
    """A run of fma.rn.f32 over registers."""
    file = machine.files[4]
    rows = [np.array([machine.row_numbers[_register(i.operands[n])] for i in run]) for n in range(4)]

    def step(mask: Mask) -> None:
        a, b, c = (file[each].view(np.float32) for each in rows[1:])
        _put_rows(file, rows[0], numbers.fma_f32(a, b, c), mask)

    return step


def _register(operand: Any) -> str:
    assert isinstance(operand, Register)
    return operand.name


def _is_multiplication(instruction: Instruction) -> bool:
    return instruction.opcode.startswith("mma.sync")


def _is_addition(instruction: Instruction) -> bool:
    return instruction.opcode == "fma.rn.f32" and all(isinstance(o, Register) for o in instruction.operands)


RUNS.append((_is_multiplication, _multiply_accumulate))
RUNS.append((_is_addition, _fused_additions))
