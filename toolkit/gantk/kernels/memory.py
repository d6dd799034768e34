# SPDX-License-Identifier: Apache-2.0
"""GPU memory in the order of a stream, and the arrays in it that gantk gives back."""

from __future__ import annotations

import math
import weakref
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gantk.errors import GantkError
from gantk.kernels.device import GPU, gpu
from gantk.kernels.driver import DriverError, bindings, call
from gantk.kernels.launch import ELEMENT_BYTES
from gantk.kernels.streams import Stream
from gantk.runtime import dlpack
from gantk.runtime.captures import NOT_YET, give_back
from gantk.runtime.lender import Lender
from gantk.runtime.runner import dtype_named
from gantk.runtime.views import View, dense


class Memory:
    """Bytes on a GPU, there for work that its stream gets afterwards; given back when nobody refers to it.

    Giving back waits for nothing, but for work that the stream has by then. Where other streams have seen the
    memory, it first waits for all work on the GPU: they may be gone by then, and cannot be asked.

    Args:
        gpu: Where it is.
        size_bytes: At least 1.
        stream: In whose order it is taken and given back.

    Raises:
        GantkError: There is not so much, or the stream is being captured into a graph, whose memory would be its own.
    """

    def __init__(self, gpu: GPU, size_bytes: int, stream: Stream) -> None:
        self.size_bytes = size_bytes
        where = f"{size_bytes / 2**20:.1f} MiB on GPU {gpu.ordinal}"
        with gpu.current():
            _refuse_capture(stream)
            if gpu.uses_pool:
                taken = call("cuMemAllocAsync", size_bytes, stream.handle, where=where)
            else:
                taken = call("cuMemAlloc", size_bytes, where=where)
        self.address = int(taken)
        self._seen_by: set[int] = set()
        free = partial(_free, gpu, self.address, stream, self._seen_by)
        finalizer = weakref.finalize(self, give_back, free)
        finalizer.atexit = False  # At exit the driver frees everything, and others may still use it.

    def seen_by(self, stream: int) -> None:
        """Note another stream that may use the memory, by its handle, or 0 for one that is not known."""
        self._seen_by.add(stream)


def _is_captured(stream: Stream) -> bool:
    none = bindings().CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
    try:
        return bool(call("cuStreamIsCapturing", stream.handle) != none)
    except DriverError as error:
        if (
            error.status == "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"
        ):  # One that the default stream would wait for is.
            return True
        raise


def _refuse_capture(stream: Stream) -> None:
    if _is_captured(stream):
        raise GantkError(
            "memory is wanted on a stream that is being captured into a graph",
            hint="give `out` and `workspace`, made before",
        )


def _free(gpu: GPU, address: int, stream: Stream, seen_by: set[int]) -> str | None:
    with gpu.current():
        if not gpu.has_pools:
            call("cuMemFree", address)
            return None
        # A graph gives back no memory but its own, and to wait for the GPU would spoil the capture.
        if _is_captured(stream):
            return NOT_YET
        if seen_by - {stream.handle}:
            call("cuCtxSynchronize")
        call("cuMemFreeAsync", address, stream.handle)
    return None


class DeviceArray(Lender):
    """An array in GPU memory that gantk made, for any library that takes DLPack or the CUDA Array Interface.

    Args:
        gpu: Where it is.
        shape: In elements.
        dtype: One of `ELEMENT_BYTES`.
        stream: On which its values are computed.
        strides: In elements, without gaps; as in C by default.
    """

    def __init__(
        self,
        gpu: GPU,
        shape: tuple[int, ...],
        dtype: str,
        stream: Stream,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.strides = dense(shape) if strides is None else strides
        self._gpu = gpu
        self._stream = stream
        self._memory = Memory(gpu, math.prod(shape) * ELEMENT_BYTES[dtype], stream)

    def view(self, name: str) -> View:
        return View(
            name=name,
            address=self._memory.address,
            shape=self.shape,
            strides=self.strides,
            dtype=self.dtype,
            item_bytes=ELEMENT_BYTES[self.dtype],
            ordinal=self._gpu.ordinal,
            owner=self,
        )

    def _lent(self) -> dlpack.Lent:
        return dlpack.Lent(self._memory.address, self._gpu.ordinal, self.dtype, self.shape, self.strides)

    def _lend_to(self, stream: int | None) -> None:
        if stream == -1:
            self._memory.seen_by(0)
            return
        consumer = Stream.of(stream)
        consumer.wait_for(self._stream, self._gpu)
        self._memory.seen_by(consumer.handle)

    def _lend_to_anyone(self) -> int | None:
        self._memory.seen_by(0)
        return self._stream.handle

    def numpy(self) -> NDArray[Any]:
        """Copy it to the CPU; waits for its stream."""
        dtype, item = dtype_named(self.dtype), ELEMENT_BYTES[self.dtype]
        data = np.empty(self._memory.size_bytes, np.uint8)
        with self._gpu.current():
            stream, size = self._stream.handle, self._memory.size_bytes
            call("cuMemcpyDtoHAsync", data.ctypes.data, self._memory.address, size, stream)
            call("cuStreamSynchronize", stream)
        return np.ndarray(self.shape, dtype, data, strides=tuple(stride * item for stride in self.strides))


def to_device(array: NDArray[Any], device: int = 0, stream: Any = None) -> DeviceArray:
    """Copy a numpy array to a GPU.

    Args:
        array: float32, float16 or ml_dtypes' bfloat16, with at least one element.
        device: The GPU's number.
        stream: On which it is copied; the default stream by default.

    Raises:
        GantkError: The array has another type or no elements, or the GPU has no room for it.
    """
    array = np.ascontiguousarray(array)
    if array.dtype.name not in ELEMENT_BYTES or array.size == 0:
        raise GantkError(
            f"the array is {array.dtype}{list(array.shape)}; some elements of {', '.join(ELEMENT_BYTES)} are wanted"
        )
    seen = Stream.of(stream)
    found = DeviceArray(gpu(device), array.shape, array.dtype.name, seen)
    with gpu(device).current():
        address = found.view("array").address
        call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, seen.handle)
    return found
