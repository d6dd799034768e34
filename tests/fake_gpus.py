# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, N815
"""What the fake GPUs of `fake_cuda` hold, and the rules that they watch over."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any, NoReturn

from fake_streams import LEGACY, FakeStream, Mark, Schedule, Wait


class Status(Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureImplicit = 906


class Number(int):
    """`cuuint64_t`, the driver's own kind."""


@dataclass
class Event:
    """Args:
    gpu: On which it was made.
    timed: Whether it notes when it is reached.
    mark: Where it was recorded last.
    """

    gpu: int
    timed: bool
    mark: Mark | None = None


@dataclass(frozen=True)
class Node:
    """Of a graph.

    Args:
        job: What it does.
        kind: What it is to CUDA.
        source: Of a copy, the address that it reads.
    """

    job: Callable[[], None]
    kind: str = "Kernel"
    source: int = 0


@dataclass
class Capture:
    """The work of a stream that becomes a graph, and the thread that captures it."""

    thread: int = field(default_factory=threading.get_ident)
    nodes: list[Node] = field(default_factory=list)


class FakeGpus:
    """Two GPUs, their streams and memory, and the threads' contexts.

    Args:
        fail: Of which function which call fails, counted from 1: ``{"cudaMalloc": 2}``.
    """

    def __init__(self, fail: dict[str, int] | None = None) -> None:
        self.fail = dict(fail or {})
        self.pools = True
        self.pool_keeps = 0  # Bytes that nobody uses, of the pool of either GPU.
        self.calls: list[str] = []
        self.faults: list[str] = []
        self.device: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.streams: dict[int, FakeStream] = {}
        self.graphs: dict[int, list[Node]] = {}
        self.recording: dict[int, Capture] = {}
        self.events: dict[int, Event] = {}
        self.waits: list[tuple[int, int]] = []
        """Which stream waited for which."""
        self.schedule = Schedule()
        self._default = [FakeStream(LEGACY, gpu, blocking=True) for gpu in range(2)]
        self._gpu_of: dict[int, int] = {}
        self._pooled: set[int] = set()
        self._gone: list[Any] = []  # No address comes again, so that whoever uses an old one is found.
        self._thread = threading.local()
        self._lock = threading.RLock()
        self._next = 1000

    @property
    def leaks(self) -> dict[str, Any]:
        """What was not given back, and what was done against the rules."""
        self.settle()
        held: dict[str, Any] = {"device": self.device, "host": self.host, "streams": self.streams}
        held |= {"graphs": self.graphs, "events": self.events}
        found: dict[str, Any] = {name: len(things) for name, things in held.items() if things}
        return found | ({"faults": self.faults} if self.faults else {})

    def settle(self) -> None:
        """Do all work of all streams."""
        with self._lock:
            self.schedule.drain_gpu()

    def work(self, stream: int, job: Callable[[], None], kind: str = "Kernel", source: int = 0) -> None:
        """Do a job on a stream, or in the graph that is being captured: see `Node`."""
        with self._lock:
            if stream in self.recording:
                self.recording[stream].nodes.append(Node(job, kind, source))
            else:
                self._enqueue(self.stream(stream), job)

    cudaMemPoolAttr = SimpleNamespace(cudaMemPoolAttrReleaseThreshold="kept")
    cuuint64_t = Number

    def cudaDeviceGetDefaultMemPool(self, gpu: int) -> tuple[Status, int]:
        assert self.pools
        return Status.cudaSuccess, 7 + gpu

    def cudaMemPoolGetAttribute(self, pool: int, attribute: str) -> tuple[Status, Any]:
        return Status.cudaSuccess, Number(self.pool_keeps)

    def cudaMemPoolSetAttribute(self, pool: int, attribute: str, value: Any) -> tuple[Status]:
        assert isinstance(value, Number), "the bindings take no number of Python's here"
        self.pool_keeps = int(value)
        return (Status.cudaSuccess,)

    def at(self, address: int) -> Any:
        """The memory from an address to the end of what was allocated there."""
        start = self._start_of(address)
        memory = self.device.get(start, self.host.get(start))
        return (ctypes.c_ubyte * (len(memory) - (address - start))).from_buffer(memory, address - start)

    def gpu_of(self, address: int) -> int:
        """The GPU whose memory an address is."""
        return self._gpu_of[self._start_of(address)]

    def _start_of(self, address: int) -> int:
        held = [*self.device.items(), *self.host.items()]
        starts = [start for start, memory in held if start <= address < start + max(len(memory), 1)]
        if not starts:
            self.fault(f"nothing is allocated at {address:#x}")
        return starts[0]

    def fault(self, text: str) -> NoReturn:
        self.faults.append(text)
        raise AssertionError(text)

    def stream(self, handle: int) -> FakeStream:
        """What a handle is for the calling thread."""
        if handle in (0, LEGACY):
            return self._default[self.current]
        if handle not in self.streams:
            self.fault("no such stream")
        return self.streams[handle]

    @property
    def current(self) -> int:
        """The GPU of the calling thread."""
        contexts = self._contexts
        return contexts[-1] - 1 if contexts else int(getattr(self._thread, "gpu", 0))

    @property
    def _contexts(self) -> list[int]:
        """The driver's stack of the calling thread; the primary context of GPU n is n + 1."""
        if not hasattr(self._thread, "contexts"):
            self._thread.contexts = []
        found: list[int] = self._thread.contexts
        return found

    def _at_home(self) -> int:
        """The GPU of the calling thread, which gets a context of it."""
        if not self._contexts:
            self._contexts.append(self.current + 1)
        return self.current

    def _enqueue(self, stream: FakeStream, item: Any) -> None:
        """With the default stream and those that block behind each other."""
        default = self._default[stream.gpu]
        others = self.streams.values() if stream is default else [default]
        for other in others:
            if stream.blocking and other.blocking and other.gpu == stream.gpu and other.items:
                self.schedule.add(stream, Wait(self.schedule.mark(other)))
        self.schedule.add(stream, item)

    def _called(self, name: str) -> bool:
        """Record a call; whether it succeeds."""
        self.calls.append(name)
        return self.fail.get(name) != self.calls.count(name)

    def _unsafe(self, name: str) -> None:
        """What a thread that captures may not call."""
        if any(capture.thread == threading.get_ident() for capture in self.recording.values()):
            self.fault(f"{name} while the thread captures")

    def _not_captured(self, name: str, stream: int) -> None:
        if stream in self.recording:
            self.fault(f"{name} on a stream that is captured")
