# SPDX-License-Identifier: Apache-2.0
"""Arithmetic, logic and comparisons, one closure an instruction.

Approximate instructions (`rcp.approx`, `ex2.approx`, ...) are computed exactly in float64 and rounded once: a GPU may
differ from them by the few units in the last place that the PTX manual allows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import numbers
from .faults import Unsupported
from .machine import Machine
from .numbers import Array
from .operands import KINDS, Mask
from .segments import Step, emitter
from .syntax import BYTES, Instruction

_FLOATS = ("f16", "f32", "f64")
_UFUNCS: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip


def _kind(instruction: Instruction) -> str:
    return instruction.parts[-1]


def _finish(instruction: Instruction) -> Callable[[Any], Any]:
    """What `.ftz` and `.sat` do to a float32 result."""
    parts = instruction.parts
    ftz, sat = "ftz" in parts, "sat" in parts

    def finish(value: Any) -> Any:
        if sat:
            value = np.where(np.isnan(value), value.dtype.type(0), np.clip(value, 0, 1))
        return numbers.flush(value) if ftz else value

    return finish


def _compute(machine: Machine, instruction: Instruction, function: Callable[..., Any], kind: str) -> Step:
    """A closure that stores function(sources), all of one kind."""
    put = machine.writer(instruction.operands[0], kind)
    sources = [machine.read(operand, kind) for operand in instruction.operands[1:]]
    finish = _finish(instruction)
    plain = not {"ftz", "sat"} & set(instruction.parts)
    if plain:
        return lambda mask: put(function(*sources), mask)
    if "ftz" in instruction.parts:
        return lambda mask: put(finish(function(*(numbers.flush(np.asarray(s)) for s in sources))), mask)
    return lambda mask: put(finish(function(*sources)), mask)


def _ufunc(machine: Machine, instruction: Instruction, ufunc: Any, kind: str) -> Step:
    """As `_compute`, straight into the register where the widths allow."""
    row, exact = machine.target(instruction.operands[0], kind)
    if not exact or {"ftz", "sat"} & set(instruction.parts):
        return _compute(machine, instruction, ufunc, kind)
    sources = [machine.read(operand, kind) for operand in instruction.operands[1:]]
    if len(sources) == 1:
        source = sources[0]
        return lambda mask: ufunc(source, out=row, where=mask)
    first, second = sources
    return lambda mask: ufunc(first, second, out=row, where=mask)


def _rounded(instruction: Instruction) -> str:
    return next((p for p in instruction.parts if p in ("rm", "rp", "rz")), "rn")


def _packed(machine: Machine, instruction: Instruction, function: Callable[..., Any]) -> Step:
    """f16x2 and bf16x2: apply to both halves. `function` takes and gives float16, or float32 for bf16."""
    kind = _kind(instruction)
    narrow = kind.removesuffix("x2")
    halves = 2 if kind.endswith("x2") else 1
    word = "b32" if halves == 2 else "b16"
    put = machine.writer(instruction.operands[0], word)
    sources = [machine.read(operand, word) for operand in instruction.operands[1:]]

    def step(mask: Mask) -> None:
        bits = [np.ascontiguousarray(np.broadcast_to(s, machine.lanes)).view(np.uint16) for s in sources]
        values = [numbers.bf16_to_f32(b) if narrow == "bf16" else b.view(np.float16) for b in bits]
        result = function(*values)
        if narrow == "bf16":
            result = result if result.dtype == np.uint16 else numbers.f32_to_bf16(result)
        put(np.ascontiguousarray(result).view(KINDS[word]), mask)

    return step


def _is_packed(instruction: Instruction) -> bool:
    return _kind(instruction) in ("f16x2", "bf16x2", "bf16")


@emitter("add", "sub", "and", "or", "xor")
def _simple(machine: Machine, instruction: Instruction) -> Step:
    kind = _kind(instruction)
    name = instruction.parts[0]
    ufunc = _UFUNCS[name]
    if "cc" in instruction.parts:
        raise Unsupported("carry out")
    if kind == "pred":
        return _predicates(machine, instruction, {"and": np.logical_and, "or": np.logical_or,
                                                  "xor": np.logical_xor}[name])  # fmt: skip
    if _is_packed(instruction):
        return _packed(machine, instruction, ufunc)
    rounding = _rounded(instruction)
    if kind == "f32" and rounding != "rn":
        sign = np.float32(1 if name == "add" else -1)
        return _compute(
            machine, instruction, lambda a, b: numbers.directed(b, np.full_like(b, sign), a, rounding), kind
        )
    if kind in ("s32", "s64") and "sat" in instruction.parts:
        raise Unsupported("saturating integer addition")
    return _ufunc(machine, instruction, ufunc, kind)


def _predicates(machine: Machine, instruction: Instruction, ufunc: Any) -> Step:
    row = machine.row(instruction.operands[0])
    sources = [machine.predicate(operand) for operand in instruction.operands[1:]]
    return lambda mask: np.copyto(row, ufunc(*(s() for s in sources)), where=mask)


@emitter("not", "neg", "abs", "cnot")
def _unary(machine: Machine, instruction: Instruction) -> Step:
    kind, name = _kind(instruction), instruction.parts[0]
    if kind == "pred":
        return _predicates(machine, instruction, np.logical_not)
    if name == "cnot":
        return _compute(machine, instruction, lambda a: (a == 0).astype(a.dtype), kind)
    ufunc = {"not": np.bitwise_not, "neg": np.negative, "abs": np.abs}[name]
    return (
        _packed(machine, instruction, ufunc)
        if _is_packed(instruction)
        else _ufunc(machine, instruction, ufunc, kind)
    )


@emitter("min", "max")
def _extreme(machine: Machine, instruction: Instruction) -> Step:
    kind, name = _kind(instruction), instruction.parts[0]
    if "NaN" in instruction.parts:
        ufunc: Any = np.minimum if name == "min" else np.maximum
    else:
        ufunc = np.fmin if name == "min" else np.fmax
    if len(instruction.operands) > 3:
        raise Unsupported("three operands of min or max")
    return (
        _packed(machine, instruction, ufunc)
        if _is_packed(instruction)
        else _ufunc(machine, instruction, ufunc, kind)
    )


_DOUBLE = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}


def _high(a: Any, b: Any, kind: str) -> Any:
    """The upper half of a product."""
    if kind in _DOUBLE:
        wide = KINDS[_DOUBLE[kind]]
        shift = wide.type(8 * KINDS[kind].itemsize)
        return ((np.asarray(a).astype(wide) * np.asarray(b).astype(wide)) >> shift).astype(KINDS[kind])
    size = 8 * KINDS[kind].itemsize
    product = np.asarray(a).astype(object) * np.asarray(b).astype(object)
    return ((product >> size) % (1 << size)).astype(f"u{size // 8}").view(KINDS[kind])


@emitter("mul")
def _multiply(machine: Machine, instruction: Instruction) -> Step:
    kind, parts = _kind(instruction), instruction.parts
    if _is_packed(instruction):
        return _packed(machine, instruction, np.multiply)
    if "wide" in parts:
        wide = _DOUBLE[kind]
        put = machine.writer(instruction.operands[0], wide)
        first, second = (machine.read(o, kind) for o in instruction.operands[1:])
        dtype = KINDS[wide]
        return lambda mask: put(np.multiply(first, second, dtype=dtype), mask)
    if "hi" in parts:
        return _compute(machine, instruction, lambda a, b: _high(a, b, kind), kind)
    rounding = _rounded(instruction)
    if kind == "f32" and rounding != "rn":
        return _compute(
            machine, instruction, lambda a, b: numbers.directed(a, b, np.zeros_like(a), rounding), kind
        )
    return _ufunc(machine, instruction, np.multiply, kind)


@emitter("mad", "fma")
def _multiply_add(machine: Machine, instruction: Instruction) -> Step:
    kind, parts = _kind(instruction), instruction.parts
    if kind in ("f16x2", "f16"):
        return _packed(machine, instruction, numbers.fma_f16)
    if kind in ("bf16", "bf16x2"):
        return _packed(machine, instruction, numbers.fma_bf16)
    if kind == "f32":
        rounding = _rounded(instruction)
        if rounding != "rn":
            return _compute(machine, instruction, lambda a, b, c: numbers.directed(a, b, c, rounding), kind)
        return _compute(machine, instruction, numbers.fma_f32, kind)
    if kind == "f64":
        return _compute(
            machine, instruction, lambda a, b, c: a * b + c, kind
        )  # two roundings: not for kernels
    if "cc" in parts:
        raise Unsupported("carry out")
    first, second = (machine.read(o, kind) for o in instruction.operands[1:3])
    if "wide" in parts:
        wide = _DOUBLE[kind]
        put, addend = (
            machine.writer(instruction.operands[0], wide),
            machine.read(instruction.operands[3], wide),
        )
        dtype = KINDS[wide]
        return lambda mask: put(np.multiply(first, second, dtype=dtype) + addend, mask)
    if "hi" in parts:
        return _compute(machine, instruction, lambda a, b, c: _high(a, b, kind) + c, kind)
    return _compute(machine, instruction, lambda a, b, c: a * b + c, kind)


@emitter("div", "rem")
def _divide(machine: Machine, instruction: Instruction) -> Step:
    kind, name = _kind(instruction), instruction.parts[0]
    if kind in _FLOATS:
        return _compute(machine, instruction, np.divide, kind)
    if name == "rem":
        return _compute(machine, instruction, lambda a, b: np.where(b == 0, a, np.fmod(a, b)), kind)
    ones = np.array(-1).astype(KINDS[kind])

    def quotient(a: Any, b: Any) -> Any:
        safe = np.where(b == 0, KINDS[kind].type(1), b)
        return np.where(b == 0, ones, (a - np.fmod(a, safe)) // safe)

    return _compute(machine, instruction, quotient, kind)


_APPROXIMATE: dict[str, Callable[[Array], Array]] = {
    "rcp": lambda x: 1 / x, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "ex2": np.exp2, "lg2": np.log2,
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
}  # fmt: skip


@emitter(*_APPROXIMATE)
def _function(machine: Machine, instruction: Instruction) -> Step:
    kind = _kind(instruction)
    function = _APPROXIMATE[instruction.parts[0]]
    if kind not in _FLOATS:
        return _packed(machine, instruction, lambda x: function(x.astype(np.float64)).astype(x.dtype))
    rounding = _rounded(instruction)
    if rounding != "rn" and "approx" not in instruction.parts:
        raise Unsupported(f"rounding {rounding}")
    dtype = KINDS[kind]
    return _compute(machine, instruction, lambda x: function(np.asarray(x, np.float64)).astype(dtype), kind)


@emitter("shl", "shr")
def _shift(machine: Machine, instruction: Instruction) -> Step:
    kind = _kind(instruction)
    if instruction.parts[0] == "shr" and kind[0] == "b":
        kind = "u" + kind[1:]
    put = machine.writer(instruction.operands[0], kind)
    value, amount = machine.read(instruction.operands[1], kind), machine.read(instruction.operands[2], "u32")
    dtype, most = np.dtype(KINDS[kind]), 8 * BYTES[kind]
    unsigned = np.dtype(f"u{dtype.itemsize}")
    ufunc = np.left_shift if instruction.parts[0] == "shl" else np.right_shift
    if not isinstance(amount, np.ndarray):
        fixed = dtype.type(min(int(amount), most))
        return lambda mask: put(ufunc(value, fixed), mask)
    return lambda mask: put(ufunc(value, np.minimum(amount, most).astype(unsigned).view(dtype)), mask)


@emitter("copysign")
def _copysign(machine: Machine, instruction: Instruction) -> Step:
    return _compute(machine, instruction, lambda sign, value: np.copysign(value, sign), _kind(instruction))
