# SPDX-License-Identifier: Apache-2.0
"""How TensorRT for RTX keeps the kernels that it compiles: as lists of names, each for one GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol


class Product(Protocol):
    """What the fakes here want of the module that they belong to."""

    gpu: str
    called: Callable[[str], bool]
    born: Callable[[object], None]


class RuntimeCache:
    def __init__(self, trt: Product) -> None:
        self._trt = trt
        self.kernels: list[str] = []
        trt.born(self)

    def compile(self, kernel: str, compiled: list[str]) -> None:
        """Have a kernel; it is noted where it had to be compiled for that."""
        if kernel not in self.kernels:
            self.kernels.append(kernel)
            compiled.append(kernel)

    def deserialize(self, blob: bytes) -> bool:
        if not self._trt.called("deserialize"):
            return False
        found: dict[str, Any] = json.loads(blob)  # The real one may crash on rubbish, too.
        if found["gpu"] != self._trt.gpu:
            return False
        self.kernels = found["kernels"]
        return True

    def serialize(self) -> bytes | None:
        if not self._trt.called("serialize"):
            return None
        return json.dumps({"gpu": self._trt.gpu, "kernels": self.kernels}).encode()


class ExecutionContextAllocationStrategy(Enum):
    STATIC = auto()
    USER_MANAGED = auto()


class DynamicShapesKernelSpecializationStrategy(Enum):
    LAZY = auto()
    EAGER = auto()


class RuntimeConfig:
    def __init__(self, trt: Product) -> None:
        self._trt = trt
        self.cache: RuntimeCache | None = None
        self.strategy = ExecutionContextAllocationStrategy.STATIC
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        trt.born(self)

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache | None:
        return RuntimeCache(self._trt) if self._trt.called("create_runtime_cache") else None

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        if not self._trt.called("set_runtime_cache"):
            return False
        self.cache = cache
        return True
