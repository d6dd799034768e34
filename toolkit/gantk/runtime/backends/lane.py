# SPDX-License-Identifier: Apache-2.0
"""One execution context of an engine, with its stream, its memory and a CUDA graph for each shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gantk.errors import GantkError
from gantk.runtime.backends import plans
from gantk.runtime.backends.open_outputs import OpenOutputs
from gantk.runtime.backends.plans import Plan, Shape
from gantk.runtime.cuda import DEVICE_TO_HOST, HOST_TO_DEVICE, Cuda, host_view, is_shortage
from gantk.runtime.engines import EngineFile
from gantk.runtime.products import log
from gantk.runtime.runner import Array, numpy_dtype
from gantk.tensors import TensorSpec


@dataclass
class _Buffer:
    """A tensor's place in GPU memory and its twin in pinned host memory."""

    device: int
    host: int
    size_bytes: int


class Lane:
    """A context and all that it needs; one thread at a time uses it.

    Args:
        trt: The product's module.
        file: The engine's file.
        cuda: Calls CUDA.
        make_context: Makes the product's context; `None` where it cannot.
        context_bytes: What that takes.
    """

    def __init__(
        self,
        trt: ModuleType,
        file: EngineFile,
        cuda: Cuda,
        make_context: Callable[[], Any],
        context_bytes: int,
    ) -> None:
        self._cuda, self._inputs, self._outputs = cuda, file.inputs, file.outputs
        self._profiles, self._heard, self._where = file.engine.profiles, log(trt), file.where
        self.open = OpenOutputs(trt, cuda, file.where)
        self._buffers: dict[str, _Buffer] = {}
        self._plans: dict[tuple[Shape, ...], Plan] = {}
        self._bound: Plan | None = None
        self._profile = 0
        self._captures = True
        self.stream = cuda.stream()
        with ExitStack() as undo:
            undo.callback(cuda.destroy_stream, self.stream)
            with self._heard.listening():
                self._context = make_context()
                if self._context is None:
                    what = f"a context of `{self._where}`"
                    raise cuda.shortage(context_bytes, what, self._heard.said())
            undo.pop_all()

    @property
    def buffer_bytes(self) -> int:
        """GPU memory that inputs and outputs take."""
        return sum(buffer.size_bytes for buffer in self._buffers.values()) + self.open.size_bytes

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
        if plan.graph is None and plan.runs and self._captures and not self.open:
            plan.graph = self._captured(plan)
        if plan.graph is not None:
            self._cuda.launch(plan.graph, self.stream)
        else:
            self._enqueue(plan)
        fetched = {s.name: self.open.fetch(s, self.stream) for s in self._outputs if s.name in self.open}
        self._cuda.synchronize(self.stream)
        plan.runs += 1
        return {
            spec.name: fetched[spec.name]
            if spec.name in fetched
            else self._view(spec.name, plan, numpy_dtype(spec))
            for spec in self._outputs
        }

    def enqueue_at(self, addresses: Mapping[str, int], shapes: Mapping[str, Shape], stream: Any) -> None:
        """Enqueue one run on somebody's stream, on memory of theirs.

        Args:
            addresses: Of every input, and of every output whose size is known, in GPU memory.
            shapes: Of the inputs.
            stream: CUDA's.
        """
        self._bind(plans.choose(self._profiles, shapes, self._where), shapes, stream)
        self._bound = None  # The addresses are not ours.
        self._give_addresses(addresses)
        self._execute(stream)

    def output_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes of the outputs, given those of the inputs; sides that only the run tells are below 0."""
        self._bind(plans.choose(self._profiles, shapes, self._where), shapes, self.stream)
        self._bound = None
        return {spec.name: self._output_shape(spec) for spec in self._outputs}

    def close(self) -> None:
        """Give everything back, whatever fails on the way."""
        with ExitStack() as stack:
            stack.callback(self._cuda.destroy_stream, self.stream)
            stack.callback(self.open.close)
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
            profile = plans.choose(self._profiles, shapes, self._where)
            self._bind(profile, shapes, self.stream)
            outputs = {spec.name: self._output_shape(spec) for spec in self._outputs}
            plan = Plan(profile, {**shapes, **outputs})
            self._reserve(plan)
            if len(self._plans) == plans.LIMIT:
                self._drop_graph(self._plans.pop(next(iter(self._plans))))
            self._plans[key] = plan
            self._give_addresses({name: buffer.device for name, buffer in self._buffers.items()})
            self._bound = plan
        return plan

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
        if any(size < 0 for size in shape) and not self.open.attach(self._context, spec.name):
            raise self._failure(f"take an allocator for {spec.name}")
        return shape

    @property
    def _sized(self) -> list[TensorSpec]:
        """The inputs, and those outputs whose size is known before a run."""
        return [spec for spec in (*self._inputs, *self._outputs) if spec.name not in self.open]

    def _reserve(self, plan: Plan) -> None:
        """Make every buffer large enough; where one moves, graphs that know its old place are void."""
        for spec in self._sized:
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
                what = f"{spec.name!r} of `{self._where}`"
                device = self._cuda.allocate(size, what)
                undo.callback(self._cuda.free, device)
                self._buffers[spec.name] = _Buffer(device, self._cuda.allocate_host(size, what), size)
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
        self._copy([spec for spec in self._outputs if spec.name not in self.open], plan, DEVICE_TO_HOST)

    def _execute(self, stream: Any) -> None:
        with self._heard.listening():
            if not self._context.execute_async_v3(int(stream)):
                raise self.open.failure() or self._failure("run")

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
        said, hint = self._heard.said(), None
        if is_shortage(said):
            said = f"{said}; of the GPU's memory {self._cuda.memory()}"
            hint = "end what else uses the GPU, or give smaller pictures"
        return GantkError(f"`{self._where}` cannot {doing}: {said}", where=self._where, hint=hint)
