# SPDX-License-Identifier: Apache-2.0
"""A GPU in the place of the interpreter: the same `Memory` and `run`, so that the same trials run on hardware."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gantk.kernels import cache, launcher
from gantk.kernels import compile as compiling
from gantk.kernels.architecture import Target
from gantk.kernels.compile import compile_unit
from gantk.kernels.device import gpu
from gantk.kernels.driver import call
from gantk.kernels.launch import Launch
from gantk.kernels.launcher import launch
from gantk.kernels.sources import Sources

GUARD = 4096  # Bytes on either side of an array that nothing may write.
_STREAM = 0
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Allocation:
    base: int
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    room: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Memory:
    """Arrays of the first GPU. What nobody has written is all ones, which is NaN in every float format."""

    def __init__(self) -> None:
        self._made: list[_Allocation] = []
        weakref.finalize(self, _free, self._made)

    def put(self, array: Array, align: int = 256, offset: int = 0) -> int:
        """The address of a copy, at `offset` bytes past a multiple of `align`."""
        found = self._allocate(array.shape, array.dtype, align, offset)
        data = np.ascontiguousarray(array)
        if data.nbytes:
            with gpu(0).current():
                call("cuMemcpyHtoDAsync", found.start, data.ctypes.data, data.nbytes, _STREAM)
                call("cuStreamSynchronize", _STREAM)
        return found.start

    def empty(self, shape: int | tuple[int, ...], dtype: Any, align: int = 256, offset: int = 0) -> int:
        """The address of an array never written."""
        whole = (shape,) if isinstance(shape, int) else tuple(shape)
        return self._allocate(whole, np.dtype(dtype), align, offset).start

    def get(self, address: int) -> Array:
        """A copy of the array at `address`."""
        found = self._of(address)
        return self._bytes(found.start, found.size).view(found.dtype).reshape(found.shape)

    def written(self, address: int) -> Array:
        """For each element: whether it is anything but all ones."""
        found = self._of(address)
        raw = self._bytes(found.start, found.size).reshape(-1, found.dtype.itemsize)
        return (raw != 0xFF).any(1).reshape(found.shape)

    def check_guards(self) -> None:
        """Fail where something was written beside an array."""
        for each in self._made:
            whole = self._bytes(each.base, each.room)
            begin = each.start - each.base
            beside = np.concatenate([whole[:begin], whole[begin + each.size :]])
            assert (beside == 0xFF).all(), (
                f"{int((beside != 0xFF).sum())} bytes beside an array {each.shape} are written"
            )

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], align: int, offset: int) -> _Allocation:
        size = int(np.prod(shape)) * dtype.itemsize
        room = -(-(size + align + offset + 2 * GUARD) // 4) * 4
        with gpu(0).current():
            base = int(call("cuMemAlloc", room))
            call("cuMemsetD32Async", base, 0xFFFF_FFFF, room // 4, _STREAM)
        start = -(-(base + GUARD) // align) * align + offset
        self._made.append(_Allocation(base, start, dtype, tuple(shape), room))
        return self._made[-1]

    def _of(self, address: int) -> _Allocation:
        return next(each for each in self._made if each.start == address)

    def _bytes(self, address: int, size: int) -> Array:
        found = np.zeros(size, np.uint8)
        if size:
            with gpu(0).current():
                call("cuMemcpyDtoHAsync", found.ctypes.data, address, size, _STREAM)
                call("cuStreamSynchronize", _STREAM)
        return found


def _free(made: list[_Allocation]) -> None:
    with gpu(0).current():
        for each in made:
            call("cuMemFree", each.base)


def run(launches: Sequence[Launch], memory: Memory, arch: str, **_: Any) -> int:
    """Run launches on the first GPU by its own code, wait for them, and look at what lies beside the arrays."""
    found = gpu(0)
    if arch == "sm_75" and found.device.compute_capability >= (8, 0):
        pytest.skip("its plan has shared memory for the code of sm_75, whose rings have fewer stages")
    launch(found, launches, _STREAM)
    with found.current():
        call("cuStreamSynchronize", _STREAM)
    memory.check_guards()
    return 0


def linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile kernels anew that sleep for 0.1 ms once the next may come."""

    def compile_lingering(unit: str, target: Target, code: Sources) -> bytes:
        return compile_unit(unit, target, code, (*compiling.OPTIONS, "-DGANTK_LINGER_NS=100000"))

    monkeypatch.setenv(cache.VARIABLE, "off")
    monkeypatch.setattr(compiling, "compile_unit", compile_lingering)
    monkeypatch.setattr(compiling, "_compiled", {})
    for name in ("_libraries", "_kernels"):
        monkeypatch.setattr(launcher, name, {})
