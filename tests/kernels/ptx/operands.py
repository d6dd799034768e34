# SPDX-License-Identifier: Apache-2.0
"""Where a kernel's registers, variables and parameters lie, and what its operands mean: for making closures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .faults import Unsupported
from .memory import Memory
from .numbers import Array
from .shared import SharedMemory
from .syntax import (
    BYTES,
    Address,
    Entry,
    Immediate,
    Instruction,
    Operand,
    Pair,
    Register,
    Symbol,
    Variable,
    Vector,
)  # fmt: skip

Mask = Any  # True, or an array of bool, one a thread
Step = Callable[[Mask], None]
Gate = Callable[[Mask], Mask]

KINDS: dict[str, Any] = {
    "f16": np.float16, "f32": np.float32, "f64": np.float64, "pred": np.bool_,
    "bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32, "tf32": np.uint32,
    **{f"{kind}{bits}": np.dtype(f"{'i' if kind == 's' else 'u'}{bits // 8}")
       for kind in "bus" for bits in (8, 16, 32, 64)},
}  # fmt: skip

# Windows of generic addresses; global memory keeps its own addresses.
SHARED_WINDOW = 1 << 60
LOCAL_WINDOW = 2 << 60
PARAM_WINDOW = 3 << 60


class Operands:
    """The storage of `blocks` resident thread blocks of one kernel, one column a thread.

    Registers are rows of numpy arrays, one array for each size, so that a live view of a register in any type of its
    size costs nothing. What operands are is found once, when closures are made.
    """

    def __init__(
        self,
        entry: Entry,
        variables: list[Variable],
        block: tuple[int, int, int],
        grid: tuple[int, int, int],
        dynamic_shared: int,
        blocks: int,
    ) -> None:
        self.entry, self.block, self.grid, self.blocks = entry, block, grid, blocks
        self.threads = int(np.prod(block))
        self.warps = -(-self.threads // 32)
        self.width = 32 * self.warps
        self.lanes = blocks * self.width
        self._used: dict[str, bool] = {}
        self.memory = Memory()
        self.tensor_maps: tuple[Any, ...] = ()
        self._lay_out_shared(variables, dynamic_shared)
        self._lay_out_rest(variables)
        lane = np.arange(self.lanes)
        self.of_block = lane // self.width
        self.of_warp = lane % self.width // 32
        self.in_block = lane % self.width
        self.linear_block = np.zeros(self.lanes, np.int64)
        self.special = self._special_registers()
        self._allocate_registers()

    def uses(self, opcode: str) -> bool:
        """Whether the kernel has an instruction that begins so."""
        if opcode not in self._used:
            self._used[opcode] = any(i.opcode.startswith(opcode) for i in self.entry.code)
        return self._used[opcode]

    # Layout.

    def _lay_out_shared(self, variables: list[Variable], dynamic: int) -> None:
        self.shared_offsets: dict[str, int] = {}
        end = 0
        for each in [*self.entry.shared, *(v for v in variables if v.space == "shared")]:
            end = -(-end // each.align) * each.align
            self.shared_offsets[each.name] = end
            end += each.bytes
        externs = [v for v in variables if v.space == "extern shared"]
        align = max([16, *(v.align for v in externs)])
        end = -(-end // align) * align
        self.shared_offsets.update({v.name: end for v in externs})
        self.shared_bytes = end + dynamic
        code = self.entry.code
        self.asynchronous = any(i.opcode.startswith(("mbarrier", "wgmma", "cp.async.bulk")) for i in code)
        self.shared = SharedMemory(
            self.blocks, self.shared_bytes, _granule(code, "shared"), self.warps, self.asynchronous
        )

    def _lay_out_rest(self, variables: list[Variable]) -> None:
        self.parameter_offsets: dict[str, int] = {}
        end = 0
        for each in self.entry.parameters:
            end = -(-end // each.align) * each.align
            self.parameter_offsets[each.name] = end
            end += each.bytes
        self.parameters = np.zeros(max(16, -(-end // 16) * 16), np.uint8)
        self.parameter_bytes = end
        self.local_offsets: dict[str, int] = {}
        end = 0
        for each in self.entry.local:
            end = -(-end // each.align) * each.align
            self.local_offsets[each.name] = end
            end += each.bytes
        self.local = np.zeros((self.lanes, max(16, -(-end // 16) * 16)), np.uint8)
        self.variables = [v for v in variables if v.space in ("const", "global")]
        self.symbols = {v.name: np.zeros(1, np.int64) for v in self.variables}
        self.global_granule = _granule(self.entry.code, "global")

    def _special_registers(self) -> dict[str, Array]:
        lane = self.in_block
        x, y, _ = self.block
        bits = np.uint32(1) << (lane % 32).astype(np.uint32)
        below = bits - np.uint32(1)
        special = {
            "%tid.x": lane % x, "%tid.y": lane // x % y, "%tid.z": lane // (x * y),
            "%laneid": lane % 32, "%warpid": lane // 32,
            "%lanemask_eq": bits, "%lanemask_lt": below, "%lanemask_le": below | bits,
            "%lanemask_ge": ~below, "%lanemask_gt": ~(below | bits),
        }  # fmt: skip
        for axis, name in enumerate("xyz"):
            special[f"%ntid.{name}"] = np.full(self.lanes, self.block[axis])
            special[f"%nctaid.{name}"] = np.full(self.lanes, self.grid[axis])
            special[f"%ctaid.{name}"] = np.zeros(self.lanes)
            special[f"%cluster_ctaid.{name}"] = np.zeros(self.lanes)
            special[f"%cluster_nctaid.{name}"] = np.ones(self.lanes)
        special["%cluster_ctarank"] = np.zeros(self.lanes)
        special["%cluster_nctarank"] = np.ones(self.lanes)
        special["%dynamic_smem_size"] = np.full(self.lanes, self.shared_bytes)
        return {name: value.astype(np.uint32) for name, value in special.items()}

    def _allocate_registers(self) -> None:
        sizes = {name: BYTES[kind] for name, kind in self.entry.registers.items()}
        self.files: dict[int, Array] = {}
        self.rows: dict[str, Array] = {}
        self.row_numbers: dict[str, int] = {}
        for size, dtype in ((1, np.bool_), (2, np.uint16), (4, np.uint32), (8, np.uint64)):
            names = [name for name, kind in self.entry.registers.items()
                     if sizes[name] == size and (kind == "pred") == (size == 1)]  # fmt: skip
            self.files[size] = np.zeros((len(names), self.lanes), dtype)
            self.rows.update({name: self.files[size][i] for i, name in enumerate(names)})
            self.row_numbers.update({name: i for i, name in enumerate(names)})

    # Operands, when closures are made.

    def row(self, operand: Operand) -> Array:
        if not isinstance(operand, Register) or operand.name not in self.rows:
            raise Unsupported(f"{operand} where a register is wanted")
        return self.rows[operand.name]

    def read(self, operand: Operand, kind: str) -> Any:
        """What an operand is as `kind`: a live view of its register, or a scalar."""
        dtype = np.dtype(KINDS[kind])
        if isinstance(operand, Immediate):
            return _constant(operand, kind, dtype)
        if isinstance(operand, Symbol):
            return self._symbol(operand)
        if isinstance(operand, Register) and operand.name in self.special:
            row = self.special[operand.name]
        else:
            row = self.row(operand)
        if kind == "pred":
            if isinstance(operand, Register) and operand.negated:
                raise Unsupported("a negated predicate here")
            return row
        if row.dtype.itemsize == dtype.itemsize:
            return row.view(dtype)
        if row.dtype.itemsize > dtype.itemsize:
            return row.view(dtype)[:: row.dtype.itemsize // dtype.itemsize]
        raise Unsupported(f"{operand} is narrower than {kind}")

    def predicate(self, operand: Operand) -> Callable[[], Any]:
        """A function that gives a predicate operand's value, negated where `!` says so."""
        if isinstance(operand, Immediate):
            value = bool(operand.value)
            return lambda: np.full(self.lanes, value)
        row = self.row(operand)
        if isinstance(operand, Register) and operand.negated:
            return lambda: ~row
        return lambda: row

    def _symbol(self, symbol: Symbol) -> Any:
        if symbol.name in self.symbols:
            base = self.symbols[symbol.name]
            return base if not symbol.offset else _Shifted(base, symbol.offset)
        return np.uint64(self.symbol_offset(symbol))

    def symbol_offset(self, symbol: Symbol) -> int:
        for table in (self.shared_offsets, self.parameter_offsets, self.local_offsets):
            if symbol.name in table:
                return table[symbol.name] + symbol.offset
        raise Unsupported(f"symbol {symbol.name}")

    def target(self, operand: Operand, kind: str) -> tuple[Array, bool]:
        """The register as an array to write, and whether it holds exactly one value of `kind`."""
        row, dtype = self.row(operand), np.dtype(KINDS[kind])
        if row.dtype == np.bool_ or row.dtype.itemsize == dtype.itemsize:
            return row.view(dtype) if row.dtype != np.bool_ else row, True
        if row.dtype.itemsize < dtype.itemsize:
            raise Unsupported(f"{operand} is too narrow for {kind}")
        return row.view(np.dtype(f"{'i' if kind[0] == 's' else 'u'}{row.dtype.itemsize}")), False

    def writer(self, operand: Operand, kind: str) -> Callable[[Any, Mask], None]:
        """A function that stores values of `kind` in a register, widening them as PTX does."""
        if isinstance(operand, Register) and operand.name == "_":
            return lambda value, mask: None
        row, exact = self.target(operand, kind)
        dtype = np.dtype(KINDS[kind])
        if exact:

            def put(value: Any, mask: Mask) -> None:
                np.copyto(row, value, where=mask)
        else:
            unsigned = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{dtype.itemsize}")

            def put(value: Any, mask: Mask) -> None:
                np.copyto(row, np.asarray(value).view(unsigned), where=mask, casting="unsafe")

        return put

    def addresses(self, operand: Operand) -> Callable[[], Array]:
        """A function that gives the addresses (int64, one a thread) of `[base+offset]`."""
        if not isinstance(operand, Address):
            raise Unsupported(f"{operand} where an address is wanted")
        base, offset = operand.base, operand.offset
        if isinstance(base, Immediate):
            return lambda: np.full(self.lanes, base.value + offset, np.int64)
        if isinstance(base, Symbol):
            if base.name in self.symbols:
                cell = self.symbols[base.name]
                return lambda: np.full(self.lanes, cell[0] + offset, np.int64)
            fixed = np.full(self.lanes, self.symbol_offset(base) + offset, np.int64)
            return lambda: fixed
        row = self.row(base)
        if row.dtype.itemsize == 8:
            signed = row.view(np.int64)
            return (lambda: signed + offset) if offset else (lambda: signed)
        return lambda: row.astype(np.int64) + offset

    def vector(self, operand: Operand) -> tuple[Operand, ...]:
        return operand.items if isinstance(operand, Vector) else (operand,)


@dataclass(frozen=True)
class _Shifted:
    """A module variable's address plus an offset, known only once the variable has a place."""

    base: Array
    offset: int

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.base + self.offset


def _constant(operand: Immediate, kind: str, dtype: np.dtype[Any]) -> Any:
    if kind == "pred":
        return np.bool_(operand.value)
    if operand.float_bytes:
        if operand.float_bytes == dtype.itemsize:
            return np.array([operand.value], f"u{dtype.itemsize}").view(dtype)[0]
        return dtype.type(operand.as_float())
    wrapped = operand.value % (1 << (8 * dtype.itemsize))
    return np.array([wrapped], f"u{dtype.itemsize}").view(dtype)[0]


def _granule(code: list[Instruction], space: str) -> int:
    """The narrowest access to a state space: shadows need not be finer than this."""
    narrowest = 16
    for instruction in code:
        parts = instruction.parts
        if parts[0] in ("ld", "st", "atom", "red", "ldu"):
            touches = any(p == space or p.startswith(space + "::") for p in parts)
            generic = not any(
                p.split("::")[0] in ("global", "shared", "param", "local", "const") for p in parts
            )
            if touches or generic:
                narrowest = min(narrowest, BYTES[parts[-1]])
        elif instruction.opcode.startswith(("cp.async.ca", "cp.async.cg")):
            size = instruction.operands[2]
            narrowest = min(narrowest, size.value if isinstance(size, Immediate) else 4)
        elif parts[0] in ("mbarrier", "wgmma", "ldmatrix", "cp", "stmatrix"):
            narrowest = min(narrowest, 8 if parts[0] == "mbarrier" else 16)
    return narrowest


def names_in(operands: tuple[Operand, ...]) -> Iterator[str]:
    """The registers that operands name."""
    for operand in operands:
        if isinstance(operand, Register):
            yield operand.name
        elif isinstance(operand, Vector):
            yield from names_in(operand.items)
        elif isinstance(operand, Pair):
            yield from names_in((operand.first, operand.second))
        elif isinstance(operand, Address):
            yield from names_in((operand.base, *operand.coordinates))
