# SPDX-License-Identifier: Apache-2.0
"""Where a network's inputs and outputs lie: in GPU memory, each with a twin in pinned host memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from gantk.runtime.cuda import DEVICE_TO_HOST, HOST_TO_DEVICE, Cuda, host_view
from gantk.runtime.runner import Array


@dataclass
class _Buffer:
    device: int
    host: int
    size_bytes: int


class Buffers:
    """A buffer for each tensor, which only grows.

    Args:
        cuda: Calls CUDA.
        where: The network's name, for errors.
    """

    def __init__(self, cuda: Cuda, where: str) -> None:
        self._cuda, self._where = cuda, where
        self._held: dict[str, _Buffer] = {}

    @property
    def size_bytes(self) -> int:
        """GPU memory that is held."""
        return sum(buffer.size_bytes for buffer in self._held.values())

    @property
    def addresses(self) -> dict[str, int]:
        """In GPU memory, by the tensors' names."""
        return {name: buffer.device for name, buffer in self._held.items()}

    @property
    def host_addresses(self) -> set[int]:
        """Of the twins."""
        return {buffer.host for buffer in self._held.values()}

    def fits(self, name: str, size_bytes: int) -> bool:
        return name in self._held and self._held[name].size_bytes >= size_bytes

    def reserve(self, name: str, size_bytes: int) -> None:
        """Take memory for a tensor anew; what was there before, and every graph that knows its place, is void.

        Raises:
            GantkError: There is not enough: says how much was wanted and is free.
        """
        old = self._held.pop(name, None)
        if old is not None:
            self._cuda.free(old.device)
            self._cuda.free_host(old.host)
        with ExitStack() as undo:
            what = f"{name!r} of `{self._where}`"
            device = self._cuda.allocate(size_bytes, what)
            undo.callback(self._cuda.free, device)
            self._held[name] = _Buffer(device, self._cuda.allocate_host(size_bytes, what), size_bytes)
            undo.pop_all()

    def view(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The twin in host memory as an array."""
        return host_view(self._held[name].host, shape, dtype)

    def copy_in(self, name: str, size_bytes: int, stream: Any) -> None:
        """Enqueue the copy from the twin."""
        buffer = self._held[name]
        self._cuda.copy(buffer.device, buffer.host, size_bytes, HOST_TO_DEVICE, stream)

    def copy_out(self, name: str, size_bytes: int, stream: Any) -> None:
        """Enqueue the copy to the twin."""
        buffer = self._held[name]
        self._cuda.copy(buffer.host, buffer.device, size_bytes, DEVICE_TO_HOST, stream)

    def close(self) -> None:
        """Give everything back, whatever fails on the way."""
        with ExitStack() as stack:
            for buffer in self._held.values():
                stack.callback(self._cuda.free, buffer.device)
                stack.callback(self._cuda.free_host, buffer.host)
            self._held = {}
