# SPDX-License-Identifier: Apache-2.0
"""The operations on arrays of any library that shares GPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gantk.errors import GantkError
from gantk.kernels import launcher, operations
from gantk.kernels.arrays import View, channels_last, view
from gantk.kernels.device import gpu
from gantk.kernels.launch import Device, Launch
from gantk.kernels.memory import DeviceArray, Memory
from gantk.kernels.streams import Stream


def total_variation(
    pictures: Any,
    kind: str = "l1",
    eps: float = 1e-8,
    *,
    with_gradient: bool = False,
    out: Any = None,
    workspace: Any = None,
    stream: Any = None,
) -> Any:
    """The total variation of each picture, and with it its gradient in the same pass.

    `gantk.ops.total_variation` describes the kinds. Sums are float32, in a fixed order: the same bits on every run.

    Args:
        pictures: float32, float16 or bfloat16 [N, C, H, W] of any strides that are not negative.
        kind: ``l1``, ``l2`` or ``isotropic``.
        eps: Above 0; for ``isotropic`` alone.
        with_gradient: Whether the gradient is wanted too.
        out: Where to write: an array for the value, with a gradient a pair of arrays; fresh ones by default.
        workspace: Memory to work in, of any type, whose size an error tells where it is too small; it must not be in
            use on another stream. By default it is taken and given back in the order of the stream.
        stream: On which to work, the default stream by default. Nothing is waited for.

    Returns:
        The values, float32[N], or a pair of these and the gradient, of the shape and type of the pictures, channels
        last where they are, else contiguous. Fresh arrays have ``__dlpack__`` and ``__cuda_array_interface__``.

    Raises:
        UsageError: Another kind, or an eps that is no number above 0.
        BackendMissingError: There is no driver, no GPU or no NVRTC.
        GantkError: An array is not in GPU memory or is not as it must be, or the driver fails.
    """
    at = Stream.of(stream)
    given = view(pictures, "pictures", at)
    operations.pictures_of(given)
    run = _Run(given, at, workspace)
    outs = _pair(out) if with_gradient else (out, None)
    value, value_view = run.result("value", outs[0], given.shape[:1], "float32")
    gradient, gradient_view = run.result_like(given, outs[1]) if with_gradient else (None, None)
    operations.total_variation(run, given, value_view, gradient_view, kind, eps)
    return (value, gradient) if with_gradient else value


class _Run:
    """One call on one GPU and stream; keeps what must stay until its launches are enqueued."""

    def __init__(self, given: View, stream: Stream, workspace: Any) -> None:
        self.gpu = gpu(given.ordinal)
        self.stream = stream
        self._workspace = None if workspace is None else view(workspace, "workspace", stream)
        self._memory: Memory | None = None

    @property
    def device(self) -> Device:
        return self.gpu.device

    def workspace(self, size_bytes: int) -> int:
        if size_bytes == 0:
            return 0
        if self._workspace is not None:
            return operations.check_workspace(self._workspace, size_bytes, self.gpu.ordinal)
        self._memory = Memory(self.gpu, size_bytes, self.stream)
        return self._memory.address

    def launch(self, launches: Sequence[Launch]) -> None:
        launcher.launch(self.gpu, launches, self.stream.handle)

    def result(
        self, name: str, out: Any, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] | None = None
    ) -> tuple[Any, View]:
        """An array to return and its view: the caller's `out`, or a fresh one."""
        if out is not None:
            return out, view(out, "out", self.stream)
        fresh = DeviceArray(self.gpu, shape, dtype, self.stream, strides)
        return fresh, fresh.view(name)

    def result_like(self, given: View, out: Any) -> tuple[Any, View]:
        """Likewise, of the shape and type of an array, channels last where that is."""
        strides = channels_last(given.shape) if given.is_channels_last() else None
        return self.result("gradient", out, given.shape, given.dtype, strides)


def _pair(out: Any) -> tuple[Any, Any]:
    if out is None:
        return None, None
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise GantkError(f"out is a {type(out).__name__}; a pair of arrays is wanted, for value and gradient")
    return out[0], out[1]
