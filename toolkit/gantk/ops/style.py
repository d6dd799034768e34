# SPDX-License-Identifier: Apache-2.0
"""`gantk::style_loss`, how far Gram matrices of several layers are from those of a style, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gantk.errors import GantkError
from gantk.ops.gram import check_features, gram_matrix_grad_op, gram_matrix_op
from gantk.ops.layout import empty_dense_like, sum_dtype


def style_loss(features: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The style loss of each picture: over layers, the sum of ``weight * mean((G - target)^2)``.

    G is `gram_matrix` of a layer's features with its default scale 1 / (H * W), and the mean is over its C * C
    elements (Gatys et al., CVPR 2016, equations 4 and 5, but for a factor of 4). One call for all layers.

    Args:
        features: Of each layer float[N, C, H, W] or float[N, C, K]; N and the type are the same for all.
        targets: Of each layer the Gram matrices float[C, C] of one style, or float[N, C, C] of one for each
            picture. They get no gradient.
        weights: Of each layer.

    Returns:
        [N], float64 for float64 features, else float32; sums are in that type.

    Raises:
        GantkError: There is no layer, the numbers of layers differ, or shapes do not go together.
    """
    loss: Tensor = style_loss_op(list(features), [target.detach() for target in targets], list(weights))[0]
    return loss


def style_loss_reference(
    features: list[Tensor], targets: list[Tensor], weights: list[float]
) -> tuple[Tensor, Tensor]:
    """The loss [N], and for the gradient all layers' ``G - target``, one after the other, [N, sum of C * C]."""
    check_layers(features, targets, weights)
    sizes = [layer.shape[1] ** 2 for layer in features]
    differences = empty_differences(features)
    loss = differences.new_zeros(len(differences))
    pieces = differences.split_with_sizes(sizes, dim=1)
    for layer, target, weight, piece in zip(features, targets, weights, pieces, strict=True):
        square = piece.view(len(piece), *target.shape[-2:])
        torch.sub(gram_matrix_op(layer), target.to(square.dtype), out=square)
        loss += torch.linalg.vector_norm(piece, dim=1).square_() * (weight / piece.shape[1])
    return loss, differences


style_loss_op = torch.library.custom_op("gantk::style_loss", style_loss_reference, mutates_args=())


@style_loss_op.register_fake
def _(features: list[Tensor], targets: list[Tensor], weights: list[float]) -> tuple[Tensor, Tensor]:
    check_layers(features, targets, weights)
    differences = empty_differences(features)
    return differences.new_empty(differences.shape[:1]), differences


def style_loss_grad_reference(
    grad: Tensor, features: list[Tensor], differences: Tensor, weights: list[float]
) -> list[Tensor]:
    """The gradient with respect to each layer's features, given that of the loss [N] and the differences."""
    sizes = [layer.shape[1] ** 2 for layer in features]
    gradients = []
    for layer, weight, piece in zip(
        features, weights, differences.split_with_sizes(sizes, dim=1), strict=True
    ):
        slopes = piece * (grad[:, None] * (2.0 * weight / piece.shape[1]))
        gradients.append(gram_matrix_grad_op(slopes.view(-1, layer.shape[1], layer.shape[1]), layer))
    return gradients


style_loss_grad_op = torch.library.custom_op(
    "gantk::style_loss_grad", style_loss_grad_reference, mutates_args=()
)


@style_loss_grad_op.register_fake
def _(grad: Tensor, features: list[Tensor], differences: Tensor, weights: list[float]) -> list[Tensor]:
    return [empty_dense_like(layer) for layer in features]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What `make_fx(decomposition_table=)` or `run_decompositions` makes of a style loss for an exporter.

    A graph then has `gantk::gram_matrix` and `gantk::gram_matrix_grad` and plain arithmetic.
    """
    return {
        torch.ops.gantk.style_loss.default: _style_loss,
        torch.ops.gantk.style_loss_grad.default: style_loss_grad_reference,
    }


def _style_loss(features: list[Tensor], targets: list[Tensor], weights: list[float]) -> tuple[Tensor, Tensor]:
    pieces, loss = [], None
    for layer, target, weight in zip(features, targets, weights, strict=True):
        difference = gram_matrix_op(layer) - target
        share = (difference * difference).mean((1, 2)) * weight
        loss = share if loss is None else loss + share
        pieces.append(difference.flatten(1))
    assert loss is not None  # `check_layers` saw to it.
    return loss, torch.cat(pieces, dim=1)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, _, ctx.weights = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *features)


def _differentiate(
    ctx: Any, grad: Tensor | None, _: Tensor | None
) -> tuple[list[Tensor] | list[None], list[None], None]:
    differences, *features = ctx.saved_tensors
    if grad is None:
        return [None] * len(features), [None] * len(features), None
    gradients = style_loss_grad_op(grad, features, differences, ctx.weights)
    return gradients, [None] * len(features), None


style_loss_op.register_autograd(_differentiate, setup_context=_keep)


def empty_differences(features: list[Tensor]) -> Tensor:
    """Room for all layers' ``G - target``, one after the other, [N, sum of C * C]."""
    total = sum(layer.shape[1] ** 2 for layer in features)
    return features[0].new_empty(features[0].shape[0], total, dtype=sum_dtype(features[0]))


def check_layers(features: list[Tensor], targets: list[Tensor], weights: list[float]) -> None:
    """Raise a `GantkError` where features, targets and weights do not go together."""
    if not features or len(features) != len(targets) or len(features) != len(weights):
        raise GantkError(
            f"{len(features)} layers, {len(targets)} targets and {len(weights)} weights; "
            "as many of each are wanted, and at least one"
        )
    for layer, target in zip(features, targets, strict=True):
        check_features(layer)
        count, channels = layer.shape[:2]
        if count != features[0].shape[0] or layer.dtype != features[0].dtype:
            raise GantkError("the layers differ in their number of pictures or their type")
        if tuple(target.shape) not in (
            (channels, channels),
            (1, channels, channels),
            (count, channels, channels),
        ):
            raise GantkError(
                f"a target has shape {list(target.shape)}; {[channels, channels]} or "
                f"{[count, channels, channels]} belongs to features {list(layer.shape)}"
            )
