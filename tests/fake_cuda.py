# SPDX-License-Identifier: Apache-2.0
"""CUDA's runtime as its bindings have it, on host memory: it records calls, fails when told to, and counts leaks.

Work on a stream is done when it is enqueued, or when its graph is launched. What a real stream forbids is an error
here too: copies from memory that was freed, a synchronisation while capturing, a graph launched after its end.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

TOTAL_BYTES = 2**30


class Status(Enum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorLaunchFailure = 719  # noqa: N815
    cudaErrorStreamCaptureUnsupported = 900  # noqa: N815


class FakeCuda:
    """The module `cuda.bindings.runtime`.

    Args:
        fail: Of which function which call fails, counted from 1: ``{"cudaMalloc": 2}``.
    """

    cudaError_t = Status  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaEventDisableTiming = 2  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out")  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, fail: dict[str, int] | None = None) -> None:
        self.fail = dict(fail or {})
        self.calls: list[str] = []
        self.device: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.recording: dict[int, list[Callable[[], None]]] = {}
        self.events: dict[int, int | None] = {}
        """When each event was reached, in ticks of which every piece of work takes one; `None` without timing."""
        self.waits: list[tuple[int, int]] = []
        """Which stream waited for which."""
        self._recorded_on: dict[int, int] = {}
        self._ticks = 0
        self._next = 1000

    @property
    def leaks(self) -> dict[str, int]:
        """What was not given back."""
        held: dict[str, Any] = {"device": self.device, "host": self.host, "streams": self.streams}
        held |= {"graphs": self.graphs, "events": self.events}
        return {name: len(things) for name, things in held.items() if things}

    def work(self, stream: int, job: Callable[[], None]) -> None:
        """Do a job on a stream: now, or in the graph that is being captured."""
        assert stream in self.streams, "no such stream"
        if stream in self.recording:
            self.recording[stream].append(job)
        else:
            self._ticks += 1
            job()

    def at(self, address: int) -> Any:
        memory = self.device.get(address, self.host.get(address))
        assert memory is not None, f"nothing is allocated at {address:#x}"
        return memory

    def _called(self, name: str) -> bool:
        """Record a call; whether it succeeds."""
        self.calls.append(name)
        return self.fail.get(name) != self.calls.count(name)

    def _allocate(self, name: str, held: dict[int, Any], size: int) -> tuple[Status, int]:
        if not self._called(name) or size > TOTAL_BYTES:
            return Status.cudaErrorMemoryAllocation, 0
        memory = (ctypes.c_ubyte * size)(*([0xCD] * min(size, 64)))
        held[ctypes.addressof(memory)] = memory
        return Status.cudaSuccess, ctypes.addressof(memory)

    def cudaMalloc(self, size: int) -> tuple[Status, int]:  # noqa: N802
        return self._allocate("cudaMalloc", self.device, size)

    def cudaMallocHost(self, size: int) -> tuple[Status, int]:  # noqa: N802
        return self._allocate("cudaMallocHost", self.host, size)

    def cudaFree(self, address: int) -> tuple[Status]:  # noqa: N802
        self._called("cudaFree")
        del self.device[address]
        return (Status.cudaSuccess,)

    def cudaFreeHost(self, address: int) -> tuple[Status]:  # noqa: N802
        self._called("cudaFreeHost")
        del self.host[address]
        return (Status.cudaSuccess,)

    def cudaMemGetInfo(self) -> tuple[Status, int, int]:  # noqa: N802
        used = sum(len(memory) for memory in self.device.values())
        return Status.cudaSuccess, TOTAL_BYTES - used, TOTAL_BYTES

    def cudaGetDevice(self) -> tuple[Status, int]:  # noqa: N802
        return Status.cudaSuccess, 0

    def cudaEventCreate(self) -> tuple[Status, int]:  # noqa: N802
        return self.cudaEventCreateWithFlags(0)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Status, int]:  # noqa: N802
        if not self._called("cudaEventCreate"):
            return Status.cudaErrorMemoryAllocation, 0
        self._next += 1
        self.events[self._next] = None if flags else -1
        return Status.cudaSuccess, self._next

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Status]:  # noqa: N802
        if not self._called("cudaEventRecord"):
            return (Status.cudaErrorLaunchFailure,)
        self._recorded_on[event] = stream
        if self.events[event] is not None:
            self.events[event] = self._ticks
        return (Status.cudaSuccess,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Status, float]:  # noqa: N802
        self._called("cudaEventElapsedTime")
        first, last = self.events[start], self.events[end]
        assert first is not None and last is not None, "events without timing"
        assert 0 <= first <= last, "events that were not reached, or in the other order"
        return Status.cudaSuccess, float(last - first)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Status]:  # noqa: N802
        self._called("cudaStreamWaitEvent")
        self.waits.append((stream, self._recorded_on[event]))
        return (Status.cudaSuccess,)

    def cudaEventDestroy(self, event: int) -> tuple[Status]:  # noqa: N802
        self._called("cudaEventDestroy")
        del self.events[event]
        return (Status.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Status, int]:  # noqa: N802
        if not self._called("cudaStreamCreateWithFlags"):
            return Status.cudaErrorLaunchFailure, 0
        self._next += 1
        self.streams.add(self._next)
        return Status.cudaSuccess, self._next

    def cudaStreamDestroy(self, stream: int) -> tuple[Status]:  # noqa: N802
        self._called("cudaStreamDestroy")
        self.streams.remove(stream)
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Status]:  # noqa: N802
        assert stream not in self.recording, "a capture forbids to wait"
        good = self._called("cudaStreamSynchronize")
        return (Status.cudaSuccess if good else Status.cudaErrorLaunchFailure,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple[Status]:  # noqa: N802
        if not self._called("cudaMemcpyAsync"):
            return (Status.cudaErrorLaunchFailure,)
        assert source in (self.host if kind == "in" else self.device)
        assert target in (self.device if kind == "in" else self.host)

        def copy() -> None:
            assert len(self.at(source)) >= size and len(self.at(target)) >= size
            ctypes.memmove(target, source, size)

        self.work(stream, copy)
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Status]:  # noqa: N802
        self._called("cudaStreamBeginCapture")
        self.recording[stream] = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Status, Any]:  # noqa: N802
        jobs = self.recording.pop(stream)
        if not self._called("cudaStreamEndCapture"):
            return Status.cudaErrorStreamCaptureUnsupported, None
        self._next += 1
        self.graphs[self._next] = jobs
        return Status.cudaSuccess, self._next

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Status, Any]:  # noqa: N802
        if not self._called("cudaGraphInstantiate"):
            return Status.cudaErrorLaunchFailure, None
        self._next += 1
        self.graphs[self._next] = self.graphs[graph]
        return Status.cudaSuccess, self._next

    def cudaGraphDestroy(self, graph: int) -> tuple[Status]:  # noqa: N802
        self._called("cudaGraphDestroy")
        del self.graphs[graph]
        return (Status.cudaSuccess,)

    cudaGraphExecDestroy = cudaGraphDestroy  # noqa: N815

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Status]:  # noqa: N802
        if not self._called("cudaGraphLaunch"):
            return (Status.cudaErrorLaunchFailure,)
        for job in self.graphs[graph]:
            self.work(stream, job)
        return (Status.cudaSuccess,)
