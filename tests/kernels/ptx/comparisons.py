# SPDX-License-Identifier: Apache-2.0
"""Comparisons: setp, set, testp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import numbers
from .machine import Machine
from .operands import KINDS, Mask
from .segments import Step, emitter
from .syntax import Instruction, Pair

_FLOATS = ("f16", "f32", "f64")


def _kind(instruction: Instruction) -> str:
    return instruction.parts[-1]


def _compare(name: str) -> Callable[[Any, Any], Any]:
    plain = {"eq": np.equal, "ne": lambda a, b: (a < b) | (a > b), "lt": np.less, "le": np.less_equal, "gt": np.greater,
             "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
             "hs": np.greater_equal}  # fmt: skip
    if name in plain:
        return plain[name]
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    opposite = {"equ": plain["ne"], "neu": np.equal, "ltu": np.greater_equal, "leu": np.greater,
                "gtu": np.less_equal, "geu": np.less}[name]  # fmt: skip
    return lambda a, b: ~opposite(a, b)


_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _comparison(machine: Machine, instruction: Instruction) -> Callable[[], tuple[Any, Any]]:
    """The comparison and its opposite, each combined with the predicate operand where there is one."""
    parts, kind = instruction.parts, _kind(instruction)
    name = parts[1]
    if kind not in (*_FLOATS, "bf16") and name == "ne":
        function: Callable[[Any, Any], Any] = np.not_equal
    else:
        function = _compare(name)
    if name in ("lo", "ls", "hi", "hs"):
        kind = "u" + kind[1:]
    first, second = (machine.read(o, kind) for o in instruction.operands[1:3])
    narrow = numbers.bf16_to_f32 if kind == "bf16" else None
    combine = next((_COMBINE[p] for p in parts[2:-1] if p in _COMBINE), None)
    other = machine.predicate(instruction.operands[3]) if combine else None

    def compare() -> tuple[Any, Any]:
        a, b = (narrow(np.asarray(first)), narrow(np.asarray(second))) if narrow else (first, second)
        if "ftz" in parts:
            a, b = numbers.flush(np.asarray(a)), numbers.flush(np.asarray(b))
        holds = function(a, b)
        if combine is None or other is None:
            return holds, np.logical_not(holds)
        return combine(holds, other()), combine(np.logical_not(holds), other())

    return compare


@emitter("setp")
def _set_predicate(machine: Machine, instruction: Instruction) -> Step:
    target, parts = instruction.operands[0], instruction.parts
    if isinstance(target, Pair):
        compare = _comparison(machine, instruction)
        first, second = machine.writer(target.first, "pred"), machine.writer(target.second, "pred")

        def both(mask: Mask) -> None:
            holds, fails = compare()
            first(holds, mask)
            second(fails, mask)

        return both
    kind = _kind(instruction)
    if (
        len(parts) == 3
        and kind in KINDS
        and kind != "bf16"
        and (parts[1] in ("eq", "lt", "le", "gt", "ge") or (parts[1] == "ne" and kind not in _FLOATS))
    ):  # the common case, in one call
        ufunc = np.not_equal if parts[1] == "ne" else _compare(parts[1])
        row = machine.row(target)
        a, b = (machine.read(o, kind) for o in instruction.operands[1:])
        return lambda mask: ufunc(a, b, out=row, where=mask)  # type: ignore[call-arg]
    compare = _comparison(machine, instruction)
    put = machine.writer(target, "pred")
    return lambda mask: put(compare()[0], mask)


@emitter("set")
def _set(machine: Machine, instruction: Instruction) -> Step:
    parts = instruction.parts
    compare = _comparison(machine, instruction)
    kind = parts[-2]
    put = machine.writer(instruction.operands[0], kind)
    yes = np.float32(1) if kind == "f32" else np.array(-1).astype(KINDS[kind])
    return lambda mask: put(np.where(compare()[0], yes, yes.dtype.type(0)), mask)


@emitter("testp")
def _test_property(machine: Machine, instruction: Instruction) -> Step:
    kind, name = _kind(instruction), instruction.parts[1]
    tests: dict[str, Callable[[Any], Any]] = {
        "finite": np.isfinite, "infinite": np.isinf, "number": lambda x: ~np.isnan(x), "notanumber": np.isnan,
    }  # fmt: skip
    put, value = machine.writer(instruction.operands[0], "pred"), machine.read(instruction.operands[1], kind)
    test = tests[name]
    return lambda mask: put(test(value), mask)
