# SPDX-License-Identifier: Apache-2.0
"""The operations on arrays of any library that shares GPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gantk.kernels import calls
from gantk.kernels.arrays import view
from gantk.kernels.device import GPU, gpu
from gantk.kernels.driver import call
from gantk.kernels.launch import Device
from gantk.kernels.launcher import launch
from gantk.kernels.layouts import check_workspace
from gantk.kernels.memory import DeviceArray, Memory
from gantk.kernels.operations import Work
from gantk.kernels.streams import Stream
from gantk.runtime.views import View


def gram_matrix(
    features: Any,
    scale: float | None = None,
    *,
    precision: str = "exact",
    out: Any = None,
    workspace: Any = None,
    stream: Any = None,
) -> Any:
    """The Gram matrices of features, ``G = F F^T * scale`` (Gatys et al., CVPR 2016, equation 3, scaled).

    Sums are float32, in a fixed order: the same bits on every run.

    Args:
        features: float32, float16 or bfloat16 [N, C, H, W] or [N, C, K], where K stands for H * W; any strides that
            are not negative and with which rows follow each other without gaps.
        scale: By default 1 / (H * W).
        precision: Of float32 features: ``exact``, as float32 sums would have it, or ``tf32``, faster, whose products
            have 11 significant bits. Halves are exact in their products anyway.
        out: float32[N, C, C], contiguous, where to write; a fresh array by default.
        workspace: Memory to work in, of any type; an error names the size where it is too small. Another call may
            use it after this one on the same stream. By default it is taken and given back in the stream's order.
        stream: On which to work, the default stream by default. Nothing is waited for. While it is captured into a
            graph, `out` and `workspace` must be given.

    Returns:
        float32[N, C, C]: `out`, or a `DeviceArray` with ``__dlpack__`` and ``__cuda_array_interface__``.

    Raises:
        UsageError: Another precision.
        BackendMissingError: There is no driver, no GPU or no NVRTC.
        GantkError: An array is not in GPU memory or is not as it must be, or the driver fails.
    """
    return calls.gram_matrix(_Run(stream, workspace), features, scale, precision, out)


def gram_matrix_grad(
    grad: Any,
    features: Any,
    scale: float | None = None,
    *,
    precision: str = "exact",
    out: Any = None,
    workspace: Any = None,
    stream: Any = None,
) -> Any:
    """The gradient of `gram_matrix` with respect to the features, ``(grad + grad^T) F * scale``.

    Args:
        grad: float32[N, C, C] of any strides, the gradient with respect to the Gram matrices.
        features: As they were given to `gram_matrix`.
        scale: Likewise.
        precision: Likewise.
        out: Where to write, contiguous or channels last; a fresh array by default.
        workspace: As for `gram_matrix`.
        stream: Likewise.

    Returns:
        The shape and type of `features`, channels last where they are, else contiguous. Sums are float32.

    Raises:
        UsageError: As `gram_matrix`.
        BackendMissingError: Likewise.
        GantkError: Likewise, or `grad` has another shape.
    """
    return calls.gram_matrix_grad(_Run(stream, workspace), grad, features, scale, precision, out)


def style_loss(
    features: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[float],
    *,
    precision: str = "exact",
    with_gradient: bool = False,
    out: Any = None,
    workspace: Any = None,
    stream: Any = None,
) -> Any:
    """The style loss of each picture: over layers, the sum of ``weight * mean((G - target)^2)``, all in one go.

    `gantk.ops.style_loss` describes it. Sums are float32, in a fixed order.

    Args:
        features: Of each of up to eight layers, as for `gram_matrix`; N is the same for all.
        targets: Of each layer the Gram matrices float32[C, C] of one style, or float32[N, C, C] of one for each
            picture; contiguous.
        weights: Of each layer.
        precision: As for `gram_matrix`.
        with_gradient: Whether the gradient of each picture's loss with respect to its features is wanted too.
        out: Where to write: float32[N] for the loss, with gradients a pair of it and a list of arrays.
        workspace: As for `gram_matrix`, for the larger need of the loss and of its gradient.
        stream: As for `gram_matrix`; it must not be captured, since the Gram matrices want memory of their own.

    Returns:
        The loss float32[N], or a pair of it and a list of gradients, as `gram_matrix_grad` gives them.

    Raises:
        UsageError: As `gram_matrix`.
        BackendMissingError: Likewise.
        GantkError: Likewise, or what is given does not go together.
    """
    run = _Run(stream, workspace)
    return calls.style_loss(run, features, targets, weights, precision, with_gradient, out)


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
        workspace: As for `gram_matrix`.
        stream: Likewise.

    Returns:
        The values, float32[N], or a pair of these and the gradient, of the shape and type of the pictures, channels
        last where they are, else contiguous. Fresh arrays have ``__dlpack__`` and ``__cuda_array_interface__``.

    Raises:
        UsageError: Another kind, or an eps that is no number above 0.
        BackendMissingError: There is no driver, no GPU or no NVRTC.
        GantkError: An array is not in GPU memory or is not as it must be, or the driver fails.
    """
    return calls.total_variation(_Run(stream, workspace), pictures, kind, eps, with_gradient, out)


class _Run(calls.Run):
    """On arrays of any library, by the driver alone."""

    def __init__(self, stream: Any, workspace: Any) -> None:
        self._stream = Stream.of(stream)
        self._workspace = workspace
        self._gpu: GPU | None = None

    def see(self, value: Any, name: str) -> View:
        seen = view(value, name, self._stream)
        if self._gpu is None:
            self._gpu = gpu(seen.ordinal)
        return seen

    @property
    def gpu(self) -> GPU:
        assert self._gpu is not None  # Every operation sees its arrays first.
        return self._gpu

    @property
    def device(self) -> Device:
        return self.gpu.device

    def empty(
        self, name: str, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] | None = None
    ) -> tuple[DeviceArray, View]:
        fresh = DeviceArray(self.gpu, shape, dtype, self._stream, strides)
        return fresh, fresh.view(name)

    def ones(self, count: int) -> View:
        _, found = self.empty("ones", (count,), "float32")
        with self.gpu.current():
            call("cuMemsetD32Async", found.address, calls.ONE, count, self._stream.handle)
        return found

    def enqueue(self, *works: Work) -> None:
        size_bytes = max(work.workspace_bytes for work in works)
        memory = None  # Freed in the stream's order when this returns: after the launches.
        address = 0
        if self._workspace is not None:
            given = view(self._workspace, "workspace", self._stream)
            address = check_workspace(given, size_bytes, self.gpu.ordinal)
        elif size_bytes:
            memory = Memory(self.gpu, size_bytes, self._stream)
            address = memory.address
        for work in works:
            launch(self.gpu, work.launches(address), self._stream.handle)
        del memory
