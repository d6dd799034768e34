# SPDX-License-Identifier: Apache-2.0
"""Arrays in GPU memory: those of others as they offer them, and our own."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from gantk.errors import GantkError
from gantk.runtime import dlpack
from gantk.runtime.cuda import Cuda
from gantk.runtime.views import LEGACY_STREAM, Reader, View, dense
from gantk.tensors import TensorSpec

Shape = tuple[int, ...]


def reader(cuda: Cuda, ordinal: int, stream: int) -> Reader:
    """Sees arrays for work on a stream of the caller's; the CUDA Array Interface is trusted to mean this GPU."""
    handle = stream or LEGACY_STREAM
    return Reader(
        handle,
        owner_of=lambda address: ordinal,
        wait_for=lambda other, _: cuda.wait(handle, other),
        hint="run(...) takes arrays in host memory",
    )


def view(spec: TensorSpec, value: Any, seen: Reader, ordinal: int) -> View:
    """See an array in GPU memory that is to be a tensor of the network.

    Raises:
        GantkError: It is not in the memory of this GPU, has the wrong dtype or shape, or is not contiguous.
    """
    found = seen.view(value, repr(spec.name))
    if found.ordinal != ordinal:
        raise GantkError(
            f"{found.name} is on GPU {found.ordinal}; the network is on GPU {ordinal}", where=str(spec)
        )
    if found.dtype != spec.dtype:
        raise GantkError(
            f"{found.name} has dtype {found.dtype}; the network wants {spec.dtype}", where=str(spec)
        )
    fits = len(found.shape) == len(spec.shape) and all(
        isinstance(wanted, str) or wanted == size
        for wanted, size in zip(spec.shape, found.shape, strict=True)
    )
    if not fits:
        raise GantkError(
            f"{found.name} has shape {list(found.shape)}; the network wants [{', '.join(map(str, spec.shape))}]",
            where=str(spec),
        )
    if not found.is_contiguous():
        raise GantkError(f"{found.name} is not contiguous", where=str(spec), hint="copy it first")
    return found


class DeviceArray:
    """An output in GPU memory of ours, given back when nobody refers to it any more.

    It offers DLPack and the CUDA Array Interface: `torch.from_dlpack(array)` and `cupy.asarray(array)` view it without
    a copy. The former waits for the run by itself; the latter leaves that to who takes it.

    Args:
        cuda: Calls CUDA.
        shape: Of the array.
        dtype: Of the array.
        name: Of the output, for errors.
        stream: On which its values are computed.
    """

    def __init__(self, cuda: Cuda, shape: Shape, dtype: np.dtype[Any], name: str, stream: int) -> None:
        self.shape, self.dtype = shape, dtype
        self._cuda, self._stream, self._ordinal = cuda, stream or LEGACY_STREAM, cuda.device()
        self.address = cuda.allocate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, f"output {name!r}")
        weakref.finalize(self, cuda.free, self.address)

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype.name}{list(self.shape)} on GPU {self._ordinal}>"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self._ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule over the memory, whose values are there for what the consumer's stream gets next.

        Args:
            stream: The consumer's; `None` for the default stream, -1 where it sees to the order itself.
            max_version: The newest DLPack that the consumer reads.
            dl_device: The device that it wants, as DLPack numbers it; this array's alone is given.
            copy: `True` is refused.

        Raises:
            BufferError: The consumer wants a copy or another device.
        """
        if copy or (dl_device is not None and tuple(map(int, dl_device)) != self.__dlpack_device__()):
            raise BufferError(f"{self!r} is given as it is, where it is; a copy or another device was wanted")
        if stream != -1:
            self._cuda.wait(stream or LEGACY_STREAM, self._stream)
        return dlpack.make(
            self,
            address=self.address,
            ordinal=self._ordinal,
            dtype=self.dtype.name,
            shape=self.shape,
            strides=dense(self.shape),
            versioned=max_version is not None and max_version[0] >= 1,
        )
