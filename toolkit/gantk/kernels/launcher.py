# SPDX-License-Identifier: Apache-2.0
"""Puts planned launches on a stream: loads their code once, and encodes their tensor maps."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gantk.errors import GantkError
from gantk.kernels.compile import compiled
from gantk.kernels.device import GPU
from gantk.kernels.driver import bindings, call
from gantk.kernels.launch import Launch
from gantk.kernels.tensor_map import encoded

# More is lent to those kernels alone that ask for it. Each has 48 KiB, of which its static variables are a part.
DEFAULT_SHARED_BYTES = 32 * 1024


@dataclass
class _Kernel:
    """A kernel of a loaded library, and how much shared memory it may ask for on its GPU."""

    handle: Any
    lent_bytes: int = DEFAULT_SHARED_BYTES


_lock = threading.RLock()
_libraries: dict[tuple[str, str], Any] = {}
_kernels: dict[tuple[int, str, str], _Kernel] = {}


def launch(gpu: GPU, launches: Sequence[Launch], stream: int) -> None:
    """Enqueue launches, one after the other, on a stream. Nothing is waited for.

    Args:
        gpu: Where the stream and all addresses belong.
        launches: Of one plan.
        stream: The driver's handle.

    Raises:
        GantkError: Code does not compile or load, or the driver refuses a launch.
    """
    with gpu.current():
        for one in launches:
            kernel = _kernel(gpu, one)
            data = packed(one)
            parameters = (ctypes.c_void_p * 1)(ctypes.addressof(data))
            place = ctypes.addressof(parameters)
            if one.dependent and gpu.launches_early:
                call("cuLaunchKernelEx", _early(one, stream), kernel, place, 0, where=one.kernel)
                continue
            call(
                "cuLaunchKernel",
                kernel, *one.grid, *one.block, one.shared_bytes, stream, place, 0,
                where=one.kernel,
            )  # fmt: skip


def _early(one: Launch, stream: int) -> Any:
    """How to launch a kernel that waits by itself for the launch before it."""
    cuda = bindings()
    attribute, config = cuda.CUlaunchAttribute(), cuda.CUlaunchConfig()
    attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    config.gridDimX, config.gridDimY, config.gridDimZ = one.grid
    config.blockDimX, config.blockDimY, config.blockDimZ = one.block
    config.sharedMemBytes = one.shared_bytes
    config.hStream = cuda.CUstream(stream)
    config.attrs, config.numAttrs = [attribute], 1
    return config


def packed(one: Launch) -> ctypes.Array[ctypes.c_char]:
    """The bytes of a launch's one parameter, with its tensor maps in place."""
    data = ctypes.create_string_buffer(bytes(one.parameters), ctypes.sizeof(one.parameters))
    for tensor_map in one.tensor_maps:
        ctypes.memmove(ctypes.byref(data, tensor_map.offset), encoded(tensor_map), 128)
    return data


def _kernel(gpu: GPU, one: Launch) -> Any:
    """The handle of a launch's kernel, which may use as much shared memory as the launch wants."""
    found = _kernels.get((gpu.ordinal, one.unit, one.kernel))
    if found is None or one.shared_bytes > found.lent_bytes:
        with _lock:
            found = _loaded(gpu, one)
    return found.handle


def _loaded(gpu: GPU, one: Launch) -> _Kernel:
    key = (gpu.ordinal, one.unit, one.kernel)
    if key not in _kernels:
        library = _library(gpu, one.unit)
        handle = call("cuLibraryGetKernel", library, one.kernel.encode(), where=f"{one.unit}: {one.kernel}")
        _kernels[key] = _Kernel(handle)
    kernel = _kernels[key]
    if one.shared_bytes > kernel.lent_bytes:
        if one.shared_bytes > gpu.device.shared_bytes:
            raise GantkError(
                f"{one.kernel} wants {one.shared_bytes} bytes of shared memory; "
                f"a block has at most {gpu.device.shared_bytes} here"
            )
        most = bindings().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        call("cuKernelSetAttribute", most, one.shared_bytes, kernel.handle, gpu.handle, where=one.kernel)
        kernel.lent_bytes = one.shared_bytes
    return kernel


def _library(gpu: GPU, unit: str) -> Any:
    """A unit's code, loaded; the driver itself puts it into each context that launches from it."""
    key = (gpu.target.name, unit)
    if key not in _libraries:
        code = compiled(unit, gpu.target)
        if gpu.target.is_ptx:
            code += b"\0"  # PTX is text that ends with a NUL.
        with _relaxed_capture():
            _libraries[key] = call("cuLibraryLoadData", code, [], [], 0, [], [], 0, where=unit)
    return _libraries[key]


@contextmanager
def _relaxed_capture() -> Iterator[None]:
    """Allow what may allocate while some stream is captured into a graph, as loading code may."""
    mode = bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    previous = call("cuThreadExchangeStreamCaptureMode", mode)
    try:
        yield
    finally:
        call("cuThreadExchangeStreamCaptureMode", previous)
