# SPDX-License-Identifier: Apache-2.0
"""The operations on arrays of any library that shares GPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gantk.errors import GantkError
from gantk.kernels import operations
from gantk.kernels.arrays import View, channels_last, view
from gantk.kernels.device import gpu
from gantk.kernels.driver import call
from gantk.kernels.launcher import launch
from gantk.kernels.layouts import check_layers, check_workspace, features_of, gram_shape, pictures_of
from gantk.kernels.memory import DeviceArray, Memory
from gantk.kernels.operations import Work
from gantk.kernels.streams import Stream

_ONE = 0x3F800000  # The bits of 1.0f.


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
        stream: On which to work, the default stream by default. Nothing is waited for.

    Returns:
        float32[N, C, C]: `out`, or a `DeviceArray` with ``__dlpack__`` and ``__cuda_array_interface__``.

    Raises:
        UsageError: Another precision.
        BackendMissingError: There is no driver, no GPU or no NVRTC.
        GantkError: An array is not in GPU memory or is not as it must be, or the driver fails.
    """
    at = Stream.of(stream)
    given = view(features, "features", at)
    laid = features_of(given)
    run = _Run(given, at, workspace)
    operations.gram_plan((laid,), run.device, precision)
    gram, into = run.result("gram", out, gram_shape(given), "float32")
    run.enqueue(operations.gram_matrix(run.device, given, into, scale, precision))
    return gram


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
    at = Stream.of(stream)
    given, outer = view(features, "features", at), view(grad, "grad", at)
    features_of(given)
    run = _Run(given, at, workspace)
    gradient, into = run.result_like(given, out)
    run.enqueue(operations.gram_matrix_grad(run.device, outer, given, into, scale, precision))
    return gradient


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
        stream: As for `gram_matrix`.

    Returns:
        The loss float32[N], or a pair of it and a list of gradients, as `gram_matrix_grad` gives them.

    Raises:
        UsageError: As `gram_matrix`.
        BackendMissingError: Likewise.
        GantkError: Likewise, or what is given does not go together.
    """
    at = Stream.of(stream)
    layers = [view(layer, f"features[{index}]", at) for index, layer in enumerate(features)]
    wanted = [view(target, f"targets[{index}]", at) for index, target in enumerate(targets)]
    check_layers(layers, wanted, weights)
    laid = tuple(features_of(layer) for layer in layers)
    run = _Run(layers[0], at, workspace)
    operations.gram_plan(laid, run.device, precision, style=True)
    outs = _pair(out) if with_gradient else (out, None)
    count = laid[0].shape[0]
    loss, loss_view = run.result("loss", outs[0], (count,), "float32")
    kept = DeviceArray(run.gpu, (count, sum(layer.shape[1] ** 2 for layer in laid)), "float32", at)
    differences = kept.view("differences")
    device = run.device
    works = [operations.style_loss(device, layers, wanted, weights, loss_view, differences, precision)]
    gradients = []
    if with_gradient:
        ones = run.ones(count)
        results = [
            run.result_like(layer, each)
            for layer, each in zip(layers, outs[1] or [None] * len(layers), strict=True)
        ]
        gradients = [gradient for gradient, _ in results]
        into = [each for _, each in results]
        works.append(operations.style_loss_grad(device, ones, layers, differences, weights, into, precision))
    run.enqueue(*works)
    return (loss, gradients) if with_gradient else loss


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
    at = Stream.of(stream)
    given = view(pictures, "pictures", at)
    pictures_of(given)
    run = _Run(given, at, workspace)
    outs = _pair(out) if with_gradient else (out, None)
    value, value_view = run.result("value", outs[0], given.shape[:1], "float32")
    gradient, into = run.result_like(given, outs[1]) if with_gradient else (None, None)
    run.enqueue(operations.total_variation(run.device, given, value_view, into, kind, eps))
    return (value, gradient) if with_gradient else value


class _Run:
    """One call on one GPU and stream."""

    def __init__(self, given: View, stream: Stream, workspace: Any) -> None:
        self.gpu = gpu(given.ordinal)
        self.device = self.gpu.device
        self._stream = stream
        self._workspace = None if workspace is None else view(workspace, "workspace", stream)

    def result(
        self, name: str, out: Any, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] | None = None
    ) -> tuple[Any, View]:
        """An array to return and its view: the caller's `out`, or a fresh one."""
        if out is not None:
            return out, view(out, "out", self._stream)
        fresh = DeviceArray(self.gpu, shape, dtype, self._stream, strides)
        return fresh, fresh.view(name)

    def result_like(self, given: View, out: Any) -> tuple[Any, View]:
        """Likewise, of the shape and type of an array, channels last where that is."""
        strides = channels_last(given.shape) if given.is_channels_last() else None
        return self.result("gradient", out, given.shape, given.dtype, strides)

    def ones(self, count: int) -> View:
        """A fresh float32[count] of ones."""
        array = DeviceArray(self.gpu, (count,), "float32", self._stream)
        found = array.view("ones")
        with self.gpu.current():
            call("cuMemsetD32Async", found.address, _ONE, count, self._stream.handle)
        return found

    def enqueue(self, *works: Work) -> None:
        """Launch one work after the other, all in one workspace."""
        size_bytes = max(work.workspace_bytes for work in works)
        memory = None  # Goes back in the stream's order when this returns, that is after the launches.
        if self._workspace is not None:
            address = check_workspace(self._workspace, size_bytes, self.gpu.ordinal)
        elif size_bytes:
            memory = Memory(self.gpu, size_bytes, self._stream)
            address = memory.address
        else:
            address = 0
        for work in works:
            launch(self.gpu, work.launches(address), self._stream.handle)
        del memory


def _pair(out: Any) -> tuple[Any, Any]:
    if out is None:
        return None, None
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise GantkError(f"out is a {type(out).__name__}; a pair is wanted, of value and gradient")
    return out[0], out[1]
