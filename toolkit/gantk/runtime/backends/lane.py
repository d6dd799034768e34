# SPDX-License-Identifier: Apache-2.0
"""A stream on which an engine's runs follow each other, with their memory and a CUDA graph for each shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from types import ModuleType
from typing import Any

import numpy as np

from gantk.errors import GantkError, UnbindableError
from gantk.runtime.backends import plans
from gantk.runtime.backends.buffers import Buffers
from gantk.runtime.backends.execution import Execution
from gantk.runtime.backends.kernel_cache import KernelCache
from gantk.runtime.backends.open_outputs import OpenOutputs
from gantk.runtime.backends.plans import Plan, Plans, Shape
from gantk.runtime.backends.scratch import Scratch
from gantk.runtime.cuda import Cuda
from gantk.runtime.engines import EngineFile
from gantk.runtime.product_log import log
from gantk.runtime.runner import Array, numpy_dtype
from gantk.tensors import TensorSpec


class Lane:
    """A context and all that it needs, and one more for each graph; one thread at a time uses it.

    Args:
        trt: The product's module.
        file: The engine's file.
        cuda: Calls CUDA.
        engine: The product's engine.
        kernels: What the product compiles when it runs, where it does so.
    """

    def __init__(
        self,
        trt: ModuleType,
        file: EngineFile,
        cuda: Cuda,
        engine: Any,
        kernels: KernelCache | None,
    ) -> None:
        self._trt, self._cuda, self._engine, self._kernels = trt, cuda, engine, kernels
        self._inputs, self._outputs = file.inputs, file.outputs
        self._profiles, self._heard, self._where = file.engine.profiles, log(trt), file.where
        self.open = OpenOutputs(trt, cuda, file.where)
        self._buffers = Buffers(cuda, file.where)
        self._plans = Plans[Plan](cuda)
        self._bound: Plan | None = None
        self._most_bytes = int(engine.device_memory_size_v2)
        # Its own would wait for whatever another thread puts on the default stream, which no capture survives.
        self._beside: list[Any] = []
        self._scratch = Scratch(cuda, self._most_bytes, file.where, self._plans.drop_graphs)
        with ExitStack() as undo:
            self.stream = cuda.stream()
            undo.callback(cuda.destroy_stream, self.stream)
            for _ in range(engine.num_aux_streams):
                self._beside.append(cuda.stream())
                undo.callback(cuda.destroy_stream, self._beside[-1])
            self._own = self._new_execution()
            undo.pop_all()

    @property
    def activation_bytes(self) -> int:
        """GPU memory for what is between the layers."""
        return self._scratch.size_bytes

    @property
    def buffer_bytes(self) -> int:
        """GPU memory that inputs and outputs take."""
        return self._buffers.size_bytes + self.open.size_bytes

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Copy inputs in, run, and copy outputs out.

        Returns:
            Views of memory that the next run overwrites.

        Raises:
            GantkError: No profile serves the shapes, memory is short, or the library or CUDA fails.
        """
        plan = self._planned({name: array.shape for name, array in arrays.items()})
        for name, array in arrays.items():
            np.copyto(self._buffers.view(name, array.shape, array.dtype), array)
        plan.run(self._cuda, self.stream, lambda: self._enqueue(plan), lambda: self._captured(plan))
        fetched = {s.name: self.open.fetch(s, self.stream) for s in self._outputs if s.name in self.open}
        self._cuda.synchronize(self.stream)
        return {
            spec.name: fetched[spec.name]
            if spec.name in fetched
            else self._buffers.view(spec.name, plan.shapes[spec.name], numpy_dtype(spec))
            for spec in self._outputs
        }

    def enqueue_at(self, addresses: Mapping[str, int], stream: Any) -> None:
        """Enqueue one run, of the shapes that `output_shapes` was given last, on memory and a stream of somebody's.

        Args:
            addresses: Of every input, and of every output whose size is known, in GPU memory.
            stream: CUDA's.
        """
        self._own.give_addresses(addresses)
        self._execute(self._own, stream)

    def is_told(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether `output_shapes` was given these shapes last: with others its context is told something new."""
        return self._own.is_told(shapes)

    def output_shapes(self, shapes: Mapping[str, Shape], stream: Any) -> dict[str, Shape]:
        """The shapes of the outputs, given those of the inputs; sides that only the run tells are below 0.

        Args:
            shapes: Of the inputs; where they are new, no run may be under way.
            stream: On which the run will be.
        """
        self._bound = None
        self._own.bind(plans.choose(self._profiles, shapes, self._where), shapes, stream)
        return {spec.name: self._own.shape_of(spec.name, self.open) for spec in self._outputs}

    def known_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """As `output_shapes`, for a run on the stream of the lane.

        Raises:
            UnbindableError: The size of an output is told by the run alone.
        """
        found = self.output_shapes(shapes, self.stream)
        for name in found:
            if name in self.open:
                raise UnbindableError(
                    f"a run cannot be bound: the size of {name!r} depends on the data",
                    where=self._where,
                    hint="run(...) and launch(...) take it",
                )
        return found

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """What is enqueued on the stream as a graph, which holds while the lane is given nothing else to do; `None`
        where the engine cannot be captured."""
        if not self._own.is_capturable(self.stream):
            return None
        return self._cuda.captured(self.stream, enqueue)

    def close(self) -> None:
        """Give everything back, whatever fails on the way."""
        with ExitStack() as stack:
            for stream in (self.stream, *self._beside):
                stack.callback(self._cuda.destroy_stream, stream)
            stack.callback(self.open.close)
            stack.callback(self._buffers.close)
            stack.callback(self._scratch.close)
            stack.callback(self._plans.clear)
            stack.callback(delattr, self, "_own")
            stack.callback(self._cuda.synchronize, self.stream)  # A run that failed may be under way.

    def _new_execution(self) -> Execution:
        """A context for runs on the stream of the lane.

        Raises:
            GantkError: The library makes none.
        """
        with self._heard.listening():
            given = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            kernels = self._kernels
            context = kernels.context() if kernels else self._engine.create_execution_context(given)
            if context is None:
                what = f"a context of `{self._where}`"
                raise self._cuda.shortage(self._most_bytes, what, self._heard.said())
        if self._beside:
            context.set_aux_streams([int(stream) for stream in self._beside])
        return Execution(context, self._scratch, self._kernels, self._cuda, self._heard, self._where)

    def _planned(self, shapes: dict[str, Shape]) -> Plan:
        """The plan for some input shapes, with memory for them."""
        key = tuple(shapes[spec.name] for spec in self._inputs)
        plan = self._plans.get(key)
        if plan is None:
            profile = plans.choose(self._profiles, shapes, self._where)
            self._bound = None
            self._own.bind(profile, shapes, self.stream)
            outputs = {spec.name: self._own.shape_of(spec.name, self.open) for spec in self._outputs}
            plan = Plan(profile, {**shapes, **outputs}, captures=not self.open)
            self._reserve(plan)
            self._plans.keep(key, plan)
        return plan

    @property
    def _sized(self) -> list[TensorSpec]:
        """The inputs, and those outputs whose size is known before a run."""
        return [spec for spec in (*self._inputs, *self._outputs) if spec.name not in self.open]

    def _reserve(self, plan: Plan) -> None:
        """Make every buffer large enough; where one moves, plans that know its old place are void.

        Also where memory is short: then a buffer is missing, and the next run makes its plan anew.
        """
        for spec in self._sized:
            if not self._buffers.fits(spec.name, plan.size_bytes(spec)):
                self._plans.clear()
                self._buffers.reserve(spec.name, plan.size_bytes(spec))

    def _enqueue(self, plan: Plan) -> None:
        """Enqueue the copies and the run of a plan, binding it first where another was."""
        if self._bound is not plan:
            self._bound = None
            self._bind(self._own, plan)
            self._bound = plan
        self._run_between_copies(self._own, plan)

    def _bind(self, execution: Execution, plan: Plan) -> None:
        execution.bind(
            plan.profile, {spec.name: plan.shapes[spec.name] for spec in self._inputs}, self.stream
        )
        execution.give_addresses(self._buffers.addresses)

    def _run_between_copies(self, execution: Execution, plan: Plan) -> None:
        for spec in self._inputs:
            self._buffers.copy_in(spec.name, plan.size_bytes(spec), self.stream)
        self._execute(execution, self.stream)
        for spec in self._outputs:
            if spec.name not in self.open:
                self._buffers.copy_out(spec.name, plan.size_bytes(spec), self.stream)

    def _execute(self, execution: Execution, stream: Any) -> None:
        if not execution.run(stream):
            raise self.open.failure() or execution.failure("run")

    def _captured(self, plan: Plan) -> Any:
        """The work of a plan as a graph, with a context of its own; `None` where there cannot be one."""
        with suppress(GantkError):  # Without a graph the plan still runs, or says why not.
            execution = self._new_execution()
            self._bind(execution, plan)
            if not execution.is_capturable(self.stream):
                return None
            # What a context was told takes effect in its next run, which may do what a capture forbids.
            self._run_between_copies(execution, plan)
            self._cuda.synchronize(self.stream)
            graph = self._cuda.captured(self.stream, lambda: self._run_between_copies(execution, plan))
            plan.keeps = None if graph is None else execution
            return graph
        return None
