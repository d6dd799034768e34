# SPDX-License-Identifier: Apache-2.0
"""Memory of a fake GPU: an allocator over bytes of this process, at their real addresses, that knows its bounds."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping

import numpy as np

PAGE = 256


class FakeMemory:
    """Allocations with gaps between them, never at the same place twice."""

    def __init__(self, size_bytes: int = 1 << 23) -> None:
        self._bytes = np.zeros(size_bytes, np.uint8)
        self._end = self._bytes.ctypes.data + size_bytes
        self._next = -(-self._bytes.ctypes.data // PAGE) * PAGE
        self._lock = threading.Lock()
        self.sizes: dict[int, int] = {}

    def allocate(self, size: int) -> int:
        with self._lock:
            address = self._next
            self._next += (-(-size // PAGE) + 1) * PAGE
        assert self._next <= self._end, "the fake GPU is full"
        self.sizes[address] = size
        return address

    def free(self, address: int) -> None:
        del self.sizes[address]

    def owner(self, address: int, owners: Mapping[int, int]) -> int | None:
        """The GPU that an address belongs to, by that of each allocation."""
        return next(
            (owners[start] for start, size in self.sizes.items() if start <= address < start + size), None
        )

    def write(self, address: int, data: bytes) -> None:
        self._check(address, len(data))
        ctypes.memmove(address, data, len(data))

    def read(self, address: int, size: int) -> bytes:
        self._check(address, size)
        return ctypes.string_at(address, size)

    def _check(self, address: int, size: int) -> None:
        inside = [s for s, count in self.sizes.items() if s <= address and address + size <= s + count]
        assert inside, f"{size} bytes at {address:#x} are in no allocation"
