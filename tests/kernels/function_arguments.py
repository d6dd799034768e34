# SPDX-License-Identifier: Apache-2.0
"""Arrays on the fake GPU as other libraries show them: laid otherwise, or only claimed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from fake_gpu import FakeCuda

from gantk import kernels

Array = np.ndarray[Any, Any]


class Laid:
    """An array on the fake GPU with other strides than those of C, or at another offset, through the interface.

    Args:
        values: What it holds.
        order: The axes, outermost first, as they lie in memory.
        offset: Of its first element from a multiple of 256, in bytes.
    """

    def __init__(self, cuda: FakeCuda, values: Array, order: tuple[int, ...], offset: int = 0) -> None:
        stored = np.ascontiguousarray(values.transpose(order))
        room = -(-(stored.nbytes + offset) // 4)
        self.kept = kernels.to_device(np.zeros(room, np.float32))
        address = self.kept.view("kept").address + offset
        cuda.memory.write(address, stored.tobytes())
        strides = [0] * values.ndim
        for axis, stride in zip(order, stored.strides, strict=True):
            strides[axis] = stride
        name = f"<{'f' if values.dtype != ml_dtypes.bfloat16 else 'V'}{values.itemsize}"
        self.__cuda_array_interface__ = {
            "version": 3, "shape": values.shape, "typestr": name, "data": (address, False), "strides": tuple(strides),
        }  # fmt: skip


class Claimed:
    """An array that is as large as it says, without the memory for it."""

    def __init__(
        self, shape: tuple[int, ...], dtype: str = "<f4", address: int = 1 << 20, **more: Any
    ) -> None:
        self.found = {"shape": shape, "typestr": dtype, "data": (address, False), "version": 3, **more}

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.found
