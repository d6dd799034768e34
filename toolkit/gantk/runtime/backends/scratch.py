# SPDX-License-Identifier: Apache-2.0
"""GPU memory for what a run holds between its layers, where the product wants to be given it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gantk.runtime.cuda import Cuda


class Scratch:
    """The memory of one context, as much as the shapes that came want; it only grows.

    Args:
        cuda: Calls CUDA.
        where: The engine's name, for errors.
    """

    def __init__(self, cuda: Cuda, where: str) -> None:
        self._cuda, self._where = cuda, where
        self._address = self._size = 0
        self._held: dict[int, int] = {}

    @property
    def size_bytes(self) -> int:
        """GPU memory that is held."""
        return sum(({self._address: self._size} | self._held).values())

    def give(self, context: Any, moving: Callable[[], None]) -> None:
        """Give a context what it wants for the shapes that it was told.

        Args:
            context: That has the profile and the shapes of all inputs.
            moving: Called before memory moves: no run may use the old place any more, nor a graph know it.

        Raises:
            GantkError: There is not enough: says how much was wanted and is free.
        """
        # A context that wants none for these shapes is still to be given some where others want it.
        wanted = max(int(context.update_device_memory_size_for_shapes()), 1)
        if wanted > self._size:
            moving()
            self._free()
            self._address = self._cuda.allocate(wanted, f"a context of `{self._where}`")
            self._size = wanted
        context.set_device_memory(self._address, self._size)

    def hold(self) -> None:
        """Keep what there is to the end, wherever the context goes: a graph of the caller's knows the place."""
        self._held[self._address] = self._size

    def close(self) -> None:
        """Give it back."""
        self._free()
        while self._held:
            self._cuda.free(self._held.popitem()[0])

    def _free(self) -> None:
        address, self._address, self._size = self._address, 0, 0
        if address and address not in self._held:
            self._cuda.free(address)
