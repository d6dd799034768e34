# SPDX-License-Identifier: Apache-2.0
"""A fake GPU whose kernels really run: its memory and its launches are those of the PTX interpreter."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import ptx.memory
import pytest
from interpreted import QUICK, compile_ptx, run
from ptx import Memory

from gantk.kernels.launch import Launch, TensorMap

_ALIGNMENT = 4096
_HOPPER = "sm_90a"  # Quick code moves accumulators while wgmma writes them.


class InterpretedMemory(Memory):
    """The interpreter's checked memory, with addresses that are also valid in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size_bytes: int = 1 << 24) -> None:
        room = np.zeros(size_bytes + _ALIGNMENT, np.uint8)
        first = -room.ctypes.data % _ALIGNMENT
        monkeypatch.setattr(ptx.memory, "BASE", room.ctypes.data + first)
        super().__init__()
        self._data = room[first : first + size_bytes]
        self._written = np.zeros(size_bytes, np.uint8)

    def allocate(self, size: int) -> int:
        address = self.empty(size, np.uint8)
        assert self._end <= len(self._written), "the fake GPU is full"
        return address

    def free(self, address: int) -> None:
        start = address - ptx.memory.BASE
        self._allocations = [each for each in self._allocations if each.start != start]
        self._starts = np.array([each.start + ptx.memory.BASE for each in self._allocations], np.int64)
        self._ends = np.array(
            [each.start + each.bytes + ptx.memory.BASE for each in self._allocations], np.int64
        )

    def owner(self, address: int, owners: Mapping[int, int]) -> int | None:
        """The GPU that an address belongs to, by that of each allocation."""
        for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True):
            if start <= address < end:
                return owners.get(start)
        return None

    def write(self, address: int, data: bytes) -> None:
        start = self._offset(address, len(data))
        self._data[start : start + len(data)] = np.frombuffer(data, np.uint8)
        self._written[start : start + len(data)] = 1

    def read(self, address: int, size: int) -> bytes:
        start = self._offset(address, size)
        assert self._written[start : start + size].all(), "memory that no kernel has written is read back"
        return self._data[start : start + size].tobytes()

    def _offset(self, address: int, size: int) -> int:
        return int(self.check(np.array([address]), size, 1, "copy")[0])


def execute(
    memory: Memory,
    unit: str,
    target: str,
    kernel: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    shared_bytes: int,
    parameters: int,
    tensor_maps: Mapping[bytes, Mapping[str, Any]],
    dependent: bool,
) -> None:
    """Run one launch as the driver gets it: parameters at an address, with encoded tensor maps in them.

    How it gets there is looked at here: its code is compiled quickly. Trials of the kernels have it as it is shipped.
    """
    options = () if target == _HOPPER else QUICK
    (parameter,) = compile_ptx(unit, target, kernel, options).entries[kernel].parameters
    data = ctypes.create_string_buffer(ctypes.string_at(parameters, parameter.bytes), parameter.bytes)
    found = [
        TensorMap(offset, **tensor_maps[data.raw[offset : offset + 128]])
        for offset in range(0, parameter.bytes, 64)
        if data.raw[offset : offset + 128] in tensor_maps
    ]
    launch = Launch(unit, kernel, grid, block, shared_bytes, data, tuple(found), dependent)
    run([launch], memory, target, options=options)
