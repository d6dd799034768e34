# SPDX-License-Identifier: Apache-2.0
"""`gantk::gram_matrix`, which channels of features go together, and `gantk::gram_matrix_grad`, its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gantk.errors import GantkError
from gantk.ops.layout import empty_dense_like, sum_dtype

_STRIP = 64  # Rows of the triangle at a time; 128 were slower, 32 too.
_CHUNK = 2**20  # Elements of halves that are widened at a time.


def gram_matrix(features: Tensor, scale: float | None = None) -> Tensor:
    """The Gram matrices of features, ``G = F F^T * scale`` (Gatys et al., CVPR 2016, equation 3, scaled).

    Args:
        features: float[N, C, H, W] or float[N, C, K], where K stands for H * W; any strides.
        scale: By default 1 / (H * W), which makes features of all sizes comparable.

    Returns:
        [N, C, C], float64 for float64, else float32. Sums are in that type, and halves are widened before they
        are multiplied.

    Raises:
        GantkError: The features have other axes, none of a kind, or another type.
    """
    gram: Tensor = gram_matrix_op(features, scale)
    return gram


def gram_matrix_grad(grad: Tensor, features: Tensor, scale: float | None = None) -> Tensor:
    """The gradient of `gram_matrix` with respect to the features, ``(grad + grad^T) F * scale``.

    Args:
        grad: float[N, C, C], the gradient with respect to the Gram matrices.
        features: As they were given to `gram_matrix`.
        scale: As it was given to `gram_matrix`.

    Returns:
        The shape and type of `features`, channels last where they are, else contiguous; sums are float64 for
        float64, else float32.

    Raises:
        GantkError: As `gram_matrix`, or `grad` has another shape.
    """
    gradient: Tensor = gram_matrix_grad_op(grad, features, scale)
    return gradient


def check_features(features: Tensor) -> None:
    """Raise a `GantkError` where a tensor is no features."""
    if features.ndim not in (3, 4) or any(size == 0 for size in features.shape):
        raise GantkError(f"features have shape {list(features.shape)}; N x C x H x W or N x C x K is wanted")
    sum_dtype(features)


def gram_matrix_reference(features: Tensor, scale: float | None = None) -> Tensor:
    """`gram_matrix` by torch's own products, on any device."""
    check_features(features)
    flat = features.flatten(2)
    count, channels, places = flat.shape
    scale = 1.0 / places if scale is None else scale
    gram = flat.new_empty(count, channels, channels, dtype=sum_dtype(flat))
    # Half of the matrix mirrors the other. On a CPU its strips are faster than the whole, from 3/4 of the time
    # with 128 channels to 2/3 with 512; other devices rather have few launches.
    strip = _STRIP if flat.device.type == "cpu" else channels
    for first, chunk in _widened(flat, gram.dtype):
        for top in range(0, channels, strip):
            rows = gram[:, top : top + strip, : top + strip]
            left, right = chunk[:, top : top + strip], chunk[:, : top + strip].mT
            torch.baddbmm(rows, left, right, beta=float(first > 0), alpha=scale, out=rows)
    for top in range(strip, channels, strip):
        gram[:, :top, top : top + strip] = gram[:, top : top + strip, :top].mT
    return gram


gram_matrix_op = torch.library.custom_op("gantk::gram_matrix", gram_matrix_reference, mutates_args=())


@gram_matrix_op.register_fake
def _(features: Tensor, scale: float | None = None) -> Tensor:
    check_features(features)
    count, channels = features.shape[:2]
    return features.new_empty(count, channels, channels, dtype=sum_dtype(features))


def gram_matrix_grad_reference(grad: Tensor, features: Tensor, scale: float | None = None) -> Tensor:
    """`gram_matrix_grad` by torch's own products, on any device."""
    check_grad(grad, features)
    gradient = empty_dense_like(features)
    flat, into = features.flatten(2), gradient.flatten(2)
    dtype, places = sum_dtype(features), flat.shape[2]
    both = (grad + grad.mT).to(dtype) * (1.0 / places if scale is None else scale)
    for first, chunk in _widened(flat, dtype):
        part = into[:, :, first : first + chunk.shape[2]]
        if part.dtype != dtype:
            part.copy_(both @ chunk)
        elif part.stride(1) == 1:  # Channels last: the product of the transposed lies as it is wanted.
            torch.bmm(chunk.mT, both, out=part.mT)
        else:
            torch.bmm(both, chunk, out=part)
    return gradient


gram_matrix_grad_op = torch.library.custom_op(
    "gantk::gram_matrix_grad", gram_matrix_grad_reference, mutates_args=()
)


@gram_matrix_grad_op.register_fake
def _(grad: Tensor, features: Tensor, scale: float | None = None) -> Tensor:
    check_grad(grad, features)
    return empty_dense_like(features)


def check_grad(grad: Tensor, features: Tensor) -> None:
    """Raise a `GantkError` where a gradient does not belong to the Gram matrices of features."""
    check_features(features)
    count, channels = features.shape[:2]
    if grad.shape != (count, channels, channels):
        raise GantkError(
            f"the gradient of Gram matrices has shape {list(grad.shape)}; "
            f"{[count, channels, channels]} belongs to features {list(features.shape)}"
        )


def _widened(flat: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """Features [N, C, K] in pieces of K, each after its beginning; what has the type already stays whole."""
    count, channels, places = flat.shape
    step = places if flat.dtype == dtype else max(1, _CHUNK // (count * channels))
    for first in range(0, places, step):
        yield first, flat[:, :, first : first + step].to(dtype)


def _keep_for_gram(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, ctx.scale = inputs
    ctx.save_for_backward(features)


def _differentiate_gram(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (features,) = ctx.saved_tensors
    return gram_matrix_grad(grad, features, ctx.scale), None


gram_matrix_op.register_autograd(_differentiate_gram, setup_context=_keep_for_gram)


def _keep_for_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, features, ctx.scale = inputs
    ctx.save_for_backward(grad, features)


def _differentiate_grad(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None]:
    grad, features = ctx.saved_tensors
    flat, given = features.flatten(2), outer.flatten(2)
    scale = 1.0 / flat.shape[2] if ctx.scale is None else ctx.scale
    half = given.to(grad.dtype) @ flat.to(grad.dtype).mT * scale
    return half + half.mT, gram_matrix_grad(grad, outer, ctx.scale), None


gram_matrix_grad_op.register_autograd(_differentiate_grad, setup_context=_keep_for_grad)
