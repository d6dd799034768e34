# SPDX-License-Identifier: Apache-2.0
"""Both TensorRT products: a runner of the engines that a bundle holds."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from contextlib import ExitStack
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from gantk.bundle import Bundle
from gantk.errors import GantkError
from gantk.runtime import cuda, driver
from gantk.runtime.backends.device import DeviceArray, place_outputs
from gantk.runtime.backends.gpu import Context, GpuRunner
from gantk.runtime.backends.kernel_cache import open_cache
from gantk.runtime.backends.lane import Lane
from gantk.runtime.backends.loading import check_tensors, deserialize
from gantk.runtime.cuda import Cuda
from gantk.runtime.engines import EngineFile, read_engine
from gantk.runtime.product_log import log
from gantk.runtime.products import PRODUCTS, Product, driver_trouble, gpu_trouble, load, need_gpu, overwritten
from gantk.runtime.registry import BackendStatus
from gantk.runtime.runner import Array, Runner, numpy_dtype
from gantk.runtime.streams import Stream
from gantk.runtime.verdicts import check_once
from gantk.runtime.views import Reader, View
from gantk.tensors import TensorSpec

ALIGNMENT = 256
"""What addresses of inputs and outputs must be a multiple of, in bytes (TensorRT's `setTensorAddress`)."""


def probe(name: str) -> BackendStatus:
    """Whether a product is installed, and has a GPU to run on."""
    product = PRODUCTS[name]
    unfit = gpu_trouble(product)  # First: on an unfit GPU, installing the product would not help.
    if unfit is not None:
        builds = "; it builds engines for other GPUs" if product.ahead_of_time else ""
        return BackendStatus(name, product.version, (), f"{unfit.reason}{builds}", unfit.hint)
    if product.version is None:
        return BackendStatus(name, None, (), "it is not installed", product.install)
    twice = overwritten(product)
    if twice is not None:
        return BackendStatus(name, product.version, (), twice.reason, twice.hint)
    trouble = driver_trouble(product)
    if trouble is not None:
        builds = "; it builds engines without one" if product.ahead_of_time else ""
        return BackendStatus(name, product.version, (), f"{trouble.reason}{builds}", trouble.hint)
    return BackendStatus(name, product.version, ("cuda",))


def open_engine(bundle: Bundle, name: str, precision: str | None, form: str | None) -> Runner:
    """Choose, check and load an engine of a bundle; an unverified one is compared with the probe first.

    Args:
        bundle: That holds it.
        name: Of the product.
        precision: See `gantk.runtime.engines.read_engine`.
        form: See there.

    Raises:
        BackendMissingError: The product is not installed, or there is no GPU on which it runs engines.
        GantkError: There is no engine for this GPU and this version, it is damaged, does not load, or computes
            wrong.
    """
    product = PRODUCTS[name]
    trt = load(product)
    need_gpu(product, "run engines")  # Without a driver, the library makes objects that crash.
    target = driver.targets_here()[0]
    assert product.version is not None
    file = read_engine(bundle, name, product.version, target, precision, form)
    runner = EngineRunner(trt, product, file, Cuda(cuda.bindings()))
    with ExitStack() as undo:
        undo.callback(runner.close)
        runner.verified = check_once(runner, file, bundle, target)
        undo.pop_all()
    return runner


class EngineRunner(GpuRunner):
    """An engine with as many contexts as threads have wanted at once.

    Args:
        trt: The product's module.
        product: Which it is.
        file: The checked engine.
        calls: Calls CUDA.
    """

    def __init__(self, trt: ModuleType, product: Product, file: EngineFile, calls: Cuda) -> None:
        self._trt, self._file = trt, file
        calls.home  # noqa: B018  # The GPU of the thread that opens is that of all calls.
        self._runtime, self._engine = deserialize(trt, file, calls)
        check_tensors(trt, self._engine, file)
        with log(
            trt
        ).listening():  # It complains of kept kernels that it cannot use, which are compiled anew.
            self._kernels = open_cache(trt, self._engine, file, product.version or "unknown")
        precision = file.engine.precision
        super().__init__(
            calls,
            file.interface.inputs,
            file.interface.outputs,
            alignment=ALIGNMENT,
            backend=product.name,
            version=product.version or "unknown",
            device="cuda",
            precision=file.engine.executed,
            file_precision=precision,
            layers=Counter(heavy.precision for heavy in file.engine.heavy_layers),
        )
        self.verified = file.engine.verified
        self._launches = Lock()
        self._lanes: list[Lane] = []
        self._idle: deque[Lane] = deque()
        self._launching: Lane | None = None
        self._idle.append(self._new_lane())

    @property
    def memory_bytes(self) -> dict[str, int]:
        """GPU memory: of the engine's weights, its contexts' activations, and the inputs and outputs."""
        return {
            "engine": len(self._file.data),
            "activations": sum(lane.activation_bytes for lane in self._lanes),
            "buffers": sum(lane.buffer_bytes for lane in self._lanes),
        }

    def launch(
        self, feeds: Mapping[str, Any], stream: Any, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Enqueue one run on GPU memory, without a copy, and without waiting but where shapes are others than before.

        Args:
            feeds: For each input something with ``__dlpack__`` or ``__cuda_array_interface__``, contiguous and at a
                multiple of 256 bytes, as new arrays are: a tensor of PyTorch, an array of CuPy or pycuda. It must
                live until the run is done. The run waits for the work on it that its library tells of.
            stream: The caller's CUDA stream: one of torch, CuPy or pycuda, anything with ``__cuda_stream__``, or a
                handle. Runs of one runner follow each other, also on different streams; `run` may go on beside them.
                For the default stream the run is on one of the runner's, which waits for it and which it waits for.
                Before one that is captured into a graph, launch the same shapes once: the library may do then what a
                capture forbids. Each such graph has a context, and its memory, until the runner is closed.
            out: The same for outputs, in other memory; those that it does not name are made. Their memory is taken
                and given back in the order of the stream, which waits for nothing; with a bare handle, of a stream
                that may be gone by then, that waits for the GPU.

        Returns:
            For each output what `out` has, or a `DeviceArray`.

        Raises:
            GantkError: An array is missing, not on the GPU, of the wrong dtype or shape, not contiguous or not
                aligned; an array of `out` shares memory with another; or the run cannot be enqueued.
        """
        if self._engine is None:
            raise self._closed()
        caller = Stream.of(stream)
        with self._cuda.current():
            seen, given = self._seen(feeds, caller.handle)
            with self._launches:
                return self._launch(given, seen, caller, out or {})

    def _launch(
        self, given: Mapping[str, View], seen: Reader, caller: Stream, out: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Enqueue one run on checked arrays."""
        lane = self._launching = self._launching or self._new_lane()
        # Into a graph of the caller's, who orders his runs himself.
        captured = self._cuda.is_captured(caller.handle)
        shapes = {name: array.shape for name, array in given.items()}
        if not captured and self._launched is not None:
            if not lane.is_told(shapes):
                self._launched.synchronize()  # A context is told nothing while it runs.
            elif self._launched_on != caller.handle:
                self._launched.hold(caller.handle)  # And has one run at a time.
        # At each run on a default stream TensorRT waits for the whole GPU.
        stream = int(lane.stream) if caller.is_default and not captured else caller.handle
        sizes = lane.output_shapes(shapes, stream)
        for spec in self.outputs:
            if spec.name in lane.open and spec.name in out:
                raise GantkError(
                    f"`out` names {spec.name!r}, whose size depends on the data and is told by the run",
                    where=str(spec),
                )
        sized = [spec for spec in self.outputs if spec.name not in lane.open]
        placed = place_outputs(sized, sizes, out, given, seen, self._cuda, caller)
        addresses = {name: array.address for name, array in given.items()}
        addresses |= {name: array.address for name, array in placed.items()}
        self._cuda.wait(stream, caller.handle)
        try:
            lane.enqueue_at(addresses, stream)
        finally:  # Also one that fails may have begun, and the memory of what it makes goes in the caller's order.
            self._cuda.wait(caller.handle, stream)
        outputs = {
            spec.name: placed[spec.name].array if spec.name in placed else self._handed_over(lane, spec)
            for spec in self.outputs
        }
        if captured:  # The graph works with what this lane has by now, which is therefore left as it is.
            self._launching = None
        else:
            self._note_launch(caller.handle, outputs, out)
        return outputs

    def _handed_over(self, lane: Lane, spec: TensorSpec) -> DeviceArray:
        """An output of a size that the run told, in memory that it asked for."""
        address, shape = lane.open.hand_over(spec.name)
        return DeviceArray(self._cuda, shape, numpy_dtype(spec), spec.name, address=address)

    def _context(self) -> Context:
        if self._engine is None:
            raise self._closed()
        lane = self._idle_lane()
        return Context(
            lane.stream,
            lane.known_shapes,
            lambda addresses, shapes, stream: lane.enqueue_at(addresses, stream),
            self._file.where,
            capture=lane.capture,
            release=lambda: self._idle.append(lane),
        )

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        if self._engine is None:
            raise self._closed()
        with self._cuda.current():
            lane = self._idle_lane()
            try:
                results = lane.run({name: np.asarray(array) for name, array in arrays.items()})
                return self._delivered(results, out, copy=True)
            finally:
                self._idle.append(lane)

    def close(self) -> None:
        with self._cuda.current(), ExitStack() as stack:
            # The last one first: contexts go before their engine, and that before its runtime.
            stack.callback(self._forget)
            for lane in self._lanes:
                stack.callback(lane.close)
            if self._kernels is not None:
                stack.callback(self._kernels.save)
            stack.callback(self._close_runs)
            self._lanes, self._launching = [], None

    def _forget(self) -> None:
        self._idle.clear()
        self._kernels = None
        self._engine = None
        self._runtime = None

    def _idle_lane(self) -> Lane:
        """One that nobody uses; who takes it puts it back into `_idle`."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_lane()

    def _new_lane(self) -> Lane:
        lane = Lane(self._trt, self._file, self._cuda, self._engine, self._kernels)
        self._lanes.append(lane)
        return lane
