# SPDX-License-Identifier: Apache-2.0
"""From pictures to an objective: target features, Gram matrices and the coefficients of the losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.errors import GantkError
from gantk.gatys.config import GatysConfig
from gantk.gatys.layers import Judge
from gantk.gatys.objective import Content, Objective, Style
from gantk.gatys.tiles import compute_features, compute_grams
from gantk.models.vgg import Vgg19

_FIRST_WEIGHTS = 11.03
"""The deviation of the first convolution's weights in the VGG-19 of 2014, which was trained on colours of 0 to 255."""

_EMPTY = 1e-8  # The mean square of a mask that leaves nothing to compare.


@torch.no_grad()
def make_objective(
    config: GatysConfig,
    judge: Judge,
    content: Tensor,
    styles: Sequence[Tensor],
    masks: Sequence[Tensor] = (),
    style_masks: Sequence[Tensor] = (),
) -> Objective:
    """Compute what is wanted from the pictures.

    Args:
        config: The weights, and how losses are measured.
        judge: The network and its layers.
        content: float[1, 3, H, W] in [0, 1].
        styles: The style pictures, likewise, each of its own size.
        masks: Of each style float[1, 1, H, W] in [0, 1], where the picture takes it.
        style_masks: Of each style float[1, 1, h, w] in [0, 1] of its own size, where it is taken from.

    Raises:
        GantkError: A mask leaves nothing to compare at the size of a layer.
    """
    found: dict[str, Content] = {}
    if config.content_weight > 0:
        wanted = compute_features(judge.network, content, {name for name, _ in judge.content})
        for name, weight in judge.content:
            found[name] = Content(wanted[name], _content_coefficient(config, judge, wanted[name], weight))
    terms = _styles(config, judge, styles, masks, style_masks) if config.style_weight > 0 else ()
    places = content.numel() if config.measure == "relative" else 1
    return Objective(judge.network, found, terms, config.variation, config.variation_weight / places)


def _styles(
    config: GatysConfig,
    judge: Judge,
    pictures: Sequence[Tensor],
    masks: Sequence[Tensor],
    style_masks: Sequence[Tensor],
) -> tuple[Style, ...]:
    given = config.shares or (1.0,) * len(pictures)
    shares = [share / sum(given) for share in given]
    names, network = tuple(name for name, _ in judge.style), judge.network
    regions: list[list[Tensor] | None] = [_layer_masks(mask, names, network) for mask in style_masks]
    regions = regions or [None] * len(pictures)
    grams = [
        compute_grams(network, picture, names, region)
        for picture, region in zip(pictures, regions, strict=True)
    ]
    if not masks:
        # The sum over styles of share * (G - A)^2 is (G - mean A)^2 and a constant.
        blend = [_blend(shares, layer) for layer in zip(*grams, strict=True)]
        return (Style(names, blend, _style_coefficients(config, judge, blend, 1.0)),)
    return tuple(
        Style(
            names, gram, _style_coefficients(config, judge, gram, share), _layer_masks(mask, names, network)
        )
        for gram, share, mask in zip(grams, shares, masks, strict=True)
    )


def _blend(shares: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, each times its share."""
    total = torch.zeros_like(parts[0])
    for share, part in zip(shares, parts, strict=True):
        total.add_(part, alpha=share)
    return total


def _content_coefficient(config: GatysConfig, judge: Judge, target: Tensor, weight: float) -> float:
    share = config.content_weight * weight / sum(weight for _, weight in judge.content)
    if config.measure == "sums":
        return share * 0.5 * feature_growth(judge.network) ** 2
    return share / max(float(torch.linalg.vector_norm(target, dtype=torch.float64)) ** 2, 1e-12)


def _style_coefficients(
    config: GatysConfig, judge: Judge, targets: list[Tensor], share: float
) -> list[float]:
    whole = sum(weight for _, weight in judge.style)
    found = []
    for (_, weight), target in zip(judge.style, targets, strict=True):
        size = (
            feature_growth(judge.network) ** -4
            if config.measure == "sums"
            else max(float(target.square().mean()), 1e-12)
        )
        found.append(config.style_weight * share * weight / whole / size)
    return found


def feature_growth(network: Vgg19) -> float:
    """What features are to grow by so that they are as large as those of the lesson, which took that network.

    The weights that people have were trained on colours of other sizes; the first layer shows of which.
    """
    return _FIRST_WEIGHTS / float(network.convolutions["relu1_1"].weight.float().std())  # type: ignore[operator]


def _layer_masks(mask: Tensor, names: tuple[str, ...], network: Vgg19) -> list[Tensor]:
    """A mask at the size of each layer, with a mean square of 1."""
    found = []
    for name in names:
        small = mask
        for _ in range(int(name[4]) - 1):
            small = F.avg_pool2d(small, 2)
        power = float(small.square().mean())
        if power < _EMPTY:
            raise GantkError(
                f"a mask is as good as black at the size of {name}, {small.shape[3]} x {small.shape[2]}",
                hint="choose a larger region, or a larger --size",
            )
        found.append((small / power**0.5).to(network.mean.dtype))
    return found
