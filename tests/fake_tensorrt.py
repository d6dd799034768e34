# SPDX-License-Identifier: Apache-2.0
"""The module of a TensorRT product on a `FakeCuda`: enough of it to run a network that doubles and adds.

It does what the real one does when something is wrong: it logs an error, and yields `None` or `False`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

import numpy as np

from fake_cuda import FakeCuda
from fake_kernels import (
    DynamicShapesKernelSpecializationStrategy,
    ExecutionContextAllocationStrategy,
    RuntimeCache,
    RuntimeConfig,
)
from fake_refitter import MAGIC, OnnxParserRefitter, Plan, Refitter, SerializationFlag
from fake_streams import LEGACY
from gantk.bundle import Profile
from gantk.runtime.cuda import host_view
from gantk.tensors import TensorSpec


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class DataType(Enum):
    FLOAT = auto()
    HALF = auto()
    UINT8 = auto()


class TensorIOMode(Enum):
    INPUT = auto()
    OUTPUT = auto()


class TensorLocation(Enum):
    DEVICE = auto()
    HOST = auto()


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class IOutputAllocator:
    def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
        raise NotImplementedError

    def notify_shape(self, name: str, shape: tuple[int, ...]) -> None:
        raise NotImplementedError


LEVEL = 2.5
TYPES = {"float32": DataType.FLOAT, "float16": DataType.HALF, "uint8": DataType.UINT8}


class FakeTensorRT:
    """The module. Its engines yield ``2 * first input + 1`` in the type of each output.

    Args:
        cuda: Whose memory it works on.
        inputs: Of the network that its engines run.
        outputs: Of it, all with the shape of the first input.
        profiles: Of its engines.
        fail: Which of its calls fails, and which time it is made: ``{"execute_async_v3": 2}``.
    """

    ILogger, DataType = ILogger, DataType
    TensorIOMode, TensorLocation = TensorIOMode, TensorLocation
    SerializationFlag, IOutputAllocator, IRuntimeCache = SerializationFlag, IOutputAllocator, RuntimeCache
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy
    __version__ = "1.7.1.116"

    def __init__(
        self,
        cuda: FakeCuda,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        profiles: Sequence[Profile],
        fail: dict[str, int] | None = None,
    ) -> None:
        self.cuda, self.inputs, self.outputs, self.profiles = cuda, inputs, outputs, profiles
        self.fail = dict(fail or {})
        self.words: dict[str, str] = {}  # What is logged where one fails.
        self.calls: list[str] = []
        self.alive = 0
        self.logger: Any = None
        self.wrong = 0.0  # Added to every output.
        self.location = TensorLocation.DEVICE
        self.open: tuple[str, ...] = ()
        """The outputs that have only those samples whose first value is above `LEVEL`."""
        self.gpu = "a GPU"
        self.capturable = True
        """Whether its contexts can be captured."""
        self.eager: list[bool] = []
        """Of each run, whether its shape's own kernels were waited for."""
        self.compiled: list[str] = []
        """The kernels that no cache had."""

    def Runtime(self, logger: ILogger) -> Runtime:  # noqa: N802
        self.logger = logger
        return Runtime(self)

    def Refitter(self, engine: Engine, logger: ILogger) -> Refitter:  # noqa: N802
        return Refitter(self, engine)

    def OnnxParserRefitter(self, refitter: Refitter, logger: ILogger) -> OnnxParserRefitter:  # noqa: N802
        return OnnxParserRefitter(self, refitter)

    def called(self, name: str) -> bool:
        """Record a call; whether it succeeds."""
        self.calls.append(name)
        if self.fail.get(name) == self.calls.count(name):
            self.logger.log(Severity.ERROR, self.words.get(name, f"{name}: Error Code 1: as told"))
            return False
        return True

    def born(self, thing: object) -> None:
        self.alive += 1
        weakref.finalize(thing, self._died)

    def _died(self) -> None:
        self.alive -= 1


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt
        trt.born(self)

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        if not data.startswith(MAGIC):
            self._trt.logger.log(Severity.ERROR, "Serialization assertion magicTagRead == kMAGIC_TAG failed")
            return None
        if b"version-compatible" in data and not self.engine_host_code_allowed:
            self._trt.logger.log(Severity.ERROR, "engine_host_code_allowed is false")
            return None
        return Engine(self._trt, data) if self._trt.called("deserialize_cuda_engine") else None


class Engine(Plan):
    device_memory_size_v2 = 3 * 2**20
    num_aux_streams = 1

    def __init__(self, trt: FakeTensorRT, data: bytes) -> None:
        super().__init__(trt, data)
        self._trt: FakeTensorRT = trt
        self._tensors = (*trt.inputs, *trt.outputs)
        self.gpu = trt.cuda.current
        self._own: list[RuntimeConfig] = []
        self.num_io_tensors = len(self._tensors)
        self.num_optimization_profiles = len(trt.profiles)
        trt.born(self)

    def _spec(self, name: str) -> TensorSpec:
        return next(spec for spec in self._tensors if spec.name == name)

    def get_tensor_name(self, index: int) -> str:
        return self._tensors[index].name

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if self._spec(name) in self._trt.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return TYPES[self._spec(name).dtype]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return self._trt.location

    def create_execution_context(
        self, how: RuntimeConfig | ExecutionContextAllocationStrategy | None = None
    ) -> Context | None:
        config = how if isinstance(how, RuntimeConfig) else RuntimeConfig(self._trt)
        if config is not how:
            self._own.append(config)
        if isinstance(how, ExecutionContextAllocationStrategy):
            config.strategy = how
        return Context(self._trt, self, config) if self._trt.called("create_execution_context") else None

    def create_runtime_config(self) -> RuntimeConfig | None:
        return RuntimeConfig(self._trt) if self._trt.called("create_runtime_config") else None


class Context:
    def __init__(self, trt: FakeTensorRT, engine: Engine, config: RuntimeConfig) -> None:
        self._trt, self._engine = trt, engine
        self._config = weakref.ref(config)
        self._cache = RuntimeCache(trt) if config.cache is None else config.cache
        strategies = DynamicShapesKernelSpecializationStrategy
        self._eager = config.dynamic_shapes_kernel_specialization_strategy is strategies.EAGER
        self._given = config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self._wanted = self._scratch = 0
        self._allocators: dict[str, IOutputAllocator] = {}
        self._profile = 0
        self._copied_profile = 0  # What is on the GPU: it follows on the stream.
        self._is_new = True  # What was told last takes effect in the next run.
        self._beside: list[int] = []
        self._runs = 0  # Under way, but for those of graphs.
        self._gpu = engine.gpu
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        trt.born(self)

    def set_aux_streams(self, streams: list[int]) -> None:
        assert len(streams) == self._engine.num_aux_streams
        self._beside = streams

    def _told(self) -> None:
        if self._runs:
            self._trt.cuda.fault("a context was told something else while it ran")

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self._told()
        if not self._trt.called("set_optimization_profile_async"):
            raise RuntimeError("Error in set optimization profile async.")  # So the bindings say it.
        self._profile, self._shapes, self._is_new = profile, {}, True
        me = weakref.ref(self)
        self._trt.cuda.work(stream, lambda: _switch(me(), profile))
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._told()
        if not self._trt.called("set_input_shape"):
            return False
        if not self._trt.profiles[self._profile][name].holds(shape):
            self._trt.logger.log(Severity.ERROR, f"setInputShape: {name} is outside profile {self._profile}")
            return False
        self._shapes[name], self._is_new = shape, True
        return True

    @property
    def _state(self) -> tuple[object, ...]:
        """What a graph works with that is captured now."""
        return self._profile, dict(self._shapes), dict(self._addresses), self._scratch

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert len(self._shapes) == len(self._trt.inputs), "shapes of inputs come first"
        shape = self._shapes[self._trt.inputs[0].name]
        return (-1, *shape[1:]) if name in self._trt.open else shape

    def update_device_memory_size_for_shapes(self) -> int:
        assert self._given, "a context that has memory of its own"
        assert len(self._shapes) == len(self._trt.inputs), "shapes of inputs come first"
        self._wanted = int(np.prod(self._shapes[self._trt.inputs[0].name]))
        return self._wanted if self._trt.called("update_device_memory_size_for_shapes") else 0

    def set_device_memory(self, address: int, size: int) -> None:
        self._told()
        assert self._given and size >= self._wanted and address % 512 == 0
        if not self._trt.called("set_device_memory"):
            return
        assert len(self._trt.cuda.at(address)) >= size
        self._scratch = address

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream in self._trt.cuda.streams
        return self._trt.capturable

    def set_output_allocator(self, name: str, allocator: IOutputAllocator) -> bool:
        if not self._trt.called("set_output_allocator"):
            return False
        self._allocators[name] = allocator
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        if not self._trt.called("set_tensor_address"):
            return False
        self._addresses[name] = address
        return address % 256 == 0

    def execute_async_v3(self, stream: int) -> bool:
        if not self._trt.called("execute_async_v3"):
            return False
        trt, shapes, addresses = self._trt, dict(self._shapes), dict(self._addresses)
        if not self._gpu == trt.cuda.current == trt.cuda.stream(stream).gpu:
            trt.cuda.fault(f"an engine of GPU {self._gpu} is run on another")
        if self._config() is None:
            trt.cuda.fault("the context's configuration has gone")
        for beside in self._beside:
            if trt.cuda.stream(beside).blocking:
                trt.cuda.fault("others' work on the default stream is a part of a run")
        own = "streams of its own, which may wait for the default stream"
        assert len(self._beside) == self._engine.num_aux_streams, own
        if stream in (0, LEGACY) and stream not in trt.cuda.recording:
            trt.cuda.fault("a run waits for all of the GPU")
        given, scratch, wanted = self._given, self._scratch, int(np.prod(shapes[trt.inputs[0].name]))
        assert not given or self._wanted == wanted, "another shape's memory"
        assert self._trt.capturable or stream not in trt.cuda.recording
        trt.eager.append(self._eager)
        self._cache.compile(f"profile {self._profile}", trt.compiled)
        first = trt.inputs[0]
        for name in trt.open:
            addresses[name] = self._allocated(name, addresses[first.name], shapes[first.name], stream)
            if not addresses[name]:
                return False
        assert addresses.keys() == {spec.name for spec in (*trt.inputs, *trt.outputs)}

        me, profile, gpu, state = weakref.ref(self), self._profile, self._gpu, self._state
        of_graph = stream in trt.cuda.recording
        if of_graph and self._is_new:
            trt.cuda.fault("a context is captured that has not run since it was told something else")
        self._is_new = False
        self._runs += not of_graph

        def run() -> None:
            context = me()
            if context is None:
                trt.cuda.fault("the context has gone while it ran")
            context._runs -= not of_graph
            if context._copied_profile != profile:
                trt.cuda.fault("the profile was switched while the context ran")
            if of_graph and context._state != state:
                trt.cuda.fault("the context of a graph was told something else")
            if any(trt.cuda.gpu_of(address) != gpu for address in addresses.values()):
                trt.cuda.fault("the memory is of another GPU")
            if given and len(trt.cuda.at(scratch)) < wanted:
                trt.cuda.fault("the context's memory is too small")
            x = host_view(addresses[first.name], shapes[first.name], np.dtype(first.dtype))
            for spec in trt.outputs:
                taken = x[_kept(x)] if spec.name in trt.open else x
                y = host_view(addresses[spec.name], taken.shape, np.dtype(spec.dtype))
                y[...] = (2 * taken.astype(np.float64) + 1 + trt.wrong).astype(spec.dtype)

        trt.cuda.work(stream, run)
        return True

    def _allocated(self, name: str, address: int, shape: tuple[int, ...], stream: int) -> int:
        """The address that the allocator of an open output gives; 0 where it gives none."""
        assert stream not in self._trt.cuda.recording, "a run that allocates cannot be captured"
        self._trt.cuda.schedule.drain([self._trt.cuda.stream(stream)])  # The sizes are told by values.
        x = host_view(address, shape, np.dtype(self._trt.inputs[0].dtype))
        kept = x[_kept(x)]
        size = kept.size * np.dtype(self._engine._spec(name).dtype).itemsize
        given = self._allocators[name].reallocate_output_async(name, 0, size, 256, stream)
        assert isinstance(given, int), "the bindings complain of anything else"
        if not given:
            self._trt.logger.log(Severity.ERROR, "Error Code 2: OutOfMemory (no memory for an output)")
            return 0
        assert len(self._trt.cuda.at(given)) >= size
        self._allocators[name].notify_shape(name, kept.shape)
        return given


def _switch(context: Context | None, profile: int) -> None:
    assert context is not None, "the context has gone while its profile was switched"
    context._copied_profile = profile


def _kept(x: np.ndarray) -> np.ndarray:
    """The samples that an open output has."""
    return x.reshape(len(x), -1)[:, 0] > LEVEL
