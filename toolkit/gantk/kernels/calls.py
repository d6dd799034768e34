# SPDX-License-Identifier: Apache-2.0
"""What a call of each operation does, whichever library the arrays are of: see them, allocate, plan, launch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from gantk.errors import GantkError
from gantk.kernels import operations
from gantk.kernels.launch import Device
from gantk.kernels.layouts import check_layers, features_of, gram_shape, pictures_of
from gantk.kernels.operations import Work
from gantk.runtime.views import View, channels_last

ONE = 0x3F800000  # The bits of 1.0f.


class Run(ABC):
    """One call on one GPU and stream, in the ways of one library."""

    @abstractmethod
    def see(self, value: Any, name: str) -> View:
        """An array of the caller's; the first one says which GPU does the work."""

    @property
    @abstractmethod
    def device(self) -> Device:
        """The GPU, once an array was seen."""

    @abstractmethod
    def empty(
        self, name: str, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] | None = None
    ) -> tuple[Any, View]:
        """A fresh array of any content and its view; strides are in elements, those of C by default."""

    @abstractmethod
    def ones(self, count: int) -> View:
        """A fresh float32[count] of ones."""

    @abstractmethod
    def enqueue(self, *works: Work) -> None:
        """Launch one work after the other, all in one workspace."""

    def result(self, name: str, out: Any, shape: tuple[int, ...], dtype: str) -> tuple[Any, View]:
        """An array to return and its view: the caller's `out`, or a fresh one."""
        return self.empty(name, shape, dtype) if out is None else (out, self.see(out, "out"))

    def result_like(self, given: View, out: Any) -> tuple[Any, View]:
        """Likewise, of the shape and type of an array, channels last where that is."""
        if out is not None:
            return out, self.see(out, "out")
        strides = channels_last(given.shape) if given.is_channels_last() else None
        return self.empty("gradient", given.shape, given.dtype, strides)


def gram_matrix(run: Run, features: Any, scale: float | None, precision: str, out: Any) -> Any:
    """The call of `gantk.kernels.gram_matrix`."""
    given = run.see(features, "features")
    operations.gram_plan((features_of(given),), run.device, precision)
    gram, into = run.result("gram", out, gram_shape(given), "float32")
    run.enqueue(operations.gram_matrix(run.device, given, into, scale, precision))
    return gram


def gram_matrix_grad(
    run: Run, grad: Any, features: Any, scale: float | None, precision: str, out: Any
) -> Any:
    """The call of `gantk.kernels.gram_matrix_grad`."""
    given, outer = run.see(features, "features"), run.see(grad, "grad")
    operations.gradient_plan((features_of(given),), run.device, precision)
    gradient, into = run.result_like(given, out)
    run.enqueue(operations.gram_matrix_grad(run.device, outer, given, into, scale, precision))
    return gradient


def style_loss(
    run: Run,
    features: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[float],
    precision: str,
    with_gradient: bool,
    out: Any,
) -> Any:
    """The call of `gantk.kernels.style_loss`; views keep what is allocated until all is enqueued."""
    layers = [run.see(layer, f"features[{index}]") for index, layer in enumerate(features)]
    wanted = [run.see(target, f"targets[{index}]") for index, target in enumerate(targets)]
    check_layers(layers, wanted, weights)
    laid = tuple(features_of(layer) for layer in layers)
    device = run.device
    plan = operations.gram_plan(laid, device, precision, style=True)
    outs = _pair(out) if with_gradient else (out, None)
    loss, into = run.result("loss", outs[0], (plan.pictures,), "float32")
    size = sum(layer.shape[1] ** 2 for layer in laid)
    _, differences = run.empty("differences", (plan.pictures, size), "float32")
    forward = operations.style_loss(device, layers, wanted, weights, into, differences, precision)
    if not with_gradient:
        run.enqueue(forward)
        return loss
    given = outs[1] if outs[1] is not None else [None] * len(layers)
    if len(given) != len(layers):
        raise GantkError(f"out has {len(given)} gradients; {len(layers)} are wanted, one of each layer")
    gradients = [run.result_like(layer, each) for layer, each in zip(layers, given, strict=True)]
    views = [each for _, each in gradients]
    ones = run.ones(plan.pictures)
    backward = operations.style_loss_grad(device, ones, layers, differences, weights, views, precision)
    run.enqueue(forward, backward)
    return loss, [gradient for gradient, _ in gradients]


def total_variation(run: Run, pictures: Any, kind: str, eps: float, with_gradient: bool, out: Any) -> Any:
    """The call of `gantk.kernels.total_variation`."""
    given = run.see(pictures, "pictures")
    laid = pictures_of(given)
    operations.variation_plan(laid, kind, eps, run.device, None)
    outs = _pair(out) if with_gradient else (out, None)
    value, into = run.result("value", outs[0], given.shape[:1], "float32")
    gradient, slope = run.result_like(given, outs[1]) if with_gradient else (None, None)
    run.enqueue(operations.total_variation(run.device, given, into, slope, kind, eps))
    return (value, gradient) if with_gradient else value


def _pair(out: Any) -> tuple[Any, Any]:
    if out is None:
        return None, None
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise GantkError(f"out is a {type(out).__name__}; a pair is wanted, of value and gradient")
    return out[0], out[1]
