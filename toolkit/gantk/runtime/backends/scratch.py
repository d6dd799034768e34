# SPDX-License-Identifier: Apache-2.0
"""GPU memory for what runs hold between an engine's layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gantk.runtime.cuda import Cuda


class Scratch:
    """The memory of contexts whose runs follow each other, as much as the shapes that came want; it only grows.

    Args:
        cuda: Calls CUDA.
        most_bytes: What the largest shapes of the engine want.
        where: The engine's name, for errors.
        moving: Called before memory moves, when no run uses the old place any more: no graph may know it.

    Attributes:
        address: Where it is; it changes as memory moves.
        size_bytes: GPU memory that is held.
    """

    def __init__(self, cuda: Cuda, most_bytes: int, where: str, moving: Callable[[], None]) -> None:
        self._cuda, self._most_bytes, self._where, self._moving = cuda, most_bytes, where, moving
        self.address = self.size_bytes = 0

    def reserve(self, context: Any, stream: Any) -> None:
        """Have what a context wants for the shapes that it was told.

        Args:
            context: That has the profile and the shapes of all inputs.
            stream: On which its runs are.

        Raises:
            GantkError: There is not enough: says how much was wanted and is free.
        """
        # 0 is for none and for an error alike, and a context that wants none for these shapes is still to be given some
        # where others want it.
        wanted = max(int(context.update_device_memory_size_for_shapes()) or self._most_bytes, 1)
        if wanted > self.size_bytes:
            self._cuda.synchronize(stream)
            self._moving()
            self.close()
            self.address = self._cuda.allocate(wanted, f"a context of `{self._where}`")
            self.size_bytes = wanted

    def give(self, context: Any) -> None:
        """Give it to a context; whether that takes it, the product's log has."""
        context.set_device_memory(self.address, self.size_bytes)

    def close(self) -> None:
        """Give it back."""
        address, self.address, self.size_bytes = self.address, 0, 0
        if address:
            self._cuda.free(address)
