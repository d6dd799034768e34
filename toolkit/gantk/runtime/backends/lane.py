# SPDX-License-Identifier: Apache-2.0
"""One execution context of an engine, with its stream, its memory and a CUDA graph for each shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy as np

from gantk.errors import GantkError, UnbindableError
from gantk.runtime.backends import plans
from gantk.runtime.backends.buffers import Buffers
from gantk.runtime.backends.kernel_cache import KernelCache
from gantk.runtime.backends.open_outputs import OpenOutputs
from gantk.runtime.backends.plans import Plan, Plans, Shape
from gantk.runtime.backends.scratch import Scratch
from gantk.runtime.cuda import Cuda, is_shortage
from gantk.runtime.engines import EngineFile
from gantk.runtime.product_log import log
from gantk.runtime.runner import Array, numpy_dtype
from gantk.tensors import TensorSpec


class Lane:
    """A context and all that it needs; one thread at a time uses it.

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
        self._cuda, self._inputs, self._outputs = cuda, file.inputs, file.outputs
        self._profiles, self._heard, self._where = file.engine.profiles, log(trt), file.where
        self.open = OpenOutputs(trt, cuda, file.where)
        self._buffers = Buffers(cuda, file.where)
        self._plans = Plans[Plan](cuda)
        self._bound: Plan | None = None
        self._profile = 0
        self._context_bytes = int(
            engine.device_memory_size_v2
        )  # What it takes, or wants for its largest shapes.
        # Contexts that a kernel cache makes have no memory of their own.
        self._scratch = None if kernels is None else Scratch(cuda, file.where)
        self._scratch_for: object = None
        self._kernels, self._is_new = kernels, False
        self.stream = cuda.stream()
        with ExitStack() as undo:
            undo.callback(cuda.destroy_stream, self.stream)
            with self._heard.listening():
                self._context = engine.create_execution_context() if kernels is None else kernels.context()
                if self._context is None:
                    what = f"a context of `{self._where}`"
                    raise cuda.shortage(self._context_bytes, what, self._heard.said())
            undo.pop_all()

    @property
    def activation_bytes(self) -> int:
        """GPU memory that the context has for what is between the layers."""
        return self._context_bytes if self._scratch is None else self._scratch.size_bytes

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
        self._give_addresses(addresses)
        self._execute(stream)

    def hold_memory(self) -> None:
        """Leave memory where it is: a graph of the caller's knows it."""
        if self._scratch is not None:
            self._scratch.hold()

    def output_shapes(self, shapes: Mapping[str, Shape], stream: Any) -> dict[str, Shape]:
        """The shapes of the outputs, given those of the inputs; sides that only the run tells are below 0.

        Args:
            shapes: Of the inputs.
            stream: On which the run will be, after those that are under way: for them the profile stays.
        """
        self._bind(plans.choose(self._profiles, shapes, self._where), shapes, stream)
        return {spec.name: self._output_shape(spec) for spec in self._outputs}

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

    def close(self) -> None:
        """Give everything back, whatever fails on the way."""
        with ExitStack() as stack:
            stack.callback(self._cuda.destroy_stream, self.stream)
            stack.callback(self.open.close)
            stack.callback(self._buffers.close)
            if self._scratch is not None:
                stack.callback(self._scratch.close)
            stack.callback(self._plans.clear)
            stack.callback(setattr, self, "_context", None)
            stack.callback(self._cuda.synchronize, self.stream)  # A run that failed may be under way.

    def _planned(self, shapes: dict[str, Shape]) -> Plan:
        """The plan for some input shapes, with memory for them."""
        key = tuple(shapes[spec.name] for spec in self._inputs)
        plan = self._plans.get(key)
        if plan is None:
            profile = plans.choose(self._profiles, shapes, self._where)
            self._bind(profile, shapes, self.stream)
            outputs = {spec.name: self._output_shape(spec) for spec in self._outputs}
            plan = Plan(profile, {**shapes, **outputs}, captures=not self.open)
            self._reserve(plan)
            self._plans.keep(key, plan)
            self._give_addresses(self._buffers.addresses)
            self._bound = plan
        return plan

    def _bind(self, profile: int, shapes: Mapping[str, Shape], stream: Any) -> None:
        """Tell the context which shapes come; addresses follow."""
        self._bound = None  # Where this fails, the context has neither the old shapes nor the new ones.
        self._shapes, self._is_new = (profile, *shapes.values()), True
        with self._heard.listening():
            if profile != self._profile:
                if not self._context.set_optimization_profile_async(profile, int(stream)):
                    raise self._failure("switch to another profile")
                self._cuda.synchronize(stream)
                self._profile = profile
            for name, shape in shapes.items():
                if not self._context.set_input_shape(name, shape):
                    raise self._failure(f"take {name} of shape {'x'.join(map(str, shape))}")
        if self._scratch is not None:
            self._give_scratch(self._scratch, self._shapes, stream)

    def _give_scratch(self, scratch: Scratch, wanted_for: object, stream: Any) -> None:
        """Give the context its memory, once for shapes that come again and again."""

        def moving() -> None:
            self._cuda.synchronize(stream)
            self._plans.drop_graphs()

        if self._scratch_for != wanted_for:
            self._scratch_for = None
            scratch.give(self._context, moving)
            self._scratch_for = wanted_for

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
        """Make every buffer large enough; where one moves, plans that know its old place are void.

        Also where memory is short: then a buffer is missing, and the next run makes its plan anew.
        """
        for spec in self._sized:
            if not self._buffers.fits(spec.name, plan.size_bytes(spec)):
                self._plans.clear()
                self._buffers.reserve(spec.name, plan.size_bytes(spec))

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
            self._give_addresses(self._buffers.addresses)
            self._bound = plan
        for spec in self._inputs:
            self._buffers.copy_in(spec.name, plan.size_bytes(spec), self.stream)
        self._execute(self.stream)
        for spec in self._outputs:
            if spec.name not in self.open:
                self._buffers.copy_out(spec.name, plan.size_bytes(spec), self.stream)

    def _execute(self, stream: Any) -> None:
        with self._heard.listening():
            if not self._context.execute_async_v3(int(stream)):
                raise self.open.failure() or self._failure("run")
        if self._is_new and self._kernels is not None:
            self._kernels.ran(self._shapes)
        self._is_new = False

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """What is enqueued on the stream as a graph; `None` where the engine cannot be captured."""
        # TensorRT for RTX can say beforehand; with TensorRT, a capture has to fail.
        if hasattr(self._context, "is_stream_capturable") and not self._context.is_stream_capturable(
            int(self.stream)
        ):
            return None
        return self._cuda.captured(self.stream, enqueue)

    def _captured(self, plan: Plan) -> Any:
        """The work of a plan as a graph; `None` where the engine cannot be captured."""
        # Binding may synchronise, which a capture forbids.
        if self._bound is not plan:
            self._enqueue(plan)
            self._cuda.synchronize(self.stream)
        return self.capture(lambda: self._enqueue(plan))

    def _failure(self, doing: str) -> GantkError:
        said, hint = self._heard.said(), None
        if is_shortage(said):
            said = f"{said}; of the GPU's memory {self._cuda.memory()}"
            hint = "end what else uses the GPU, or give smaller pictures"
        return GantkError(f"`{self._where}` cannot {doing}: {said}", where=self._where, hint=hint)
