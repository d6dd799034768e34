# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, N815
"""CUDA's runtime as its bindings have it, on host memory: it records calls, fails when told to, and counts leaks.

There are two GPUs. Work on a stream is done when somebody waits for it (see `fake_streams`). What CUDA forbids is an
error here too, raised where it happens and kept in `faults`, for a finalizer's and a thread's are not seen otherwise:
streams, events and memory that are used after their end or on the other GPU, and what disturbs a capture.
"""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace
from typing import Any

from fake_gpus import Capture, Event, FakeGpus, Node, Status
from fake_streams import LEGACY, FakeStream, Mark, Wait

TOTAL_BYTES = 2**30
ALIGNMENT = 512
GOOD = (Status.cudaSuccess,)


class FakeCuda(FakeGpus):
    """The module `cuda.bindings.runtime`, and what is used of `cuda.bindings.driver`: see `FakeGpus`."""

    cudaError_t = Status
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaStreamCaptureStatus = SimpleNamespace(cudaStreamCaptureStatusNone=0)
    cudaGraphNodeType = SimpleNamespace(
        **{
            f"cudaGraphNodeType{kind}": kind
            for kind in (
                *("Kernel", "Memcpy", "Memset", "Host", "Empty"),
                *("WaitEvent", "EventRecord", "MemAlloc", "MemFree"),
            )
        }
    )
    cudaMemoryType = SimpleNamespace(cudaMemoryTypeDevice="device", cudaMemoryTypeManaged="managed")
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrMemoryPoolsSupported="pools")

    # Memory.

    def _allocate(self, name: str, held: dict[int, Any], size: int) -> tuple[Status, int]:
        if not self._called(name) or size > TOTAL_BYTES:
            return Status.cudaErrorMemoryAllocation, 0
        room = (ctypes.c_ubyte * (size + ALIGNMENT))()
        memory = (ctypes.c_ubyte * size).from_buffer(room, -ctypes.addressof(room) % ALIGNMENT)
        ctypes.memset(memory, 0xCD, min(size, 64))
        address = ctypes.addressof(memory)
        held[address], self._gpu_of[address] = memory, self._at_home()
        return Status.cudaSuccess, address

    def _free(self, held: dict[int, Any], address: int) -> None:
        if address not in held:
            self.fault(f"what is freed is not allocated: {address:#x}")
        self._gone.append(held.pop(address))
        self._pooled.discard(address)

    def cudaMalloc(self, size: int) -> tuple[Status, int]:
        self._unsafe("cudaMalloc")
        return self._allocate("cudaMalloc", self.device, size)

    def cudaMallocHost(self, size: int) -> tuple[Status, int]:
        self._unsafe("cudaMallocHost")
        return self._allocate("cudaMallocHost", self.host, size)

    def cudaMallocAsync(self, size: int, stream: int) -> tuple[Status, int]:
        self._not_captured("cudaMallocAsync", stream)
        assert self.pools
        status, address = self._allocate("cudaMallocAsync", self.device, size)
        if address:
            self._gpu_of[address] = self.stream(stream).gpu
            self._pooled.add(address)
        return status, address

    def cudaFree(self, address: int) -> tuple[Status]:
        """Waits for the whole GPU, but not with memory of a pool."""
        self._unsafe("cudaFree")
        self._at_home()
        with self._lock:
            self._called("cudaFree")
            if address and address not in self._pooled:
                self.schedule.drain_gpu(self.gpu_of(address))
            if address:
                self._free(self.device, address)
        return GOOD

    def cudaFreeAsync(self, address: int, stream: int) -> tuple[Status]:
        self._not_captured("cudaFreeAsync", stream)
        self._called("cudaFreeAsync")
        assert address in self._pooled, "memory of no pool"
        self.work(stream, lambda: self._free(self.device, address))
        return GOOD

    def cudaFreeHost(self, address: int) -> tuple[Status]:
        self._called("cudaFreeHost")
        self._free(self.host, address)
        return GOOD

    def cudaMemGetInfo(self) -> tuple[Status, int, int]:
        used = sum(len(memory) for memory in self.device.values())
        return Status.cudaSuccess, TOTAL_BYTES - used, TOTAL_BYTES

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple[Status]:
        if not self._called("cudaMemcpyAsync"):
            return (Status.cudaErrorLaunchFailure,)
        assert source in (self.host if kind == "in" else self.device)
        assert target in (self.device if kind == "in" else self.host)

        def copy() -> None:
            assert len(self.at(source)) >= size and len(self.at(target)) >= size
            ctypes.memmove(target, source, size)

        self.work(stream, copy, "Memcpy", source)
        return GOOD

    # GPUs and the driver's contexts.

    def cudaGetDevice(self) -> tuple[Status, int]:
        return Status.cudaSuccess, self.current

    def cudaSetDevice(self, gpu: int) -> tuple[Status]:
        self._thread.gpu = gpu
        self._contexts[-1:] = [gpu + 1]
        return GOOD

    def cudaDeviceGetAttribute(self, attribute: str, gpu: int) -> tuple[Status, int]:
        return Status.cudaSuccess, int(self.pools)

    def cudaDeviceSynchronize(self) -> tuple[Status]:
        self._called("cudaDeviceSynchronize")
        if self.recording:
            self.fault("cudaDeviceSynchronize while a stream is captured")
        with self._lock:
            self.schedule.drain_gpu(self.current)
        return GOOD

    def cuCtxGetCurrent(self) -> tuple[Any, int]:
        return SimpleNamespace(value=0, name="CUDA_SUCCESS"), (self._contexts or [0])[-1]

    def cuCtxPushCurrent(self, context: int) -> tuple[Any]:
        self._contexts.append(context)
        return (SimpleNamespace(value=0, name="CUDA_SUCCESS"),)

    def cuCtxPopCurrent(self) -> tuple[Any, int]:
        return SimpleNamespace(value=0, name="CUDA_SUCCESS"), self._contexts.pop()

    # Events.

    def cudaEventCreate(self) -> tuple[Status, int]:
        return self.cudaEventCreateWithFlags(0)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Status, int]:
        if not self._called("cudaEventCreate"):
            return Status.cudaErrorMemoryAllocation, 0
        self._next += 1
        self.events[self._next] = Event(self._at_home(), timed=not flags)
        return Status.cudaSuccess, self._next

    def _event(self, event: int) -> Event:
        if event not in self.events:
            self.fault("no such event")
        return self.events[event]

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Status]:
        self._not_captured("cudaEventRecord", stream)
        found, on = self._event(event), self.stream(stream)
        if found.gpu != on.gpu:
            self.fault(f"an event of GPU {found.gpu} is recorded on a stream of GPU {on.gpu}")
        if not self._called("cudaEventRecord"):
            return (Status.cudaErrorLaunchFailure,)
        with self._lock:
            found.mark = Mark(on)
            self._enqueue(on, found.mark)
        return GOOD

    def cudaEventSynchronize(self, event: int) -> tuple[Status]:
        self._called("cudaEventSynchronize")
        with self._lock:
            mark = self._event(event).mark
            if mark is not None:
                self.schedule.reach(mark)
        return GOOD

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Status, float]:
        self._called("cudaEventElapsedTime")
        first, last = self._event(start), self._event(end)
        assert first.timed and last.timed, "events without timing"
        assert first.mark is not None and last.mark is not None, "events that were not recorded"
        began, ended = first.mark.tick, last.mark.tick
        assert began is not None and ended is not None, "events that were not reached"
        assert 0 <= began <= ended, "events in the other order"
        return Status.cudaSuccess, float(ended - began)

    def cudaEventDestroy(self, event: int) -> tuple[Status]:
        self._called("cudaEventDestroy")
        self._event(event)
        del self.events[event]
        return GOOD

    # Streams and graphs.

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Status, int]:
        if not self._called("cudaStreamCreateWithFlags"):
            return Status.cudaErrorLaunchFailure, 0
        self._next += 1
        self.streams[self._next] = FakeStream(self._next, self._at_home(), blocking=not flags)
        return Status.cudaSuccess, self._next

    def cudaStreamDestroy(self, stream: int) -> tuple[Status]:
        """What it has got is done all the same."""
        self._called("cudaStreamDestroy")
        self.stream(stream)
        del self.streams[stream]
        return GOOD

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Status]:
        self._not_captured("cudaStreamWaitEvent", stream)
        self._called("cudaStreamWaitEvent")
        mark, waiting = self._event(event).mark, self.stream(stream)
        if mark is not None:
            self.waits.append((waiting.handle, mark.stream.handle))
            with self._lock:
                self._enqueue(waiting, Wait(mark))
        return GOOD

    def cudaStreamIsCapturing(self, stream: int) -> tuple[Status, int | None]:
        if stream in (0, LEGACY) and any(self.stream(each).blocking for each in self.recording):
            return Status.cudaErrorStreamCaptureImplicit, None
        return Status.cudaSuccess, int(stream in self.recording)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Status]:
        self._not_captured("cudaStreamSynchronize", stream)
        found, good = self.stream(stream), self._called("cudaStreamSynchronize")
        with self._lock:
            self.schedule.drain([found])
        return GOOD if good else (Status.cudaErrorLaunchFailure,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Status]:
        self._called("cudaStreamBeginCapture")
        self._not_captured("cudaStreamBeginCapture", stream)
        self.recording[self.stream(stream).handle] = Capture()
        return GOOD

    def cudaStreamEndCapture(self, stream: int) -> tuple[Status, Any]:
        capture = self.recording.pop(stream, None)
        if capture is None:
            return Status.cudaErrorStreamCaptureUnsupported, None
        assert capture.thread == threading.get_ident(), "another thread ends a capture"
        if not self._called("cudaStreamEndCapture"):
            return Status.cudaErrorStreamCaptureUnsupported, None
        self._next += 1
        self.graphs[self._next] = capture.nodes
        return Status.cudaSuccess, self._next

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Status, Any]:
        if not self._called("cudaGraphInstantiate"):
            return Status.cudaErrorLaunchFailure, None
        self._next += 1
        self.graphs[self._next] = self.graphs[graph]
        return Status.cudaSuccess, self._next

    def cudaGraphDestroy(self, graph: int) -> tuple[Status]:
        self._called("cudaGraphDestroy")
        del self.graphs[graph]
        return GOOD

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Status]:
        if not self._called("cudaGraphLaunch"):
            return (Status.cudaErrorLaunchFailure,)
        for node in self.graphs[graph]:
            self.work(stream, node.job)
        return GOOD

    def cudaGraphGetNodes(self, graph: int, count: int = 0) -> tuple[Status, list[Node], int]:
        nodes = self.graphs[graph]
        return Status.cudaSuccess, nodes[:count], len(nodes)

    def cudaGraphNodeGetType(self, node: Node) -> tuple[Status, str]:
        return Status.cudaSuccess, node.kind

    def cudaGraphMemcpyNodeGetParams(self, node: Node) -> tuple[Status, Any]:
        assert node.kind == "Memcpy"
        return Status.cudaSuccess, SimpleNamespace(srcPtr=SimpleNamespace(ptr=node.source))

    def cudaPointerGetAttributes(self, address: int) -> tuple[Status, Any]:
        return Status.cudaSuccess, SimpleNamespace(type="device" if address in self.device else "host")
