# SPDX-License-Identifier: Apache-2.0
"""Outputs whose sizes an engine tells only when it runs: it asks for their memory through an output allocator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gantk.errors import GantkError
from gantk.runtime.backends.plans import Shape
from gantk.runtime.cuda import DEVICE_TO_HOST, Cuda, host_view
from gantk.runtime.runner import Array, numpy_dtype
from gantk.tensors import TensorSpec


@dataclass
class Held:
    """An output's memory on the GPU, and its pinned twin for copies; 0 where there is none yet."""

    device: int = 0
    device_bytes: int = 0
    host: int = 0
    host_bytes: int = 0
    shape: Shape = ()


class OpenOutputs:
    """What a context's output allocator holds.

    The library calls the allocator while a run is being enqueued, and has told the shapes when that is done. Such a
    run is never captured into a CUDA graph: the next one may want other memory.

    Args:
        trt: The product's module.
        cuda: Calls CUDA.
        where: The engine's name, for errors.
    """

    def __init__(self, trt: ModuleType, cuda: Cuda, where: str) -> None:
        self._cuda, self._where = cuda, where
        self._held: dict[str, Held] = {}
        self._failed: GantkError | None = None
        self._allocator = _make_allocator(trt, self.reallocate, self._note)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def size_bytes(self) -> int:
        """GPU memory that is held."""
        return sum(held.device_bytes for held in self._held.values())

    def attach(self, context: Any, name: str) -> bool:
        """Let a context ask here for the memory of an output; whether it takes that."""
        if name not in self._held:
            if not context.set_output_allocator(name, self._allocator):
                return False
            self._held[name] = Held()
        return True

    def reallocate(self, name: str, size_bytes: int) -> int:
        """GPU memory for an output, as the library asks for it; 0, as it wants, where there is not enough."""
        held = self._held[name]
        if held.device and held.device_bytes >= size_bytes:
            return held.device
        try:
            self._release(held)
            # An output without elements needs an address too: 0 would mean that there is no memory.
            held.device = self._cuda.allocate(size_bytes, f"{name!r} of `{self._where}`")
            held.device_bytes = max(size_bytes, 1)
        except GantkError as error:  # Nothing may be raised through the library's frames.
            self._failed = error
            return 0
        return held.device

    def _note(self, name: str, shape: Shape) -> None:
        self._held[name].shape = shape

    def failure(self) -> GantkError | None:
        """Why memory could not be had since this was asked last."""
        failed, self._failed = self._failed, None
        return failed

    def fetch(self, spec: TensorSpec, stream: Any) -> Array:
        """Enqueue the copy of an output to host memory.

        Returns:
            A view of that memory, whose values are there when the stream is done; the next run overwrites it.
        """
        held, dtype = self._held[spec.name], numpy_dtype(spec)
        size_bytes = int(np.prod(held.shape, dtype=np.int64)) * dtype.itemsize
        if not held.host or held.host_bytes < size_bytes:
            if held.host:
                host, held.host, held.host_bytes = held.host, 0, 0
                self._cuda.free_host(host)
            held.host = self._cuda.allocate_host(size_bytes, f"{spec.name!r} of `{self._where}`")
            held.host_bytes = max(size_bytes, 1)
        if size_bytes:
            self._cuda.copy(held.host, held.device, size_bytes, DEVICE_TO_HOST, stream)
        return host_view(held.host, held.shape, dtype)

    def hand_over(self, name: str) -> tuple[int, Shape]:
        """The address and shape of an output, whose memory is the caller's to give back from now on."""
        held = self._held[name]
        address, held.device, held.device_bytes = held.device, 0, 0
        return address, held.shape

    def close(self) -> None:
        """Give everything back, whatever fails on the way."""
        with ExitStack() as stack:
            for held in self._held.values():
                stack.callback(self._release, held)
                if held.host:
                    stack.callback(self._cuda.free_host, held.host)

    def _release(self, held: Held) -> None:
        address, held.device, held.device_bytes = held.device, 0, 0
        if address:
            self._cuda.free(address)


def _make_allocator(
    trt: ModuleType, reallocate: Callable[[str, int], int], note: Callable[[str, Shape], None]
) -> Any:
    """An object of a class that the product's own allocator is the base of."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)  # The bindings want it called by name.

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return reallocate(name, int(size))  # CUDA aligns to 256 bytes, the most that is asked for.

        def reallocate_output_async(
            self, name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return reallocate(name, int(size))

        def notify_shape(self, name: str, shape: Any) -> None:
            note(name, tuple(int(side) for side in shape))

    return Allocator()
