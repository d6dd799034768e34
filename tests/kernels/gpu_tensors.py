# SPDX-License-Identifier: Apache-2.0
"""Torch tensors in the memory of a fake GPU: within the mode, whatever torch makes lies there."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_EMPTY = ("empty", "empty_like", "new_empty", "empty_strided")


class OnFakeGPU(TorchFunctionMode):
    """Moves the results of torch's functions to the memory of a fake GPU, and keeps what was made anew.

    Args:
        memory: The fake GPU's.
    """

    def __init__(self, memory: Any) -> None:
        super().__init__()
        self._memory = memory
        self._places: dict[int, int] = {}
        self.made: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not isinstance(found, Tensor) or found.numel() == 0 or self._has(found):
            return found
        with torch._C.DisableTorchFunction():
            moved = self.put(found, filled=getattr(func, "__name__", "") not in _EMPTY)
        self.made.append(moved)
        return moved

    def put(self, tensor: Tensor, *, filled: bool = True) -> Tensor:
        """A tensor of the same values, type and strides on the fake GPU; not `filled`: as if never written."""
        steps = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        size = (sum(steps) + 1) * tensor.element_size()
        address = self._memory.allocate(size)
        self._places[address] = size
        if filled:
            dense = tensor.as_strided((size // tensor.element_size(),), (1,)).contiguous().view(torch.uint8)
            self._memory.write(address, ctypes.string_at(dense.data_ptr(), size))
        room = (ctypes.c_char * size).from_address(address)
        there = torch.frombuffer(room, dtype=torch.uint8).view(tensor.dtype)
        return there.as_strided(tensor.shape, tensor.stride())

    def _has(self, tensor: Tensor) -> bool:
        with torch._C.DisableTorchFunction():
            address = tensor.data_ptr()
        return any(start <= address < start + size for start, size in self._places.items())
