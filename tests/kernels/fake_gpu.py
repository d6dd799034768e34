# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802
"""A stand-in for the module `cuda.bindings.driver` that keeps the driver's rules and runs kernels on the CPU.

Its functions take and return what the real ones do, with the real enumerations and handles; `calls` keeps all calls,
so that a test can show the same arguments to the real module. Memory is an arena at its real address in this
process. A launch is executed at once, by the interpreter of the tests; work of one stream is thus never late, and
what is checked of streams is who was told to wait for whom.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cuda.bindings import driver as real

LEGACY = 1

Execute = Callable[..., None]


def stand_in(unit: str, target: Any) -> bytes:
    """What the fake driver loads in place of machine code, which it could not run."""
    return f"{unit} {target.name}".encode()


def nothing(*_: object) -> None:
    """Stands for kernels where a test looks at the calls alone."""


@dataclass(frozen=True)
class FakeGPU:
    capability: tuple[int, int] = (8, 0)
    multiprocessors: int = 4
    shared_bytes: int = 163 * 1024
    pools: bool = True


@dataclass
class Code:
    """What `cuLibraryLoadData` was given."""

    unit: str
    target: str


@dataclass
class FakeCuda:
    """Args:
    gpus: That the driver sees.
    memory: Where `allocate`, `free`, `write` and `read` go.
    execute: Runs a launch: (unit, target, kernel, grid, block, shared bytes, parameters, tensor maps, dependent).
    version: Of the driver.
    """

    memory: Any
    execute: Execute = nothing
    gpus: tuple[FakeGPU, ...] = (FakeGPU(),)
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    allocated: dict[int, int] = field(default_factory=dict)  # Address to GPU.
    stacks: dict[int, list[int]] = field(default_factory=dict)  # Of contexts, by thread.
    libraries: dict[int, Code] = field(default_factory=dict)
    kernels: dict[int, tuple[Code, str]] = field(default_factory=dict)
    opted_in: dict[tuple[int, int], int] = field(default_factory=dict)
    events: dict[int, int | None] = field(default_factory=dict)
    waits: list[tuple[int, int]] = field(default_factory=list)  # (who waits, for whom)
    tensor_maps: dict[bytes, Any] = field(default_factory=dict)
    retained: dict[int, int] = field(default_factory=dict)
    pool_keeps: dict[int, int] = field(default_factory=dict)  # Bytes that nobody uses, by pool.
    version: int = 13000
    capturing: bool = False
    relaxed: bool = False
    _failures: dict[str, Any] = field(default_factory=dict)
    _handles: Iterator[int] = field(default_factory=lambda: iter(range(16, 1 << 30, 16)))

    def __getattr__(self, name: str) -> Any:
        """Enumerations and handles are the real ones; functions must be among those below."""
        if name.startswith("cu") and hasattr(type(self), f"_{name}"):
            return lambda *arguments: self._call(name, arguments)
        found = getattr(real, name) if not name.startswith("_") else None
        if not isinstance(found, type):
            raise AttributeError(f"the fake driver has no {name}")
        return found

    @contextmanager
    def failing(self, function: str, status: str = "CUDA_ERROR_OUT_OF_MEMORY") -> Iterator[None]:
        """Let a function of the driver fail."""
        self._failures[function] = getattr(real.CUresult, status)
        try:
            yield
        finally:
            del self._failures[function]

    @property
    def contexts(self) -> list[int]:
        """The stack of the calling thread."""
        return self.stacks.setdefault(threading.get_ident(), [])

    def count(self, function: str) -> int:
        return [name for name, _ in self.calls].count(function)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        self.calls.append((name, arguments))
        values = getattr(self, f"_{name}")
        try:
            if name in self._failures:
                raise Refused(self._failures[name])
            found = values(*arguments)
        except Refused as refused:
            return refused.status, *([None] * _VALUES.get(name, 0))
        return real.CUresult.CUDA_SUCCESS, *(() if found is None else (found,))

    def _new(self) -> int:
        return next(self._handles)

    def _unsafe(self, what: str = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED") -> None:
        """What CUDA forbids while a stream is captured, outside of the relaxed mode."""
        if self.capturing and not self.relaxed:
            refuse(what)

    def _in_context(self) -> int:
        if not self.contexts:
            refuse("CUDA_ERROR_INVALID_CONTEXT")
        return self.contexts[-1] - 1

    # Devices and contexts; the context of GPU n has the handle n + 1.

    def _cuGetErrorString(self, status: Any) -> bytes:
        return f"words for {status.value}".encode()

    def _cuDeviceGet(self, ordinal: int) -> Any:
        if not 0 <= ordinal < len(self.gpus):
            refuse("CUDA_ERROR_INVALID_DEVICE")
        return real.CUdevice(ordinal)

    def _cuDeviceGetAttribute(self, attribute: Any, device: Any) -> int:
        gpu = self.gpus[int(device)]
        return {
            "COMPUTE_CAPABILITY_MAJOR": gpu.capability[0],
            "COMPUTE_CAPABILITY_MINOR": gpu.capability[1],
            "MULTIPROCESSOR_COUNT": gpu.multiprocessors,
            "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": gpu.shared_bytes,
            "MEMORY_POOLS_SUPPORTED": int(gpu.pools),
        }[attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_")]

    def _cuDevicePrimaryCtxRetain(self, device: Any) -> Any:
        self._unsafe()
        self.retained[int(device)] = self.retained.get(int(device), 0) + 1
        return real.CUcontext(int(device) + 1)

    def _cuCtxGetCurrent(self) -> Any:
        return real.CUcontext(self.contexts[-1] if self.contexts else 0)

    def _cuCtxPushCurrent(self, context: Any) -> None:
        assert int(context) - 1 in self.retained
        self.contexts.append(int(context))

    def _cuCtxPopCurrent(self) -> Any:
        return real.CUcontext(self.contexts.pop())

    def _cuCtxSynchronize(self) -> None:
        self._in_context()
        self._unsafe()

    # Memory.

    def _cuDeviceGetDefaultMemPool(self, device: Any) -> Any:
        assert self.gpus[int(device)].pools
        return real.CUmemoryPool(int(device) + 1)

    def _cuMemPoolGetAttribute(self, pool: Any, attribute: Any) -> Any:
        return real.cuuint64_t(self.pool_keeps.get(int(pool), 0))

    def _cuMemPoolSetAttribute(self, pool: Any, attribute: Any, value: Any) -> None:
        assert attribute.name == "CU_MEMPOOL_ATTR_RELEASE_THRESHOLD"
        self.pool_keeps[int(pool)] = int(value)

    def _cuMemAllocAsync(self, size: int, stream: int) -> Any:
        gpu = self._in_context()
        if not self.gpus[gpu].pools:
            refuse("CUDA_ERROR_NOT_SUPPORTED")
        return self._allocate(size, gpu)

    def _cuMemAlloc(self, size: int) -> Any:
        self._unsafe()
        return self._allocate(size, self._in_context())

    def _allocate(self, size: int, gpu: int) -> Any:
        if size <= 0:
            refuse("CUDA_ERROR_INVALID_VALUE")
        address = self.memory.allocate(size)
        self.allocated[address] = gpu
        return real.CUdeviceptr(address)

    def _cuMemFreeAsync(self, address: int, stream: int) -> None:
        self._free(address)

    def _cuMemFree(self, address: int) -> None:
        self._unsafe()
        self._free(address)

    def _free(self, address: int) -> None:
        self._in_context()
        if address not in self.allocated:
            refuse("CUDA_ERROR_INVALID_VALUE")
        del self.allocated[address]
        self.memory.free(address)

    def _cuPointerGetAttribute(self, attribute: Any, address: int) -> int:
        assert attribute.name == "CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL"
        gpu = self.memory.owner(address, self.allocated)
        if gpu is None:
            refuse("CUDA_ERROR_INVALID_VALUE")
        return int(gpu)

    def _cuMemcpyHtoDAsync(self, to: int, source: int, size: int, stream: int) -> None:
        self._in_context()
        self.memory.write(to, ctypes.string_at(source, size))

    def _cuMemcpyDtoHAsync(self, to: int, source: int, size: int, stream: int) -> None:
        self._in_context()
        ctypes.memmove(to, self.memory.read(source, size), size)

    def _cuMemsetD32Async(self, to: int, word: int, count: int, stream: int) -> None:
        self._in_context()
        self.memory.write(to, word.to_bytes(4, "little") * count)

    # Streams and events.

    def _cuStreamSynchronize(self, stream: int) -> None:
        self._in_context()
        self._unsafe()

    def _cuStreamIsCapturing(self, stream: int) -> Any:
        states = real.CUstreamCaptureStatus
        return (
            states.CU_STREAM_CAPTURE_STATUS_ACTIVE if self.capturing else states.CU_STREAM_CAPTURE_STATUS_NONE
        )

    def _cuEventCreate(self, flags: Any) -> Any:
        self._in_context()
        event = self._new()
        self.events[event] = None
        return real.CUevent(event)

    def _cuEventRecord(self, event: Any, stream: int) -> None:
        self.events[int(event)] = stream

    def _cuStreamWaitEvent(self, stream: int, event: Any, flags: int) -> None:
        recorded = self.events[int(event)]
        assert recorded is not None
        self.waits.append((stream, recorded))

    def _cuEventDestroy(self, event: Any) -> None:
        del self.events[int(event)]

    def _cuThreadExchangeStreamCaptureMode(self, mode: Any) -> Any:
        modes = real.CUstreamCaptureMode
        before = modes.CU_STREAM_CAPTURE_MODE_RELAXED if self.relaxed else modes.CU_STREAM_CAPTURE_MODE_GLOBAL
        self.relaxed = mode == modes.CU_STREAM_CAPTURE_MODE_RELAXED
        return before

    # Code.

    def _cuLibraryLoadData(self, code: bytes, *options: Any) -> Any:
        assert options == ([], [], 0, [], [], 0)
        self._unsafe()
        try:
            unit, target = code.decode().removesuffix("\0").split()
        except ValueError:
            refuse("CUDA_ERROR_INVALID_IMAGE")
        capability = self.gpus[self._in_context()].capability
        if target.startswith("sm_") and target[3:].rstrip("a")[:-1] != str(capability[0]):
            refuse("CUDA_ERROR_NO_BINARY_FOR_GPU")
        library = self._new()
        self.libraries[library] = Code(unit, target)
        return real.CUlibrary(library)

    def _cuLibraryGetKernel(self, library: Any, name: bytes) -> Any:
        kernel = self._new()
        self.kernels[kernel] = (self.libraries[int(library)], name.decode())
        return real.CUkernel(kernel)

    def _cuKernelSetAttribute(self, attribute: Any, value: int, kernel: Any, device: Any) -> None:
        assert attribute.name == "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
        if value > self.gpus[int(device)].shared_bytes:
            refuse("CUDA_ERROR_INVALID_VALUE")
        self.opted_in[int(kernel), int(device)] = value

    def _cuDriverGetVersion(self) -> int:
        return self.version

    def _cuLaunchKernelEx(self, config: Any, kernel: Any, pointers: int, extra: int) -> None:
        (attribute,) = config.attrs
        kinds = real.CUlaunchAttributeID
        assert attribute.id == kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        assert (config.numAttrs, attribute.value.programmaticStreamSerializationAllowed) == (1, 1)
        grid = config.gridDimX, config.gridDimY, config.gridDimZ
        block = config.blockDimX, config.blockDimY, config.blockDimZ
        shared, stream = config.sharedMemBytes, int(config.hStream)
        self._launch(kernel, *grid, *block, shared, stream, pointers, extra, dependent=True)

    def _cuLaunchKernel(self, kernel: Any, *arguments: Any) -> None:
        self._launch(kernel, *arguments)

    def _launch(self, kernel: Any, *arguments: Any, dependent: bool = False) -> None:
        gpu = self._in_context()
        *extents, shared, _, pointers, extra = arguments
        grid, block = tuple(extents[:3]), tuple(extents[3:])
        code, name = self.kernels[int(kernel)]
        within = (
            0 < grid[0] < 2**31 and 0 < grid[1] < 2**16 and 0 < grid[2] < 2**16
            and min(block) > 0 and block[0] * block[1] * block[2] <= 1024
        )  # fmt: skip
        if not within or extra != 0 or shared > self.opted_in.get((int(kernel), gpu), 48 * 1024):
            refuse("CUDA_ERROR_INVALID_VALUE")
        first = ctypes.c_void_p.from_address(pointers).value
        assert first is not None
        self.execute(code.unit, code.target, name, grid, block, shared, first, self.tensor_maps, dependent)

    def encode_tiled(self, place: int, element: int, rank: int, address: int, *rest: Any) -> int:
        """`cuTensorMapEncodeTiled`, which is called through ctypes: the map is a number that stands for its terms."""
        sizes, strides, box, steps, interleave, swizzle, _, outside = rest
        assert place % 64 == 0
        assert list(steps) == [1] * rank
        assert (interleave, outside) == (0, 0)
        if "cuTensorMapEncodeTiled" in self._failures:
            return int(self._failures["cuTensorMapEncodeTiled"])
        strides = tuple(strides[: rank - 1])
        wrong = address % 16 or any(stride % 16 or stride >= 2**40 for stride in strides) or max(box) > 256
        if wrong or not 1 <= rank <= 5 or min(sizes) < 1:
            return int(real.CUresult.CUDA_ERROR_INVALID_VALUE)
        terms = {
            "element": real.CUtensorMapDataType(element)
            .name.removeprefix("CU_TENSOR_MAP_DATA_TYPE_")
            .lower(),
            "address": address,
            "sizes": tuple(sizes),
            "strides_bytes": strides,
            "box": tuple(box),
            "swizzle": {0: 0, 1: 32, 2: 64, 3: 128}[swizzle],
        }
        token = b"tensor map" + len(self.tensor_maps).to_bytes(118, "little")
        self.tensor_maps[token] = terms
        ctypes.memmove(place, token, 128)
        return 0


class Refused(Exception):  # noqa: N818
    def __init__(self, status: Any) -> None:
        self.status = status


def refuse(status: str) -> None:
    raise Refused(getattr(real.CUresult, status))


_VALUES = dict.fromkeys(
    (
        "cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuCtxGetCurrent", "cuCtxPopCurrent",
        "cuMemAllocAsync", "cuMemAlloc", "cuPointerGetAttribute", "cuEventCreate", "cuLibraryLoadData",
        "cuLibraryGetKernel", "cuThreadExchangeStreamCaptureMode", "cuGetErrorString",
        "cuStreamIsCapturing", "cuDeviceGetDefaultMemPool", "cuMemPoolGetAttribute",
    ),
    1,
)  # fmt: skip
"""The functions that give a value, `None` with an error."""
