# SPDX-License-Identifier: Apache-2.0
"""One execution context of an engine, with its stream, its memory and a CUDA graph for each shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from gantk.bundle import Profile
from gantk.errors import GantkError
from gantk.runtime.cuda import DEVICE_TO_HOST, HOST_TO_DEVICE, Cuda, host_view
from gantk.runtime.products import Log
from gantk.runtime.runner import Array, numpy_dtype
from gantk.tensors import TensorSpec

PLAN_LIMIT = 16
"""How many shapes' graphs are kept."""

Shape = tuple[int, ...]


@dataclass
class _Buffer:
    """A tensor's place in GPU memory and its twin in pinned host memory."""

    device: int
    host: int
    size_bytes: int


@dataclass
class Plan:
    """What a set of input shapes comes to.

    Args:
        profile: The index of the profile that serves them.
        shapes: Of every input and output.
        runs: How often it ran.
        graph: The captured work, from the second run on.
    """

    profile: int
    shapes: dict[str, Shape]
    runs: int = 0
    graph: Any = None


class Lane:
    """A context and all that it needs; one thread at a time uses it.

    Args:
        engine: The product's engine.
        cuda: Calls CUDA.
        inputs: Of the network.
        outputs: Of the network.
        profiles: As the manifest has them, in the engine's order.
        heard: The product's logger.
        where: The engine's name, for errors.
    """

    def __init__(
        self,
        engine: Any,
        cuda: Cuda,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        profiles: Sequence[Profile],
        heard: Log,
        where: str,
    ) -> None:
        self._cuda, self._inputs, self._outputs = cuda, inputs, outputs
        self._profiles, self._heard, self._where = profiles, heard, where
        self._buffers: dict[str, _Buffer] = {}
        self._plans: dict[tuple[Shape, ...], Plan] = {}
        self._bound: Plan | None = None
        self._profile = 0
        self._captures = True
        self.stream = cuda.stream()
        with ExitStack() as undo:
            undo.callback(cuda.destroy_stream, self.stream)
            with heard.listening():
                self._context = engine.create_execution_context()
                if self._context is None:
                    size = int(engine.device_memory_size_v2)
                    raise cuda.shortage(size, f"a context of `{where}`", heard.said())
            undo.pop_all()

    @property
    def buffer_bytes(self) -> int:
        """GPU memory that inputs and outputs take."""
        return sum(buffer.size_bytes for buffer in self._buffers.values())

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Copy inputs in, run, and copy outputs out.

        Returns:
            Views of memory that the next run overwrites.

        Raises:
            GantkError: No profile serves the shapes, memory is short, or the library or CUDA fails.
        """
        plan = self._planned({name: array.shape for name, array in arrays.items()})
        for name, array in arrays.items():
            np.copyto(self._view(name, plan, array.dtype), array)
        if plan.graph is None and plan.runs and self._captures:
            plan.graph = self._captured(plan)
        if plan.graph is not None:
            self._cuda.launch(plan.graph, self.stream)
        else:
            self._enqueue(plan)
        self._cuda.synchronize(self.stream)
        plan.runs += 1
        return {spec.name: self._view(spec.name, plan, numpy_dtype(spec)) for spec in self._outputs}

    def enqueue_at(self, addresses: Mapping[str, int], shapes: Mapping[str, Shape], stream: Any) -> None:
        """Enqueue one run on somebody's stream, on memory of theirs.

        Args:
            addresses: Of every input and output, in GPU memory.
            shapes: Of the inputs.
            stream: CUDA's.
        """
        self._bind(self._choose(shapes), shapes, stream)
        self._bound = None  # The addresses are not ours.
        self._give_addresses(addresses)
        self._execute(stream)

    def output_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes of the outputs, given those of the inputs."""
        self._bind(self._choose(shapes), shapes, self.stream)
        self._bound = None
        return {spec.name: self._output_shape(spec) for spec in self._outputs}

    def close(self) -> None:
        """Give everything back, whatever fails on the way."""
        with ExitStack() as stack:
            stack.callback(self._cuda.destroy_stream, self.stream)
            for buffer in self._buffers.values():
                stack.callback(self._cuda.free, buffer.device)
                stack.callback(self._cuda.free_host, buffer.host)
            for plan in self._plans.values():
                if plan.graph is not None:
                    stack.callback(self._cuda.destroy_graph, plan.graph)
            self._buffers, self._plans, self._context = {}, {}, None

    def _planned(self, shapes: dict[str, Shape]) -> Plan:
        """The plan for some input shapes, with memory for them."""
        key = tuple(shapes[spec.name] for spec in self._inputs)
        plan = self._plans.get(key)
        if plan is None:
            profile = self._choose(shapes)
            self._bind(profile, shapes, self.stream)
            outputs = {spec.name: self._output_shape(spec) for spec in self._outputs}
            plan = Plan(profile, {**shapes, **outputs})
            self._reserve(plan)
            if len(self._plans) == PLAN_LIMIT:
                self._drop_graph(self._plans.pop(next(iter(self._plans))))
            self._plans[key] = plan
            self._give_addresses({name: buffer.device for name, buffer in self._buffers.items()})
            self._bound = plan
        return plan

    def _choose(self, shapes: Mapping[str, Shape]) -> int:
        """The first profile that serves the shapes.

        Raises:
            GantkError: None does: the ranges are told.
        """
        for index, profile in enumerate(self._profiles):
            if all(served.holds(shapes[name]) for name, served in profile.items()):
                return index
        asked = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        served = " or ".join(
            ", ".join(f"{name} {_span(shapes.min, shapes.max)}" for name, shapes in profile.items())
            for profile in self._profiles
        )
        raise GantkError(
            f"`{self._where}` serves {served}; asked for is {asked}",
            where=self._where,
            hint="gantk export BUNDLE --to ... --min NAME=... --max NAME=... builds for other shapes",
        )

    def _bind(self, profile: int, shapes: Mapping[str, Shape], stream: Any) -> None:
        """Tell the context which shapes come."""
        with self._heard.listening():
            if profile != self._profile:
                if not self._context.set_optimization_profile_async(profile, int(stream)):
                    raise self._failure("switch to another profile")
                self._cuda.synchronize(stream)
                self._profile = profile
            for name, shape in shapes.items():
                if not self._context.set_input_shape(name, shape):
                    raise self._failure(f"take {name} of shape {'x'.join(map(str, shape))}")

    def _output_shape(self, spec: TensorSpec) -> Shape:
        shape = tuple(int(size) for size in self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise GantkError(
                f"the size of output {spec.name!r} of `{self._where}` depends on the data, which gantk cannot run",
                where=self._where,
                hint="backend='onnxruntime' can",
            )
        return shape

    def _reserve(self, plan: Plan) -> None:
        """Make every buffer large enough; where one moves, graphs that know its old place are void."""
        for spec in (*self._inputs, *self._outputs):
            size = int(np.prod(plan.shapes[spec.name], dtype=np.int64)) * numpy_dtype(spec).itemsize
            old = self._buffers.get(spec.name)
            if old is not None and old.size_bytes >= size:
                continue
            for other in self._plans.values():
                self._drop_graph(other)
            if old is not None:
                del self._buffers[spec.name]
                self._cuda.free(old.device)
                self._cuda.free_host(old.host)
            with ExitStack() as undo:
                device = self._cuda.allocate(size, f"{spec.name!r} of `{self._where}`")
                undo.callback(self._cuda.free, device)
                self._buffers[spec.name] = _Buffer(device, self._cuda.allocate_host(size), size)
                undo.pop_all()

    def _drop_graph(self, plan: Plan) -> None:
        if plan.graph is not None:
            graph, plan.graph = plan.graph, None
            self._cuda.destroy_graph(graph)

    def _give_addresses(self, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._failure(f"take an address for {name}")

    def _enqueue(self, plan: Plan) -> None:
        """Enqueue the copies and the run of a plan, binding it first where another was."""
        if self._bound is not plan:
            self._bind(
                plan.profile, {spec.name: plan.shapes[spec.name] for spec in self._inputs}, self.stream
            )
            self._give_addresses({name: buffer.device for name, buffer in self._buffers.items()})
            self._bound = plan
        self._copy(self._inputs, plan, HOST_TO_DEVICE)
        self._execute(self.stream)
        self._copy(self._outputs, plan, DEVICE_TO_HOST)

    def _execute(self, stream: Any) -> None:
        with self._heard.listening():
            if not self._context.execute_async_v3(int(stream)):
                raise self._failure("run")

    def _copy(self, specs: Sequence[TensorSpec], plan: Plan, kind: str) -> None:
        for spec in specs:
            buffer = self._buffers[spec.name]
            size = int(np.prod(plan.shapes[spec.name], dtype=np.int64)) * numpy_dtype(spec).itemsize
            target, source = (
                (buffer.device, buffer.host) if kind == HOST_TO_DEVICE else (buffer.host, buffer.device)
            )
            self._cuda.copy(target, source, size, kind, self.stream)

    def _captured(self, plan: Plan) -> Any:
        """The work of a plan as a graph; `None`, now and for ever, where the engine cannot be captured."""
        # Binding may synchronise, which a capture forbids.
        if self._bound is not plan:
            self._enqueue(plan)
            self._cuda.synchronize(self.stream)
        return self._attempt(lambda: self._enqueue(plan))

    def _attempt(self, work: Callable[[], None]) -> Any:
        self._cuda.begin_capture(self.stream)
        try:
            work()
        except GantkError:
            self._captures = False
        try:
            graph = self._cuda.end_capture(self.stream)
        except GantkError:
            self._captures = False
            return None
        if not self._captures:
            self._cuda.destroy_graph(graph)
            return None
        return graph

    def _view(self, name: str, plan: Plan, dtype: np.dtype[Any]) -> Array:
        return host_view(self._buffers[name].host, plan.shapes[name], dtype)

    def _failure(self, doing: str) -> GantkError:
        return GantkError(f"`{self._where}` cannot {doing}: {self._heard.said()}", where=self._where)


def _span(low: Shape, high: Shape) -> str:
    """E.g. ``1..4 x 3 x 64..1024``."""
    return " x ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(low, high, strict=True)) or "a number"
