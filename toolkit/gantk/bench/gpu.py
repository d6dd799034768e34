# SPDX-License-Identifier: Apache-2.0
"""Where the time of a call goes on a GPU: the copies, the network, and the processor's work to enqueue it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from time import perf_counter_ns
from typing import Any

import numpy as np

from gantk.runtime import cuda
from gantk.runtime.backends.device import DeviceArray
from gantk.runtime.cuda import DEVICE_TO_HOST, HOST_TO_DEVICE, Cuda, host_view
from gantk.runtime.runner import Array

PARTS = ("copy_in", "device", "enqueue", "copy_out")
WARMUP_CALLS = 3  # The first one binds shapes, and may compile.


def time_parts(runner: Any, feeds: Mapping[str, Array], block_s: float, most: int) -> dict[str, list[float]]:
    """Call a runner on GPU memory: copies in, `runner.launch` and copies out, on one stream, with events between.

    The time between two events is the GPU's, its waiting included: where enqueueing takes longer than the network,
    ``device`` is as long as that.

    Args:
        runner: Has ``launch(feeds, stream, out)``.
        feeds: Its inputs, in host memory.
        block_s: For so long, at least once.
        most: At most so often.

    Returns:
        Of each call, in ms: ``copy_in``, ``device`` and ``copy_out`` of the GPU, ``enqueue`` of the processor.
    """
    with ExitStack() as stack:
        calls = _Calls(runner, feeds, Cuda(cuda.bindings()), stack)
        for _ in range(WARMUP_CALLS):
            calls.once()
        times: dict[str, list[float]] = {name: [] for name in PARTS}
        deadline = perf_counter_ns() + int(block_s * 1e9)
        for _ in range(most):
            for name, duration_ms in calls.once().items():
                times[name].append(duration_ms)
            if perf_counter_ns() >= deadline:
                break
        return times


class _Calls:
    """A stream, events, and arrays on both sides; all given back by `stack`."""

    def __init__(self, runner: Any, feeds: Mapping[str, Array], calls: Cuda, stack: ExitStack) -> None:
        self._runner, self._cuda, self._stack = runner, calls, stack
        self._stream = calls.stream()
        stack.callback(calls.destroy_stream, self._stream)
        self._marks = []
        for _ in range(4):
            self._marks.append(calls.event())
            stack.callback(calls.destroy_event, self._marks[-1])
        self._inputs = {name: self._input(name, array) for name, array in feeds.items()}
        self._pinned_in = {name: self._pinned(array) for name, array in self._inputs.items()}
        for name, array in feeds.items():
            np.copyto(host_view(self._pinned_in[name], array.shape, array.dtype), array)
        stack.callback(calls.synchronize, self._stream)  # Before the inputs go, whatever fails from here on.
        self._copy_in()  # What is there by chance may be no input, such as a class that does not exist.
        self._outputs: dict[str, DeviceArray] = runner.launch(self._inputs, int(self._stream))
        self._pinned_out = {name: self._pinned(array) for name, array in self._outputs.items()}
        stack.callback(calls.synchronize, self._stream)  # Before the outputs' copies go.

    def once(self) -> dict[str, float]:
        """One call; the time of each of its parts, in ms."""
        before, ready, done, after = self._marks
        self._cuda.record(before, self._stream)
        self._copy_in()
        self._cuda.record(ready, self._stream)
        start = perf_counter_ns()
        self._runner.launch(self._inputs, int(self._stream), self._outputs)
        enqueued_ns = perf_counter_ns() - start
        self._cuda.record(done, self._stream)
        for name, array in self._outputs.items():
            self._cuda.copy(self._pinned_out[name], array.address, _size(array), DEVICE_TO_HOST, self._stream)
        self._cuda.record(after, self._stream)
        self._cuda.synchronize(self._stream)
        return {
            "copy_in": self._cuda.elapsed_ms(before, ready),
            "device": self._cuda.elapsed_ms(ready, done),
            "enqueue": enqueued_ns / 1e6,
            "copy_out": self._cuda.elapsed_ms(done, after),
        }

    def _copy_in(self) -> None:
        for name, array in self._inputs.items():
            self._cuda.copy(array.address, self._pinned_in[name], _size(array), HOST_TO_DEVICE, self._stream)

    def _input(self, name: str, array: Array) -> DeviceArray:
        return DeviceArray(self._cuda, array.shape, array.dtype, name, int(self._stream))

    def _pinned(self, array: DeviceArray) -> int:
        address = self._cuda.allocate_host(_size(array), f"the copy of {array!r}")
        self._stack.callback(self._cuda.free_host, address)
        return address


def _size(array: DeviceArray) -> int:
    return int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize
