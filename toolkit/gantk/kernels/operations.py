# SPDX-License-Identifier: Apache-2.0
"""The operations, once for all front ends: arrays are checked, and what becomes of them is planned.

A front end sees its arrays as `View`s, allocates the results and a workspace, and launches in its own way. Every error
here comes before anything is launched; a front end that has another way takes it then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gantk.errors import GantkError
from gantk.kernels.gram_gradient_plan import GradientStyle, plan_gram_gradient
from gantk.kernels.gram_plan import GramTargets, plan_gram
from gantk.kernels.launch import Device, Launch
from gantk.kernels.layouts import (
    check_layers,
    check_result,
    features_of,
    gram_shape,
    pictures_of,
    target_stride,
)
from gantk.kernels.variation_plan import plan_variation
from gantk.runtime.views import View

_PLANS = 256  # Kept of each kind: a training or a style transfer has few shapes.

# Kept plans; called for themselves they refuse what no kernel takes before any memory is taken for it.
gram_plan = lru_cache(_PLANS)(plan_gram)
gradient_plan = lru_cache(_PLANS)(plan_gram_gradient)
variation_plan = lru_cache(_PLANS)(plan_variation)


@dataclass(frozen=True)
class Work:
    """Launches that want but a workspace.

    Args:
        workspace_bytes: How much, at a multiple of 256 bytes, of any content; it may be 0.
        launches: Gives them, to be run in order, for the workspace's address.
    """

    workspace_bytes: int
    launches: Callable[[int], Sequence[Launch]]


def gram_matrix(device: Device, features: View, gram: View, scale: float | None, precision: str) -> Work:
    """Plan the Gram matrices of features.

    Args:
        device: Where.
        features: float[N, C, H, W] or float[N, C, K].
        gram: float32[N, C, C].
        scale: By default 1 / (H * W).
        precision: One of `PRECISIONS`, for float32 features.

    Raises:
        UsageError: Another precision.
        GantkError: Features that the kernels do not take, or a result that does not belong to them.
    """
    plan = gram_plan((features_of(features),), device, precision)
    check_result(gram, gram_shape(features), "float32", features)
    scales = None if scale is None else [scale]
    return Work(
        plan.workspace_bytes,
        lambda workspace: plan.launches([features.address], [gram.address], workspace, scales=scales),
    )


def style_loss(
    device: Device,
    features: Sequence[View],
    targets: Sequence[View],
    weights: Sequence[float],
    loss: View,
    differences: View,
    precision: str,
) -> Work:
    """Plan the style loss of up to eight layers, as `gantk.ops.style_loss` describes it.

    Args:
        device: Where.
        features: Of each layer, as for `gram_matrix`.
        targets: Of each layer float32[C, C], float32[1, C, C] or float32[N, C, C].
        weights: Of each layer.
        loss: float32[N].
        differences: float32[N, sum of C * C], all layers' Gram matrices less their targets.
        precision: One of `PRECISIONS`, for float32 features.

    Raises:
        UsageError: Another precision.
        GantkError: What does not go together, or what the kernels do not take.
    """
    check_layers(features, targets, weights)
    laid = tuple(features_of(layer) for layer in features)
    plan = gram_plan(laid, device, precision, style=True)
    strides = [target_stride(target, layer) for target, layer in zip(targets, laid, strict=True)]
    sizes = [layer.shape[1] ** 2 for layer in laid]
    check_result(differences, (plan.pictures, sum(sizes)), "float32", *features, *targets)
    check_result(loss, (plan.pictures,), "float32", differences, *features, *targets)
    wanted = GramTargets([target.address for target in targets], strides, weights, loss.address)
    places = [differences.address + 4 * start for start in _starts(sizes)]
    return Work(
        plan.workspace_bytes,
        lambda workspace: plan.launches(
            [layer.address for layer in features],
            places,
            workspace,
            gram_strides=[sum(sizes)] * len(sizes),
            targets=wanted,
        ),
    )


def gram_matrix_grad(
    device: Device, grad: View, features: View, gradient: View, scale: float | None, precision: str
) -> Work:
    """Plan the gradient of `gram_matrix` with respect to the features, ``(grad + grad^T) F * scale``.

    Args:
        device: Where.
        grad: float32[N, C, C] of any strides, need not be symmetric.
        features: As for `gram_matrix`.
        gradient: The shape and type of the features.
        scale: As for `gram_matrix`.
        precision: Likewise.

    Raises:
        UsageError: Another precision.
        GantkError: What does not go together, or what the kernels do not take.
    """
    laid, into = features_of(features), features_of(gradient)
    plan = gradient_plan((laid,), device, precision, results=(into,))
    if (grad.shape, grad.dtype) != (gram_shape(features), "float32") or min(grad.strides) < 0:
        raise GantkError(f"{grad} does not belong to {features}; float32{list(gram_shape(features))} does")
    check_result(gradient, features.shape, features.dtype, features, grad)
    scales = None if scale is None else [scale]
    by_picture, by_row, by_column = grad.strides
    return Work(
        plan.workspace_bytes,
        lambda workspace: plan.launches(
            [grad.address],
            [features.address],
            [gradient.address],
            workspace,
            scales=scales,
            gradient_strides=[(by_picture, by_row, by_column)],
        ),
    )


def style_loss_grad(
    device: Device,
    upstream: View,
    features: Sequence[View],
    differences: View,
    weights: Sequence[float],
    gradients: Sequence[View],
    precision: str,
) -> Work:
    """Plan the gradient of `style_loss` with respect to each layer's features.

    Args:
        device: Where.
        upstream: float32[N], the gradient with respect to each picture's loss.
        features: As for `style_loss`.
        differences: As `style_loss` wrote them.
        weights: As for `style_loss`.
        gradients: Of each layer, the shape and type of its features.
        precision: As for `style_loss`.

    Raises:
        UsageError: Another precision.
        GantkError: What does not go together, or what the kernels do not take.
    """
    check_layers(features, gradients, weights)
    laid = tuple(features_of(layer) for layer in features)
    into = tuple(features_of(gradient) for gradient in gradients)
    plan = gradient_plan(laid, device, precision, results=into)
    sizes = [layer.shape[1] ** 2 for layer in laid]
    for given, shape in ((upstream, (plan.pictures,)), (differences, (plan.pictures, sum(sizes)))):
        if (given.shape, given.dtype) != (shape, "float32") or min(given.strides) < 0:
            raise GantkError(f"{given} does not belong to the features; float32{list(shape)} does")
    if not differences.is_contiguous():
        raise GantkError(
            f"{differences} has strides {list(differences.strides)}; a contiguous array is wanted"
        )
    for index, (layer, gradient) in enumerate(zip(features, gradients, strict=True)):
        others = (*features, upstream, differences, *gradients[:index])
        check_result(gradient, layer.shape, layer.dtype, *others)
    style = GradientStyle(weights, upstream.address, upstream.strides[0])
    return Work(
        plan.workspace_bytes,
        lambda workspace: plan.launches(
            [differences.address + 4 * start for start in _starts(sizes)],
            [layer.address for layer in features],
            [gradient.address for gradient in gradients],
            workspace,
            gradient_strides=[(sum(sizes), layer.shape[1], 1) for layer in laid],
            style=style,
        ),
    )


def total_variation(
    device: Device, pictures: View, value: View, gradient: View | None, kind: str, eps: float
) -> Work:
    """Plan the total variation of pictures.

    Args:
        device: Where.
        pictures: float[N, C, H, W].
        value: float32[N].
        gradient: The shape and type of the pictures; `None` for the value alone.
        kind: As `gantk.ops.total_variation` describes it.
        eps: Likewise.

    Raises:
        UsageError: Another kind, or an eps that is no number above 0.
        GantkError: Pictures that the kernels do not take, or a result that does not belong to them.
    """
    into = None if gradient is None else pictures_of(gradient)
    plan = variation_plan(pictures_of(pictures), kind, eps, device, into)
    check_result(value, pictures.shape[:1], "float32", pictures)
    if gradient is not None:
        check_result(gradient, pictures.shape, pictures.dtype, pictures, value)
    slope = 0 if gradient is None else gradient.address
    return Work(
        plan.workspace_bytes,
        lambda workspace: plan.launches(pictures.address, value.address, slope, workspace),
    )


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where each part of an array begins."""
    return [sum(sizes[:index]) for index in range(len(sizes))]
