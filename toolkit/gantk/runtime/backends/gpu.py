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
from gantk.runtime import dlpack
from gantk.runtime.backends.device import DeviceArray, Shape, place_outputs, reader, view
from gantk.runtime.cuda import HOST_TO_DEVICE, Cuda, host_view
from gantk.runtime.runner import Array, Runner
from gantk.runtime.views import Reader, View


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
        turn: Held while something is enqueued, where others use the stream too.
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
        calls: Calls CUDA.
        what: As of `Runner`.
        facts: Likewise.
    """

    def __init__(self, calls: Cuda, *what: Any, **facts: Any) -> None:
        super().__init__(*what, **facts)
        self._cuda = calls
        self._bounds: weakref.WeakSet[Bound] = weakref.WeakSet()

    @abstractmethod
    def _context(self) -> Context:
        """A context for a bound run.

        Raises:
            GantkError: The runner is closed, or the size of an output is told by the run alone.
        """

    def bind(self, feeds: Mapping[str, Any]) -> Bound:
        """Bind a run to arrays in GPU memory: one CUDA graph, the least that a call can cost.

        Args:
            feeds: For each input an array in GPU memory, as `launch` takes it, or one in host memory, of which a copy
                on the GPU is made.

        Returns:
            What to call. It ends with the runner; its runs follow each other, and `run` may go on beside them.

        Raises:
            GantkError: An array is missing or does not fit; the size of an output is told by the run alone; the
                runner is closed.
        """
        if not isinstance(feeds, Mapping) or feeds.keys() != self._input_names:
            raise self._wrong_names(feeds)
        context = self._context()
        with ExitStack() as undo:
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
        placed = place_outputs(
            self.outputs, context.output_shapes(shapes), {}, seen, self._cuda, int(context.stream)
        )
        addresses = {name: array.address for name, array in given.items()}
        addresses |= {name: array.address for name, array in placed.items()}
        outputs = {name: each.array for name, each in placed.items()}
        return Bound(
            inputs, outputs, lambda: context.enqueue(addresses, shapes, context.stream), context, self._cuda
        )

    def _seen(self, feeds: Mapping[str, Any], stream: int) -> tuple[Reader, dict[str, View]]:
        """Arrays in GPU memory, for work on a stream.

        Raises:
            GantkError: An array is missing, not in the memory of this GPU, or does not fit.
        """
        if feeds.keys() != self._input_names:
            raise self._wrong_names(feeds)
        ordinal = self._cuda.device()
        seen = reader(self._cuda, ordinal, stream)
        return seen, {spec.name: view(spec, feeds[spec.name], seen, ordinal) for spec in self.inputs}

    def _close_bounds(self) -> None:
        """End all bound runs, whatever fails on the way: what they run goes next."""
        with ExitStack() as stack:
            for bound in self._bounds:
                stack.callback(bound.close)


def on_gpu(value: Any) -> bool:
    """Whether something is an array in GPU memory."""
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[0]) in (dlpack.CUDA, dlpack.CUDA_MANAGED)
    return hasattr(value, "__cuda_array_interface__")


def to_gpu(cuda: Cuda, array: Array, name: str, stream: int) -> DeviceArray:
    """A copy of an array in GPU memory, there when this returns."""
    made = DeviceArray(cuda, array.shape, array.dtype, name, stream)
    host = cuda.allocate_host(made.size_bytes, f"the copy of {made!r}")
    try:
        np.copyto(host_view(host, array.shape, array.dtype), array)
        cuda.copy(made.address, host, made.size_bytes, HOST_TO_DEVICE, stream)
        cuda.synchronize(stream)
    finally:
        cuda.free_host(host)
    return made


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
        self._enqueue: Callable[[], None] | None = enqueue
        with context.turn:
            enqueue()  # The first run may compile and take memory.
            cuda.synchronize(context.stream)
            self._graph = context.capture(enqueue)
        self._given_back = weakref.finalize(self, _give_back, cuda, self._graph, context.release)

    def __call__(self) -> dict[str, Any]:
        """Run once; the outputs are there when it returns.

        Raises:
            GantkError: The runner is closed, or the run failed.
        """
        context = self._context
        with context.turn:
            if self._graph is not None:
                self._cuda.launch(self._graph, context.stream)
            elif self._enqueue is not None:
                self._enqueue()
            else:
                raise GantkError("the runner is closed", where=context.where, hint="open the bundle again")
        self._cuda.synchronize(context.stream)
        return self.outputs

    def close(self) -> None:
        """Give back the graph and the context."""
        self._graph, self._enqueue = None, None
        self._given_back()


def _give_back(cuda: Cuda, graph: Any, release: Callable[[], None]) -> None:
    try:
        if graph is not None:
            cuda.destroy_graph(graph)
    finally:
        release()
