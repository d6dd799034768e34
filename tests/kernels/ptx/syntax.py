# SPDX-License-Identifier: Apache-2.0
"""What PTX text says: operands, instructions, variables, kernels."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

BYTES = {
    kind + bits: int(bits) // 8
    for kind in ("b", "u", "s", "f")
    for bits in ("8", "16", "32", "64")
    if kind + bits != "f8"
} | {"bf16": 2, "f16x2": 4, "bf16x2": 4, "tf32": 4, "pred": 1, "b128": 16}


@dataclass(frozen=True)
class Register:
    name: str
    negated: bool = False


@dataclass(frozen=True)
class Immediate:
    """A number as written: an int, or the bits of a float with their size in bytes."""

    value: int
    float_bytes: int = 0

    def as_float(self) -> float:
        code = {4: "<If", 8: "<Qd"}[self.float_bytes]
        return float(struct.unpack("<" + code[2], struct.pack(code[:2], self.value))[0])


@dataclass(frozen=True)
class Symbol:
    name: str
    offset: int = 0


@dataclass(frozen=True)
class Vector:
    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Address:
    base: Operand
    offset: int = 0
    coordinates: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class Pair:
    first: Operand
    second: Operand


Operand = Register | Immediate | Symbol | Vector | Address | Pair


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple[Operand, ...]
    guard: Register | None
    text: str

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.opcode.split("."))


@dataclass(frozen=True)
class Variable:
    """A variable of some state space: `bytes` long, with the bytes of its initialiser, if any."""

    name: str
    space: str
    align: int
    bytes: int
    initial: bytes = b""


@dataclass
class Entry:
    name: str
    parameters: list[Variable] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    shared: list[Variable] = field(default_factory=list)
    local: list[Variable] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    most_threads: int = 1024  # Of a block: `__launch_bounds__`.
