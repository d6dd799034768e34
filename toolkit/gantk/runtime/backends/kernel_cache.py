# SPDX-License-Identifier: Apache-2.0
"""The kernels that TensorRT for RTX compiles when an engine first runs, kept for the processes to come."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from gantk.errors import GantkError
from gantk.files import cache_folder, read_bytes, write_bytes
from gantk.runtime import driver
from gantk.runtime.engines import EngineFile

SIZE_LIMIT_BYTES = 2**28
"""What no cache of an engine comes near."""

AT_ONCE = 16
"""Of how many shapes kernels are written as soon as they are compiled; those of more wait for the end."""

_HASH_BYTES = hashlib.sha256().digest_size


class KernelCache:
    """An engine's compiled kernels: read when it is made, handed to each context, written when there are more.

    The file is the library's bytes behind their SHA-256. The library sees none whose hash is another, and itself
    rejects those of another GPU, driver or release; in either case it compiles again, and nothing is said.

    Args:
        trt: The product's module.
        engine: The product's engine.
        path: The file; `None` where none can be kept.
    """

    def __init__(self, trt: ModuleType, engine: Any, path: Path | None) -> None:
        self._trt, self._engine, self._path, self._known = trt, engine, path, b""
        self._ran: set[Hashable] = set()
        self._lock = Lock()
        # It must live as long as the contexts that are made with it.
        self._configuration = configuration = engine.create_runtime_config()
        self._cache = None if configuration is None else configuration.create_runtime_cache()
        blob = _read(path)
        if blob and self._cache is not None and self._cache.deserialize(blob):
            self._known = blob
        if configuration is not None:
            self._configure(configuration)

    def _configure(self, configuration: Any) -> None:
        """Say how contexts are made: with kernels from here, and leaving here those that they compile.

        A shape's own kernels are compiled before its first run. Without that others would run until they are there,
        and stay for good in a CUDA graph that is captured meanwhile.
        """
        trt = self._trt
        given = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        configuration.set_execution_context_allocation_strategy(given)
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        configuration.dynamic_shapes_kernel_specialization_strategy = eager
        if self._cache is not None:  # If it is refused, kernels are compiled again.
            configuration.set_runtime_cache(self._cache)

    def context(self) -> Any:
        """A new context, without memory of its own; `None` where there can be none."""
        if self._configuration is None:
            return self._engine.create_execution_context(
                self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            )
        return self._engine.create_execution_context(self._configuration)

    def ran(self, shapes: Hashable) -> None:
        """Write the kernels of shapes that a context has run with: services are killed, and never closed."""
        with self._lock:
            if shapes in self._ran or len(self._ran) == AT_ONCE:
                return
            self._ran.add(shapes)
            self._save()

    def save(self) -> None:
        """Write what has been compiled by now, if that is more than was read and can be written."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        if self._cache is None or self._path is None:
            return
        serialized = self._cache.serialize()
        blob = b"" if serialized is None else bytes(serialized)
        if blob and blob != self._known:
            with suppress(GantkError):
                write_bytes(self._path, hashlib.sha256(blob).digest() + blob)
                self._known = blob


def open_cache(trt: ModuleType, engine: Any, file: EngineFile, version: str) -> KernelCache | None:
    """The cache of an engine, for the release of its product and the GPU at hand; `None` where there are none."""
    if not hasattr(trt, "IRuntimeCache"):
        return None
    found, here = driver.probe(), driver.current_gpu()
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", found.devices[here])
    name = f"{file.engine.file.sha256}-{version}-{found.targets[here]}-{gpu}.kernels"
    try:
        path = cache_folder() / "compiled" / name
    except GantkError:
        path = None  # Contexts are made without a file too.
    return KernelCache(trt, engine, path)


def _read(path: Path | None) -> bytes:
    """The library's bytes of a file; empty where it is missing or damaged."""
    if path is None:
        return b""
    try:
        data = read_bytes(path, SIZE_LIMIT_BYTES)
    except GantkError:
        return b""
    digest, blob = data[:_HASH_BYTES], data[_HASH_BYTES:]
    return blob if hashlib.sha256(blob).digest() == digest else b""
