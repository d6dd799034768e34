# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on NVIDIA GPUs: tensors bound to memory that stays, and a CUDA graph for what comes again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk.errors import GantkError, UnbindableError
from gantk.runtime import cuda
from gantk.runtime.backends.buffers import Buffers
from gantk.runtime.backends.device import place_outputs
from gantk.runtime.backends.gpu import Context, GpuRunner
from gantk.runtime.backends.onnxruntime_session import (
    PROVIDERS,
    facts,
    make_session,
    obstacle_to_binding,
    session_options,
)
from gantk.runtime.backends.onnxruntime_settings import operators_of, repeats_itself, settings
from gantk.runtime.backends.plans import Plan, Plans, Shape
from gantk.runtime.backends.vendor import shortened
from gantk.runtime.cuda import Cuda
from gantk.runtime.model import Model
from gantk.runtime.operators import native_operators
from gantk.runtime.runner import Array, numpy_dtype
from gantk.runtime.streams import Stream

if TYPE_CHECKING:
    import onnxruntime

MEMORY = "cuda"
"""What ONNX Runtime calls GPU memory."""

ALIGNMENT = 16
"""What addresses of inputs and outputs must be a multiple of, in bytes: kernels read so much at once, and do not look
(onnxruntime#15054); on another address that ends all work of the process on the GPU."""


@dataclass
class _Work(Plan):
    """A plan with what ONNX Runtime is told of it: where inputs and outputs lie."""

    binding: Any = None


class CudaRunner(GpuRunner):
    """An inference session with a stream of its own, on which runs follow each other; threads take turns.

    A shape that comes a second time is captured into a CUDA graph: of `run` with its copies, of `launch` where the
    arrays are the same too.

    Args:
        model: The file.
        threads: For what stays on the CPU.
    """

    def __init__(self, model: Model, threads: int) -> None:
        import onnxruntime

        self.operators = native_operators("cuda")
        calls = Cuda(cuda.bindings())
        ordinal = calls.home.ordinal  # That of the thread that opens the runner; all calls go there.
        super().__init__(calls, model.inputs, model.outputs, alignment=ALIGNMENT, **facts(model, "cuda"))
        self._where, self._lock = model.where, RLock()
        self._names = [spec.name for spec in self.outputs]
        self._runs, self._launches = Plans[_Work](calls), Plans[_Work](calls)
        kinds = operators_of(model)
        self._captures = repeats_itself(kinds)
        self._buffers = Buffers(calls, model.where)
        self._ran: Mapping[str, Shape] = {}
        """The shapes of the last run, for which convolutions are planned."""
        # The session is not to wait for the GPU after a run: events and copies see to the order.
        self._quiet = onnxruntime.RunOptions()
        self._quiet.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._stream = calls.stream()
        chosen = {
            **settings(model.precision, kinds, channels_last=model.channels_last),
            **_device(ordinal),
            "user_compute_stream": str(int(self._stream)),
        }
        with ExitStack() as undo:
            undo.callback(calls.destroy_stream, self._stream)
            session = _session(model, threads, self.operators, chosen)
            self._obstacle = obstacle_to_binding(session, self.inputs, self.outputs)
            undo.pop_all()
        self._session: onnxruntime.InferenceSession | None = session

    def launch(
        self, feeds: Mapping[str, Any], stream: Any, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run on GPU memory, without a copy and without waiting.

        Args:
            feeds: For each input something with ``__dlpack__`` or ``__cuda_array_interface__``, contiguous and at a
                multiple of 16 bytes. It must live until the run is done.
            stream: The caller's CUDA stream, as `EngineRunner.launch` takes it: the run waits for what it has got so
                far, and what it gets next waits for the run.
            out: The same for outputs, in other memory; those that it does not name are made, in the order of the
                stream. With the same arrays as before, a run costs the launch of a graph.

        Returns:
            For each output what `out` has, or a `gantk.runtime.backends.device.DeviceArray`.

        Raises:
            GantkError: An array is missing, not on the GPU, of the wrong dtype or shape, not contiguous or not
                aligned; an array of `out` shares memory with another; the stream is being captured into a graph; or
                the run fails.
            UnbindableError: The network cannot be bound to memory.
        """
        caller, out = Stream.of(stream), out or {}
        with self._cuda.current():
            if self._session is None:
                raise self._closed()
            if self._cuda.is_captured(caller.handle):
                # What a run holds between its layers is the next run's too, and the caller's graph waits for none.
                raise GantkError(
                    "the stream is being captured into a graph, of which a run of ONNX Runtime cannot be a part",
                    where=self._where,
                    hint="bind(...) makes a graph of a run",
                )
            seen, given = self._seen(feeds, caller.handle)
            shapes = {name: array.shape for name, array in given.items()}
            sizes = self._output_shapes(shapes)
            placed = place_outputs(self.outputs, sizes, out, given, seen, self._cuda, caller)
            addresses = {name: array.address for name, array in given.items()}
            addresses |= {name: array.address for name, array in placed.items()}
            outputs = {name: each.array for name, each in placed.items()}
            with self._lock:
                work = self._placed(addresses, shapes)
                self._cuda.wait(self._stream, caller.handle)
                try:
                    self._go(work, lambda: self._execute(work))
                finally:  # A run that failed may still be under way: its memory is freed in the caller's order too.
                    self._note_launch(int(self._stream), outputs, out).hold(caller.handle)
            return outputs

    def close(self) -> None:
        with self._cuda.current(), self._lock, ExitStack() as stack:
            stream, self._stream = self._stream, None
            if stream is not None:
                stack.callback(self._cuda.destroy_stream, stream)
            stack.callback(self._buffers.close)
            stack.callback(setattr, self, "_session", None)
            stack.callback(self._runs.clear)
            stack.callback(self._launches.clear)
            stack.callback(self._close_runs)
            if stream is not None:
                stack.callback(self._cuda.synchronize, stream)

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        with self._cuda.current(), self._lock:
            if self._session is None:
                raise self._closed()
            if self._obstacle is not None:
                return self._delivered(self._run_unbound(arrays), out)
            shapes = {name: array.shape for name, array in arrays.items()}
            work = self._prepared(shapes)
            for name, array in arrays.items():
                np.copyto(self._buffers.view(name, array.shape, array.dtype), array)
            self._go(work, lambda: self._run_between_copies(work))
            self._cuda.synchronize(self._stream)
            found = {
                spec.name: self._buffers.view(spec.name, work.shapes[spec.name], numpy_dtype(spec))
                for spec in self.outputs
            }
            return self._delivered(found, out, copy=True)

    def _context(self) -> Context:
        if self._session is None:
            raise self._closed()
        return Context(
            self._stream,
            self._output_shapes,
            self._enqueue_at,
            self._where,
            capture=self._captured,
            turn=self._lock,
        )

    def _enqueue_at(self, addresses: Mapping[str, int], shapes: Mapping[str, Shape], stream: Any) -> None:
        with self._lock:
            self._execute(self._placed(addresses, shapes))

    def _output_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        if self._obstacle is not None:
            raise UnbindableError(
                self._obstacle,
                where=self._where,
                hint="run(...) takes and gives arrays in host memory",
            )
        sizes = {
            side: size
            for spec in self.inputs
            for side, size in zip(spec.shape, shapes[spec.name], strict=True)
            if isinstance(side, str)
        }
        return {
            spec.name: tuple(side if isinstance(side, int) else sizes[side] for side in spec.shape)
            for spec in self.outputs
        }

    def _prepared(self, shapes: dict[str, Shape]) -> _Work:
        """What is kept for input shapes of `run`, with memory for them."""
        key = tuple(shapes.values())
        work = self._runs.get(key)
        if work is None:
            work = _Work(0, {**shapes, **self._output_shapes(shapes)})
            for spec in (*self.inputs, *self.outputs):
                if not self._buffers.fits(spec.name, work.size_bytes(spec)):
                    self._runs.clear()  # Their graphs know the old address.
                    self._buffers.reserve(spec.name, work.size_bytes(spec))
            work.binding = self._bound_to(work.shapes, self._buffers.addresses)
            self._runs.keep(key, work)
        return work

    def _placed(self, addresses: Mapping[str, int], shapes: Mapping[str, Shape]) -> _Work:
        """What is kept for a run on arrays at these addresses, of input shapes."""
        key = (tuple(addresses.values()), tuple(shapes.values()))
        work = self._launches.get(key)
        if work is None:
            sizes = {**shapes, **self._output_shapes(shapes)}
            work = _Work(0, sizes, binding=self._bound_to(sizes, addresses))
            self._launches.keep(key, work)
        return work

    def _bound_to(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> Any:
        assert self._session is not None
        binding = self._session.io_binding()
        ordinal = self._cuda.home.ordinal
        for bind, specs in ((binding.bind_input, self.inputs), (binding.bind_output, self.outputs)):
            for spec in specs:
                name = spec.name
                bind(name, MEMORY, ordinal, numpy_dtype(spec).type, list(shapes[name]), addresses[name])
        return binding

    def _go(self, work: _Work, enqueue: Callable[[], None]) -> None:
        def capture() -> Any:
            if self._ran != work.shapes:
                enqueue()  # Convolutions are planned anew, which a capture may forbid.
            return self._captured(enqueue)

        work.run(self._cuda, self._stream, enqueue, capture)

    def _captured(self, enqueue: Callable[[], None]) -> Any:
        """What is enqueued as a graph, of shapes that were run last; `None` where it cannot be one."""
        if not self._captures:
            return None
        graph = self._cuda.captured(self._stream, enqueue, self._buffers.host_addresses)
        if graph is None:
            with suppress(GantkError):  # The library reports the failed capture once more.
                enqueue()
        return graph

    def _run_between_copies(self, work: _Work) -> None:
        for spec in self.inputs:
            self._buffers.copy_in(spec.name, work.size_bytes(spec), self._stream)
        self._execute(work)
        for spec in self.outputs:
            self._buffers.copy_out(spec.name, work.size_bytes(spec), self._stream)

    def _execute(self, work: _Work) -> None:
        assert self._session is not None
        self._ran = work.shapes
        try:
            self._session.run_with_iobinding(work.binding, self._quiet)
        except Exception as error:
            raise self._failed(shortened(error)) from error

    def _run_unbound(self, arrays: dict[str, Array]) -> dict[str, Array]:
        assert self._session is not None
        try:
            return dict(zip(self._names, self._session.run(self._names, arrays), strict=True))
        except Exception as error:
            raise self._failed(shortened(error)) from error


def _device(ordinal: int) -> dict[str, str]:
    """The provider's setting for a GPU; for the first none, which is what it takes by itself.

    From 1.26 on ONNX Runtime warns on stderr at every session that is told a number: it looks for a plugin of that
    number first, and the package has none. It would be silent if its default logger were, of which the level is the
    whole process's, cannot be asked for, and holds for the errors that say why a provider does not start.
    """
    return {"device_id": str(ordinal)} if ordinal else {}


def _session(
    model: Model, threads: int, operators: Path | None, chosen: dict[str, str]
) -> onnxruntime.InferenceSession:
    import onnxruntime

    onnxruntime.preload_dlls()
    options = session_options(model, "cuda", threads, operators)
    return make_session(model, options, PROVIDERS["cuda"], chosen)
