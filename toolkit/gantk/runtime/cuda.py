# SPDX-License-Identifier: Apache-2.0
"""The few calls of CUDA's runtime that a runner of engines makes, each checked.

The module of the bindings, `cuda.bindings.runtime`, is passed in. Every call of it yields a tuple whose first item is
the status.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from typing import Any

import numpy as np

from gantk.errors import BackendMissingError, GantkError
from gantk.runtime import driver_context
from gantk.runtime.captures import capturing
from gantk.runtime.driver_context import DriverContext
from gantk.runtime.graphs import refuse_stale_copies
from gantk.runtime.runner import Array

HOST_TO_DEVICE, DEVICE_TO_HOST = "HostToDevice", "DeviceToHost"

POOLED_BYTES = 2**28
"""How much memory a GPU's pool keeps that nobody uses."""


def bindings() -> Any:
    """The module of the bindings.

    Raises:
        BackendMissingError: It is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendMissingError(
            f"running engines wants cuda-bindings, which cannot be imported: {error}",
            hint="pip install 'gantk[kernels]'",
        ) from error
    return runtime


class Cuda:
    """Checked calls.

    Args:
        api: The bindings.
    """

    def __init__(self, api: Any) -> None:
        self._api = api

    @cached_property
    def _success(self) -> Any:
        return self._api.cudaError_t.cudaSuccess

    @cached_property
    def home(self) -> DriverContext:
        """The context and GPU of everything that these calls make: those that are current when this is first asked."""
        self.call("cudaFree", 0)  # Makes the GPU's context where there is none yet.
        return DriverContext(self)

    def current(self) -> AbstractContextManager[None]:
        """Make `home` current for a block, in whichever thread; streams and default streams are of one GPU."""
        return self.home.current()

    @cached_property
    def has_pools(self) -> bool:
        """Whether the GPU at home has memory in the order of a stream.

        By default its pool gives all back that nobody uses whenever somebody waits for the GPU, and to take memory anew
        takes longer than a small network: it is told to keep some, unless somebody has told it already.
        """
        wanted = self._api.cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported
        if not self.call("cudaDeviceGetAttribute", wanted, self.home.ordinal):
            return False
        kept = self._api.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        pool = self.call("cudaDeviceGetDefaultMemPool", self.home.ordinal)
        if int(self.call("cudaMemPoolGetAttribute", pool, kept)) == 0:
            number = driver_context.bindings().cuuint64_t(POOLED_BYTES)
            self.call("cudaMemPoolSetAttribute", pool, kept, number)
        return True

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the bindings; what it yields besides its status.

        Raises:
            GantkError: The status is not success.
        """
        found = getattr(self._api, name)(*arguments)
        status = found[0]
        if status != self._success:
            raise GantkError(f"CUDA's {name} failed: {getattr(status, 'name', status)}", where=name)
        return found[1] if len(found) == 2 else found[1:]

    def memory(self) -> str:
        """How much of the GPU's memory is free, in words."""
        free, total = (int(size) for size in self.call("cudaMemGetInfo"))
        return f"{free / 2**20:.1f} of {total / 2**20:.1f} MiB are free"

    def allocate(self, size_bytes: int, what: str, stream: int | None = None) -> int:
        """Device memory; its address.

        Args:
            size_bytes: How much.
            what: What for, for the error.
            stream: In whose order it is there, of a GPU that has pools; by default it is there at once.

        Raises:
            GantkError: There is not enough: says how much was wanted and is free.
        """
        size = max(size_bytes, 1)
        taken = self._api.cudaMalloc(size) if stream is None else self._api.cudaMallocAsync(size, stream)
        status, address = taken
        if status != self._api.cudaError_t.cudaSuccess:
            raise self.shortage(size_bytes, what, getattr(status, "name", str(status)))
        return int(address)

    def shortage(self, size_bytes: int, what: str, reason: str) -> GantkError:
        """The error for memory that cannot be had."""
        return GantkError(
            f"{what} wants {size_bytes / 2**20:.1f} MiB of GPU memory ({reason}); {self.memory()}",
            where=what,
            hint="end what else uses the GPU, or give smaller pictures",
        )

    def free(self, address: int) -> None:
        """Give memory back: that of a pool at once, other memory after waiting for the whole GPU."""
        self.call("cudaFree", address)

    def free_on(self, address: int, stream: int) -> None:
        """Give memory of a pool back in the order of a stream."""
        self.call("cudaFreeAsync", address, stream)

    def enum(self, name: str) -> Any:
        """An enumeration of the bindings."""
        return getattr(self._api, name)

    def is_on_gpu(self, address: int) -> bool:
        """Whether memory is the GPU's, or moves there by itself."""
        kinds = self.enum("cudaMemoryType")
        kind = self.call("cudaPointerGetAttributes", address).type
        return kind in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged)

    def is_captured(self, stream: int) -> bool:
        """Whether somebody captures a stream, or one that the default stream would wait for, into a graph."""
        none = self._api.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone
        status, found = self._api.cudaStreamIsCapturing(stream)
        return bool(status == self._api.cudaError_t.cudaErrorStreamCaptureImplicit or found != none)

    def synchronize_gpu(self) -> None:
        """Wait for all work on the GPU; no stream may be captured meanwhile."""
        self.call("cudaDeviceSynchronize")

    def allocate_host(self, size_bytes: int, what: str) -> int:
        """Pinned host memory, which the GPU copies from and to without a detour; its address.

        Raises:
            GantkError: There is not enough: says how much was wanted.
        """
        status, address = self._api.cudaMallocHost(max(size_bytes, 1))
        if status != self._api.cudaError_t.cudaSuccess:
            raise GantkError(
                f"{what} wants {size_bytes / 2**20:.1f} MiB of pinned host memory, which cannot be had "
                f"(cudaMallocHost: {getattr(status, 'name', status)})",
                where=what,
                hint="give smaller pictures, or raise the limit of locked memory (ulimit -l)",
            )
        return int(address)

    def free_host(self, address: int) -> None:
        self.call("cudaFreeHost", address)

    def copy(self, target: int, source: int, size_bytes: int, kind: str, stream: Any) -> None:
        """Enqueue a copy of one of the kinds named above."""
        direction = getattr(self._api.cudaMemcpyKind, f"cudaMemcpy{kind}")
        self.call("cudaMemcpyAsync", target, source, size_bytes, direction, stream)

    def stream(self) -> Any:
        return self.call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)

    def destroy_stream(self, stream: Any) -> None:
        self.call("cudaStreamDestroy", stream)

    def synchronize(self, stream: Any) -> None:
        self.call("cudaStreamSynchronize", stream)

    def device(self) -> int:
        """The number of the GPU that is current."""
        return int(self.call("cudaGetDevice"))

    def set_device(self, ordinal: int) -> None:
        """Make a GPU current for the calling thread, which makes a context there."""
        self.call("cudaSetDevice", ordinal)

    def event(self) -> Any:
        """An event that notes the time at which it is reached."""
        return self.call("cudaEventCreate")

    def untimed_event(self) -> Any:
        """An event that costs less."""
        return self.call("cudaEventCreateWithFlags", self._api.cudaEventDisableTiming)

    def record(self, event: Any, stream: Any) -> None:
        """Let an event be reached when all that a stream has got so far is done."""
        self.call("cudaEventRecord", event, stream)

    def hold(self, stream: Any, event: Any) -> None:
        """Let all that a stream gets from now on wait for an event."""
        self.call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: Any) -> None:
        self.call("cudaEventSynchronize", event)

    def elapsed_ms(self, first: Any, last: Any) -> float:
        """The GPU's time between two events that were reached, in ms, to about half a microsecond."""
        return float(self.call("cudaEventElapsedTime", first, last))

    def destroy_event(self, event: Any) -> None:
        self.call("cudaEventDestroy", event)

    def wait(self, stream: Any, other: Any) -> None:
        """Let all that a stream gets from now on wait for all that another has got so far."""
        if stream == other:
            return
        event = self.untimed_event()
        try:
            self.record(event, other)
            self.hold(stream, event)
        finally:
            self.destroy_event(event)  # CUDA keeps it until it is reached.

    def begin_capture(self, stream: Any) -> None:
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any, own: Collection[int] | None = None) -> Any:
        """What was enqueued since `begin_capture`, ready to be launched; `own` as in `captured`."""
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            if own is not None:
                refuse_stale_copies(self, graph, own)
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.call("cudaGraphDestroy", graph)

    def captured(self, stream: Any, work: Callable[[], None], own: Collection[int] | None = None) -> Any:
        """What `work` enqueues on a stream, as a graph ready to be launched; `None` where it cannot be captured.

        Captures of one process take turns (see `gantk.runtime.captures`).

        Args:
            stream: On which it is enqueued.
            work: Enqueues it.
            own: The addresses in main memory that its copies may read, where that is to be looked at: see
                `gantk.runtime.graphs`.
        """
        with capturing():
            return self._captured(stream, work, own)

    def _captured(self, stream: Any, work: Callable[[], None], own: Collection[int] | None) -> Any:
        self.begin_capture(stream)
        try:
            work()
        except BaseException as error:
            # Also where the user interrupts: a stream that stays captured is lost.
            self._drop_capture(stream)
            if isinstance(error, GantkError):
                return None
            raise
        try:
            return self.end_capture(stream, own)
        except GantkError:
            return None

    def _drop_capture(self, stream: Any) -> None:
        with suppress(GantkError):
            self.call("cudaGraphDestroy", self.call("cudaStreamEndCapture", stream))

    def launch(self, graph: Any, stream: Any) -> None:
        self.call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        self.call("cudaGraphExecDestroy", graph)


def is_shortage(said: str) -> bool:
    """Whether a TensorRT product's words are of memory that could not be had."""
    return re.search(r"out ?of ?memory", said, re.IGNORECASE) is not None


def host_view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Host memory at an address as an array; it must live longer than the array."""
    size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = (ctypes.c_ubyte * max(size_bytes, 1)).from_address(address)
    count = size_bytes // dtype.itemsize
    array: Array = np.frombuffer(memoryview(memory), dtype, count=count).reshape(shape)
    return array
