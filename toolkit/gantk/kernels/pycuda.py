# SPDX-License-Identifier: Apache-2.0
"""The same kernels through pycuda, for its GPUArrays, in whatever context of pycuda is current.

A context must have been made (`pycuda.autoinit` or `pycuda.autoprimaryctx` make one); nothing here makes one. Results
and workspaces come from the allocator of the first array given; with that of a `pycuda.tools.DeviceMemoryPool` nothing
is waited for, and all work that uses the pool belongs on one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from gantk.errors import BackendMissingError, GantkError
from gantk.kernels import calls
from gantk.kernels.architecture import Target, target_for
from gantk.kernels.compile import compiled, known_architectures
from gantk.kernels.launch import Device, Launch
from gantk.kernels.launcher import DEFAULT_SHARED_BYTES, packed
from gantk.kernels.operations import Work
from gantk.runtime.runner import dtype_named
from gantk.runtime.views import View


def gram_matrix(
    features: Any,
    scale: float | None = None,
    *,
    precision: str = "exact",
    out: Any = None,
    stream: Any = None,
) -> Any:
    """`gantk.kernels.gram_matrix` of GPUArrays, on a stream of pycuda."""
    return calls.gram_matrix(_Run(stream), features, scale, precision, out)


def gram_matrix_grad(
    grad: Any,
    features: Any,
    scale: float | None = None,
    *,
    precision: str = "exact",
    out: Any = None,
    stream: Any = None,
) -> Any:
    """`gantk.kernels.gram_matrix_grad` of GPUArrays, on a stream of pycuda."""
    return calls.gram_matrix_grad(_Run(stream), grad, features, scale, precision, out)


def style_loss(
    features: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[float],
    *,
    precision: str = "exact",
    with_gradient: bool = False,
    out: Any = None,
    stream: Any = None,
) -> Any:
    """`gantk.kernels.style_loss` of GPUArrays, on a stream of pycuda."""
    return calls.style_loss(_Run(stream), features, targets, weights, precision, with_gradient, out)


def total_variation(
    pictures: Any,
    kind: str = "l1",
    eps: float = 1e-8,
    *,
    with_gradient: bool = False,
    out: Any = None,
    stream: Any = None,
) -> Any:
    """`gantk.kernels.total_variation` of GPUArrays, on a stream of pycuda."""
    return calls.total_variation(_Run(stream), pictures, kind, eps, with_gradient, out)


@dataclass
class _Function:
    """A kernel in one context, and how much shared memory it may ask for."""

    function: Any
    shared_bytes: int = DEFAULT_SHARED_BYTES


@dataclass(frozen=True)
class _Context:
    """What is known of one context of pycuda, and loaded into it."""

    device: Device
    target: Target
    functions: dict[tuple[str, str], _Function]


class _Run(calls.Run):
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._context = _current()
        self._allocator: Any = None

    @property
    def device(self) -> Device:
        return self._context.device

    def see(self, value: Any, name: str) -> View:
        if not isinstance(value, _pycuda("gpuarray").GPUArray):
            kind = type(value)
            raise GantkError(
                f"{name} is a {kind.__module__}.{kind.__qualname__}; a GPUArray of pycuda is wanted"
            )
        if self._allocator is None:
            self._allocator = value.allocator
        item = value.dtype.itemsize
        return View(
            name=name,
            address=int(value.gpudata or 0),
            shape=tuple(value.shape),
            strides=tuple(stride // item for stride in value.strides),
            dtype=value.dtype.name,
            item_bytes=item,
            ordinal=0,  # All are in the current context.
            owner=value,
        )

    def empty(
        self, name: str, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] | None = None
    ) -> tuple[Any, View]:
        kind = dtype_named(dtype)
        steps = None if strides is None else tuple(stride * kind.itemsize for stride in strides)
        fresh = _pycuda("gpuarray").GPUArray(shape, kind, allocator=self._allocator, strides=steps)
        return fresh, self.see(fresh, name)

    def ones(self, count: int) -> View:
        _, seen = self.empty("ones", (count,), "float32")
        _pycuda("driver").memset_d32_async(seen.address, calls.ONE, count, self._stream)
        return seen

    def enqueue(self, *works: Work) -> None:
        size_bytes = max(work.workspace_bytes for work in works)
        # Freed when this returns: pycuda's own free waits for the GPU, and a pool gives it to later work.
        workspace = self._allocator(size_bytes) if size_bytes else None
        for work in works:
            for one in work.launches(int(workspace or 0)):
                self._launch(one)

    def _launch(self, one: Launch) -> None:
        found = self._function(one)
        found.function.prepared_async_call(
            one.grid, one.block, self._stream, bytes(packed(one)), shared_size=one.shared_bytes
        )

    def _function(self, one: Launch) -> _Function:
        driver = _pycuda("driver")
        functions = self._context.functions
        key = (one.unit, one.kernel)
        if key not in functions:
            module = driver.module_from_buffer(compiled(one.unit, self._context.target))
            function = module.get_function(one.kernel)
            function.prepare((f"{len(packed(one))}s",))
            functions[key] = _Function(function)
        found = functions[key]
        if one.shared_bytes > found.shared_bytes:
            attribute = driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
            found.function.set_attribute(attribute, one.shared_bytes)
            found.shared_bytes = one.shared_bytes
        return found


def _current() -> _Context:
    """What belongs to the current context; pycuda forgets it with the context."""
    if _pycuda("driver").Context.get_current() is None:
        raise GantkError("no context of pycuda is current", hint="import pycuda.autoinit")
    found: _Context = _memoized()()
    return found


@cache
def _memoized() -> Callable[[], Any]:
    memoize: Callable[[Callable[[], _Context]], Callable[[], Any]] = _pycuda(
        "tools"
    ).context_dependent_memoize
    return memoize(_look)


def _look() -> _Context:
    driver = _pycuda("driver")
    gpu, attributes = driver.Context.get_device(), driver.device_attribute
    capability = tuple(gpu.compute_capability())
    device = Device(
        (capability[0], capability[1]),
        gpu.get_attribute(attributes.MULTIPROCESSOR_COUNT),
        gpu.get_attribute(attributes.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
    )
    return _Context(device, target_for(device.compute_capability, known_architectures()), {})


def _pycuda(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"pycuda.{name}")
    except ImportError as error:
        raise BackendMissingError(
            f"pycuda is not there: {error}", hint="pip install 'gantk[pycuda]', which wants a CUDA toolkit"
        ) from error
