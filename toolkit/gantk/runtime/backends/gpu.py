# SPDX-License-Identifier: Apache-2.0
"""What runners on a GPU have in common: arrays that stay there, and runs that are bound to them."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gantk.errors import GantkError
from gantk.runtime.backends.device import DeviceArray, place_outputs, reader, view
from gantk.runtime.backends.plans import Shape
from gantk.runtime.captures import give_back
from gantk.runtime.cuda import DEVICE_TO_HOST, HOST_TO_DEVICE, Cuda, host_view
from gantk.runtime.runner import Array, Runner
from gantk.runtime.streams import Event, Stream
from gantk.runtime.views import Reader, View, on_gpu

NO_PENDING_WORK = -1
"""In place of a stream: the caller has nothing under way that a run must wait for."""


@dataclass(frozen=True)
class Context:
    """What one run after another is enqueued with.

    Args:
        stream: Its own.
        output_shapes: From the inputs' shapes.
        enqueue: Enqueues a run: addresses of inputs and outputs, the inputs' shapes, the stream.
        where: The network's name, for errors.
        capture: Makes a graph of what it is given to enqueue; `None` where that cannot be one.
        release: Called when no more runs are enqueued with it.
        turn: Held while something is enqueued or waited for, where others use the stream too.
    """

    stream: Any
    output_shapes: Callable[[Mapping[str, Shape]], Mapping[str, Shape]]
    enqueue: Callable[[Mapping[str, int], Mapping[str, Shape], Any], None]
    where: str
    capture: Callable[[Callable[[], None]], Any]
    release: Callable[[], None] = lambda: None
    turn: AbstractContextManager[Any] = field(default_factory=nullcontext)


class GpuRunner(Runner):
    """A runner whose inputs and outputs may stay in GPU memory.

    Args:
        calls: Calls CUDA; its home is where the runner is.
        what: As of `Runner`.
        alignment: What the addresses of arrays must be a multiple of, in bytes.
        facts: Likewise as of `Runner`.
    """

    def __init__(self, calls: Cuda, *what: Any, alignment: int, **facts: Any) -> None:
        super().__init__(*what, **facts)
        self._cuda, self._alignment = calls, alignment
        self._launched: Event | None = None
        self._launched_on = 0
        self._spare: Event | None = None
        self._bounds: weakref.WeakSet[Bound] = weakref.WeakSet()

    def _where_gpu_arrays_go(self) -> str:
        return "launch(...) and bind(...) take it where it is"

    @abstractmethod
    def _context(self) -> Context:
        """A context for a bound run.

        Raises:
            GantkError: The runner is closed.
            UnbindableError: The network cannot be bound to memory.
        """

    @abstractmethod
    def launch(
        self, feeds: Mapping[str, Any], stream: Any, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run on GPU memory, on a stream of the caller's, without a copy and without waiting."""

    def bind(self, feeds: Mapping[str, Any]) -> Bound:
        """Bind a run to arrays in GPU memory: one CUDA graph, the least that a call can cost.

        Args:
            feeds: For each input an array in GPU memory, as `launch` takes it, or one in host memory, of which a copy
                on the GPU is made.

        Returns:
            What to call. It ends with the runner; its runs follow each other, and `run` may go on beside them.

        Raises:
            GantkError: An array is missing or does not fit, or the runner is closed.
            UnbindableError: The network cannot be bound to memory; `run` takes it.
        """
        if not isinstance(feeds, Mapping) or feeds.keys() != self._input_names:
            raise self._wrong_names(feeds)
        with self._cuda.current():
            context = self._context()
            with context.turn, ExitStack() as undo:
                undo.callback(context.release)
                bound = self._bound(feeds, context)
                undo.pop_all()
        self._bounds.add(bound)
        return bound

    def _bound(self, feeds: Mapping[str, Any], context: Context) -> Bound:
        sizes: dict[str, int] = {}
        inputs = {
            spec.name: feeds[spec.name]
            if on_gpu(feeds[spec.name])
            else to_gpu(self._cuda, self._checked(spec, feeds[spec.name], sizes), spec.name, context.stream)
            for spec in self.inputs
        }
        seen, given = self._seen(inputs, int(context.stream))
        shapes = {name: array.shape for name, array in given.items()}
        placed = place_outputs(self.outputs, context.output_shapes(shapes), {}, given, seen, self._cuda, None)
        addresses = {name: array.address for name, array in given.items()}
        addresses |= {name: array.address for name, array in placed.items()}
        outputs = {name: each.array for name, each in placed.items()}
        return Bound(
            inputs, outputs, lambda: context.enqueue(addresses, shapes, context.stream), context, self._cuda
        )

    def synchronize(self) -> None:
        """Wait for what was launched last."""
        launched = self._launched
        if launched is not None:
            launched.synchronize()

    def _note_launch(self, stream: int, outputs: Mapping[str, Any], out: Mapping[str, Any]) -> Event:
        """Record the end of a run that a stream has just got, for later runs and for readers of arrays that it makes.

        The stream itself is the caller's, and may be gone by then.
        """
        made = [array for name, array in outputs.items() if name not in out]
        if made:
            done = Event(self._cuda)
        else:  # Nobody else has this one: a launch that is told where to write makes none.
            self._spare = done = self._spare or Event(self._cuda)
        done.record(stream)
        for array in made:
            array.ready = done
        self._launched, self._launched_on = done, stream
        return done

    def _seen(self, feeds: Mapping[str, Any], stream: int) -> tuple[Reader, dict[str, View]]:
        """Arrays in GPU memory, for work on a stream.

        Raises:
            GantkError: An array is missing, not in the memory of this GPU, does not fit, or is not aligned.
        """
        if feeds.keys() != self._input_names:
            raise self._wrong_names(feeds)
        ordinal, seen = self._cuda.home.ordinal, reader(self._cuda, stream, self._alignment)
        return seen, {spec.name: view(spec, feeds[spec.name], seen, ordinal) for spec in self.inputs}

    def _close_runs(self) -> None:
        """Wait for what was launched and end all bound runs, whatever fails on the way; the network goes next."""
        with ExitStack() as stack:
            self._spare = None
            stack.callback(setattr, self, "_launched", None)
            stack.callback(self.synchronize)
            for bound in self._bounds:
                stack.callback(bound.close)


def to_gpu(cuda: Cuda, array: Array, name: str, stream: int) -> DeviceArray:
    """A copy of an array in GPU memory, there when this returns."""
    made = DeviceArray(cuda, array.shape, array.dtype, name)
    host = cuda.allocate_host(made.size_bytes, f"the copy of {made!r}")
    try:
        np.copyto(host_view(host, array.shape, array.dtype), array)
        cuda.copy(made.address, host, made.size_bytes, HOST_TO_DEVICE, stream)
        cuda.synchronize(stream)
    finally:
        cuda.free_host(host)
    return made


def to_host(cuda: Cuda, array: DeviceArray, stream: int) -> Array:
    """A copy of an array in host memory, after what a stream has got so far."""
    host = cuda.allocate_host(array.size_bytes, f"the copy of {array!r}")
    try:
        cuda.copy(host, array.address, array.size_bytes, DEVICE_TO_HOST, stream)
        cuda.synchronize(stream)
        return host_view(host, array.shape, array.dtype).copy()
    finally:
        cuda.free_host(host)


class Bound:
    """A run that is bound to arrays in GPU memory: a CUDA graph where the network can be one.

    Whoever calls it writes new values into `inputs` first, and reads `outputs` after: both stay where they are.

    Args:
        inputs: By name: arrays in GPU memory.
        outputs: Likewise.
        enqueue: Enqueues one run on the context's stream.
        context: Of the runner.
        cuda: Calls CUDA.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        enqueue: Callable[[], None],
        context: Context,
        cuda: Cuda,
    ) -> None:
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self._context, self._cuda = context, cuda
        self._pending: Event | None = None
        self._enqueue: Callable[[], None] | None = enqueue
        enqueue()  # The first run may compile and take memory.
        cuda.synchronize(context.stream)
        self._graph = context.capture(enqueue)
        self._given_back = weakref.finalize(self, _give_back, cuda, self._graph, context.release)

    def __call__(self, stream: Any = None) -> dict[str, Any]:
        """Run once, after what a stream has got so far; the outputs are there when it returns.

        Args:
            stream: On which `inputs` were written and `outputs` are read, as `launch` takes it; the default stream by
                default. -1 where all of that is done: it saves an event.

        Raises:
            GantkError: The runner is closed, or the run failed.
        """
        context = self._context
        with self._cuda.current(), context.turn:
            if self._enqueue is None:
                raise GantkError("the runner is closed", where=context.where, hint="open the bundle again")
            if stream != NO_PENDING_WORK:
                self._wait_for(Stream.of(stream))
            if self._graph is not None:
                self._cuda.launch(self._graph, context.stream)
            else:
                self._enqueue()
            self._cuda.synchronize(context.stream)
        return self.outputs

    @property
    def is_graph(self) -> bool:
        """Whether a call launches a CUDA graph; else it enqueues the network anew."""
        return self._graph is not None

    def fetch(self) -> dict[str, Array]:
        """Copies of the outputs of the last call in host memory.

        Raises:
            GantkError: Memory is short, or the run failed.
        """
        with self._cuda.current(), self._context.turn:
            stream = int(self._context.stream)
            return {name: to_host(self._cuda, array, stream) for name, array in self.outputs.items()}

    def _wait_for(self, theirs: Stream) -> None:
        """Let our stream, which waits for none by itself, wait for theirs: libraries return before a copy is done."""
        if self._pending is None:
            self._pending = Event(self._cuda)
        self._pending.record(theirs.handle)
        self._pending.hold(self._context.stream)

    def close(self) -> None:
        """Give back the graph and the context."""
        self._graph, self._enqueue, self._pending = None, None, None
        self._given_back()


def _give_back(cuda: Cuda, graph: Any, release: Callable[[], None]) -> None:
    try:
        if graph is not None:
            give_back(lambda: cuda.destroy_graph(graph))
    finally:
        release()
