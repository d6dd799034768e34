# SPDX-License-Identifier: Apache-2.0
"""A stand-in for pycuda (`driver`, `gpuarray` and `tools`), as far as the adapter uses it, on memory of this process.

It follows pycuda 2025.1: functions are prepared with a format of `struct` and take the packed bytes; modules belong to
the current context; GPUArrays take their memory from their allocator.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class FakeAllocation:
    """`DeviceAllocation`: an address, freed with its last reference."""

    def __init__(self, pycuda: FakePyCUDA, size: int) -> None:
        self._pycuda, self._address = pycuda, pycuda.memory.allocate(size)
        pycuda.allocated[self._address] = size

    def __int__(self) -> int:
        return self._address

    def __del__(self) -> None:
        del self._pycuda.allocated[self._address]
        self._pycuda.memory.free(self._address)


@dataclass
class FakeFunction:
    """`Function` of a module."""

    pycuda: FakePyCUDA
    context: object
    unit: str
    target: str
    name: str
    format: str = ""
    shared_bytes: int = 48 * 1024

    def prepare(self, types: Sequence[str], texrefs: Any = None) -> FakeFunction:
        self.format = "".join(types)
        return self

    def set_attribute(self, attribute: str, value: int) -> None:
        assert attribute == "most dynamic shared bytes"
        assert value <= self.pycuda.shared_bytes
        self.shared_bytes = value
        self.pycuda.calls.append(("set_attribute", self.name, value))

    def prepared_async_call(
        self, grid: tuple[int, ...], block: tuple[int, ...], stream: Any, *args: Any, shared_size: int = 0
    ) -> None:
        assert isinstance(block, tuple)
        assert self.context is self.pycuda.current
        assert shared_size <= self.shared_bytes
        packed = ctypes.create_string_buffer(struct.pack(self.format, *args), struct.calcsize(self.format))
        self.pycuda.calls.append(("launch", self.name, stream))
        self.pycuda.execute(
            self.unit, self.target, self.name, grid, block, shared_size, ctypes.addressof(packed),
            self.pycuda.tensor_maps, False,
        )  # fmt: skip


class FakeGPUArray:
    """`GPUArray`; strides are in bytes."""

    pycuda: FakePyCUDA

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        allocator: Callable[[int], Any] | None = None,
        base: Any = None,
        gpudata: Any = None,
        strides: tuple[int, ...] | None = None,
        order: str = "C",
    ) -> None:
        self.shape, self.dtype = tuple(int(size) for size in shape), np.dtype(dtype)
        item = self.dtype.itemsize
        dense = tuple(item * math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        self.strides = dense if strides is None else tuple(int(stride) for stride in strides)
        self.nbytes = item * math.prod(self.shape)
        self.allocator = allocator or self.pycuda.mem_alloc
        self.gpudata = self.allocator(self.nbytes) if gpudata is None else gpudata

    def set(self, values: np.ndarray[Any, Any]) -> FakeGPUArray:
        stored = np.empty(self.nbytes, np.uint8)
        np.ndarray(self.shape, self.dtype, stored, strides=self.strides)[...] = values
        self.pycuda.memory.write(int(self.gpudata), stored.tobytes())
        return self

    def get(self) -> np.ndarray[Any, Any]:
        stored = np.frombuffer(self.pycuda.memory.read(int(self.gpudata), self.nbytes), np.uint8)
        return np.ndarray(self.shape, self.dtype, stored, strides=self.strides).copy()


@dataclass
class FakePyCUDA:
    """The whole package; `modules` are what `import` finds."""

    memory: Any
    execute: Callable[..., None]
    capability: tuple[int, int] = (8, 0)
    shared_bytes: int = 163 * 1024
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    allocated: dict[int, int] = field(default_factory=dict)
    tensor_maps: dict[bytes, Any] = field(default_factory=dict)
    current: object = field(default_factory=object)  # The current context.

    def mem_alloc(self, size: int) -> FakeAllocation:
        return FakeAllocation(self, size)

    def modules(self) -> dict[str, ModuleType]:
        package, driver, gpuarray, tools = (
            ModuleType(name) for name in ("pycuda", "pycuda.driver", "pycuda.gpuarray", "pycuda.tools")
        )
        driver.__dict__.update(
            Context=SimpleNamespace(get_current=lambda: self.current, get_device=lambda: self),
            device_attribute=SimpleNamespace(
                MULTIPROCESSOR_COUNT=4, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=self.shared_bytes
            ),
            function_attribute=SimpleNamespace(MAX_DYNAMIC_SHARED_SIZE_BYTES="most dynamic shared bytes"),
            mem_alloc=self.mem_alloc,
            memset_d32_async=self._memset,
            module_from_buffer=self._load,
        )
        gpuarray.__dict__.update(GPUArray=type("GPUArray", (FakeGPUArray,), {"pycuda": self}))
        tools.__dict__.update(context_dependent_memoize=self._memoize)
        package.__path__ = []  # type: ignore[attr-defined]
        return {module.__name__: module for module in (package, driver, gpuarray, tools)}

    # The current device.

    def compute_capability(self) -> tuple[int, int]:
        return self.capability

    def get_attribute(self, attribute: int) -> int:
        return attribute

    def _memset(self, address: int, word: int, count: int, stream: Any = None) -> None:
        self.calls.append(("memset", address, stream))
        self.memory.write(address, word.to_bytes(4, "little") * count)

    def _load(self, code: bytes) -> Any:
        unit, target = code.decode().split()
        context = self.current
        self.calls.append(("module_from_buffer", unit, target))
        return SimpleNamespace(get_function=lambda name: FakeFunction(self, context, unit, target, name))

    def _memoize(self, function: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[object, Any] = {}

        def wrapper() -> Any:
            if self.current not in known:
                known[self.current] = function()
            return known[self.current]

        return wrapper
