# SPDX-License-Identifier: Apache-2.0
"""The GPUs: what each can do, and its context, which torch and others share."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gantk.kernels.architecture import Target, target_for
from gantk.kernels.compile import known_architectures
from gantk.kernels.driver import bindings, call, require_driver
from gantk.kernels.launch import Device
from gantk.runtime.cuda import POOLED_BYTES

EARLY_LAUNCHES = "GANTK_EARLY_LAUNCHES"
"""Names the environment variable that, set to ``off``, has each kernel launched when the one before it has ended."""

_EARLY_LAUNCHES_IN_GRAPHS = 12030  # The driver's version as it counts them: CUDA 12.3.


@dataclass(frozen=True)
class GPU:
    """A GPU that the driver lets us use.

    Args:
        ordinal: Its number in this process.
        handle: The driver's device.
        context: The driver's primary context on it: the one of the CUDA runtime and hence of torch, CuPy and JAX.
        device: What a plan wants to know of it.
        target: What kernels are compiled for.
        has_pools: Whether memory is allocated in the order of a stream.
    """

    ordinal: int
    handle: Any
    context: Any
    device: Device
    target: Target
    has_pools: bool

    @cached_property
    def uses_pool(self) -> bool:
        """Whether memory is to be taken from its pool, which keeps what nobody uses: see `gantk.runtime.cuda.Cuda`."""
        if self.has_pools:
            cuda = bindings()
            pool = call("cuDeviceGetDefaultMemPool", self.handle)
            kept = cuda.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
            if int(call("cuMemPoolGetAttribute", pool, kept)) == 0:
                call("cuMemPoolSetAttribute", pool, kept, cuda.cuuint64_t(POOLED_BYTES))
        return self.has_pools

    @cached_property
    def launches_early(self) -> bool:
        """Whether a dependent launch may come before the one before it has ended, also in a graph."""
        return (
            self.target.waits
            and os.environ.get(EARLY_LAUNCHES) != "off"
            and int(call("cuDriverGetVersion")) >= _EARLY_LAUNCHES_IN_GRAPHS
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make its context that of the calling thread, for the block."""
        if call("cuCtxGetCurrent") == self.context:  # As it is wherever torch works on this GPU.
            yield
            return
        call("cuCtxPushCurrent", self.context)
        try:
            yield
        finally:
            call("cuCtxPopCurrent")


_gpus: dict[int, GPU] = {}
_lock = threading.Lock()


def gpu(ordinal: int) -> GPU:
    """A GPU by its number; looked at once.

    Raises:
        BackendMissingError: There is no driver, or no NVRTC.
        GantkError: The GPU is not there, or is too old for the kernels.
    """
    with _lock:
        if ordinal not in _gpus:
            _gpus[ordinal] = _look_at(ordinal)
        return _gpus[ordinal]


def _look_at(ordinal: int) -> GPU:
    require_driver()
    cuda = bindings()
    handle = call("cuDeviceGet", ordinal, where=f"GPU {ordinal}")

    def attribute(name: str) -> int:
        wanted = getattr(cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(call("cuDeviceGetAttribute", wanted, handle))

    capability = attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")
    target = target_for(capability, known_architectures())
    return GPU(
        ordinal=ordinal,
        handle=handle,
        context=call("cuDevicePrimaryCtxRetain", handle, where=f"GPU {ordinal}"),  # For the process's life.
        device=Device(
            capability, attribute("MULTIPROCESSOR_COUNT"), attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        ),
        target=target,
        has_pools=bool(attribute("MEMORY_POOLS_SUPPORTED")),
    )
