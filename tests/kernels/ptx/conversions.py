# SPDX-License-Identifier: Apache-2.0
"""cvt: between integers and floats of all widths, each rounding once."""

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
from .syntax import Instruction


def _integer_to_integer(value: Any, target: str, saturate: bool) -> Any:
    dtype = np.dtype(KINDS[target])
    if saturate:
        info = np.iinfo(dtype)
        value = np.clip(np.asarray(value).astype(object), int(info.min), int(info.max))
    return np.asarray(value).astype(dtype)


def _float_to_integer(value: Any, target: str, rounding: str) -> Array:
    """NaN becomes 0, and what is out of range the nearest end."""
    wide = np.asarray(value, np.float64)
    whole = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](wide)
    info = np.iinfo(KINDS[target])
    inside = (whole >= float(info.min)) & (
        whole < float(info.max) + (1 if float(info.max) == info.max else 0)
    )
    result = np.where(inside, whole, 0).astype(KINDS[target])
    result = np.where(~inside & (whole > 0), info.max, result)
    return np.where(~inside & (whole < 0), info.min, result).astype(KINDS[target])


def _to_float(value: Array, target: str, rounding: str) -> Array:
    """float64 or an integer array to the bits or values of a float kind, rounding once."""
    if target == "f64":
        return value.astype(np.float64)
    if target == "f32":
        if rounding in ("rm", "rp", "rz") and value.dtype.itemsize <= 4:
            return numbers.round_f32(value.astype(np.float64), rounding)
        return value.astype(np.float32)
    if target == "f16":
        if value.dtype.kind != "f":
            value = value.astype(np.float64)
        if rounding == "rz":
            near = value.astype(np.float16)
            return np.where(np.abs(near.astype(np.float64)) > np.abs(value.astype(np.float64)),
                            np.nextafter(near, np.float16(0)), near)  # fmt: skip
        return value.astype(np.float16)
    if target == "bf16":
        if value.dtype == np.float32:
            return numbers.f32_to_bf16(value, rounding)
        return numbers.f64_to_bf16(value.astype(np.float64))
    if target == "tf32":
        return numbers.f32_to_tf32(value.astype(np.float32), rounding)
    raise Unsupported(f"conversion to {target}")


def _converter(target: str, source: str, parts: tuple[str, ...]) -> Callable[[Any], Any]:
    floats = ("f16", "f32", "f64", "bf16")
    rounding = next(
        (p for p in parts if p in ("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi")), "rn"
    )
    saturate, ftz, relu = "sat" in parts, "ftz" in parts, "relu" in parts

    def convert(value: Any) -> Any:
        value = np.asarray(value)
        if source == "bf16":
            value = numbers.bf16_to_f32(value)
        if ftz and source == "f32":
            value = numbers.flush(value)
        if relu:
            value = np.where(value > 0, value, value.dtype.type(0))
        if source not in floats:
            result = _integer_to_integer(value, target, saturate) if target not in (*floats, "tf32") else None
            return _to_float(value, target, rounding) if result is None else result
        if target not in (*floats, "tf32"):
            return _float_to_integer(value, target, rounding)
        if rounding.endswith("i"):
            whole = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding]
            value = whole(value)
        if saturate:
            value = np.where(np.isnan(value), value.dtype.type(0), np.clip(value, 0, 1))
        result = _to_float(value, target, "rn" if rounding.endswith("i") else rounding)
        return numbers.flush(result) if ftz and target == "f32" else result

    return convert


@emitter("cvt")
def _convert(machine: Machine, instruction: Instruction) -> Step:
    parts = instruction.parts
    target, source = parts[-2:]
    if "pack" in parts:
        raise Unsupported("cvt.pack")
    if target in ("f16x2", "bf16x2"):
        convert = _converter(target.removesuffix("x2"), source, parts)
        put = machine.writer(instruction.operands[0], "b32")
        upper, lower = (machine.read(o, source) for o in instruction.operands[1:3])

        def both(mask: Mask) -> None:
            pair = np.empty((machine.lanes, 2), np.uint16)
            pair[:, 0] = np.asarray(convert(lower)).view(np.uint16)
            pair[:, 1] = np.asarray(convert(upper)).view(np.uint16)
            put(pair.view(np.uint32)[:, 0], mask)

        return both
    convert = _converter(target, source, parts)
    put, value = (
        machine.writer(instruction.operands[0], target),
        machine.read(instruction.operands[1], source),
    )
    simple = not ({"sat", "ftz", "relu"} & set(parts)) and target[0] in "usb" and source[0] in "usb"
    if simple and target != "bf16" and source != "bf16" and isinstance(value, np.ndarray):
        dtype = np.dtype(KINDS[target])
        row, exact = machine.target(instruction.operands[0], target)
        if exact:
            return lambda mask: np.copyto(row, value, where=mask, casting="unsafe")
        return lambda mask: put(value.astype(dtype), mask)
    return lambda mask: put(convert(value), mask)
