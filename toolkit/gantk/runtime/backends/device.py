# SPDX-License-Identifier: Apache-2.0
"""Arrays in GPU memory: those of others as they offer them, and our own."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from gantk.errors import GantkError
from gantk.runtime.cuda import Cuda
from gantk.runtime.runner import numpy_dtype
from gantk.tensors import TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class DeviceView:
    """Somebody's array.

    Args:
        address: In GPU memory.
        shape: Of it; its elements are contiguous.
    """

    address: int
    shape: Shape


def view(spec: TensorSpec, value: Any) -> DeviceView:
    """See what an array in GPU memory is, by ``__cuda_array_interface__`` (version 3).

    Raises:
        GantkError: It is not in GPU memory, or has the wrong dtype or shape, or is not contiguous.
    """
    told = getattr(value, "__cuda_array_interface__", None)
    if told is None:
        raise GantkError(
            f"{spec.name!r} is a {type(value).__name__}, which is not in GPU memory",
            where=str(spec),
            hint="run(...) takes arrays in host memory",
        )
    dtype, shape = np.dtype(told["typestr"]), tuple(told["shape"])
    if dtype != numpy_dtype(spec):
        raise GantkError(f"{spec.name!r} has dtype {dtype}; the network wants {spec.dtype}", where=str(spec))
    fits = len(shape) == len(spec.shape) and all(
        isinstance(wanted, str) or wanted == size for wanted, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise GantkError(
            f"{spec.name!r} has shape {list(shape)}; the network wants [{', '.join(map(str, spec.shape))}]",
            where=str(spec),
        )
    strides = told.get("strides")
    if strides is not None and tuple(strides) != _contiguous(shape, dtype.itemsize):
        raise GantkError(f"{spec.name!r} is not contiguous", where=str(spec), hint="copy it first")
    return DeviceView(int(told["data"][0]), shape)


class DeviceArray:
    """An output in GPU memory of ours, given back when nobody refers to it any more.

    It offers ``__cuda_array_interface__``: `torch.as_tensor(array, device="cuda")` and `cupy.asarray(array)` view it
    without a copy.

    Args:
        cuda: Calls CUDA.
        shape: Of the array.
        dtype: Of the array.
        name: Of the output, for errors.
    """

    def __init__(self, cuda: Cuda, shape: Shape, dtype: np.dtype[Any], name: str) -> None:
        self.shape, self.dtype = shape, dtype
        self.address = cuda.allocate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, f"output {name!r}")
        weakref.finalize(self, cuda.free, self.address)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }


def _contiguous(shape: Shape, itemsize: int) -> Shape:
    strides: list[int] = []
    for size in reversed(shape):
        strides.insert(0, itemsize)
        itemsize *= size
    return tuple(strides)
