# SPDX-License-Identifier: Apache-2.0
"""What a picture is wanted to be like, in content, style and variation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gantk.models.vgg import Vgg19
from gantk.ops.variation import total_variation_op


@dataclass(frozen=True)
class Content:
    """What one layer's features are to be like.

    Args:
        target: [1, C, H, W].
        coefficient: Of the sum of squared differences.
    """

    target: Tensor
    coefficient: float


@dataclass(frozen=True)
class Style:
    """What the Gram matrices of a region are to be like.

    Args:
        layers: Their names.
        targets: Of each layer [C, C].
        coefficients: Of each layer, of the mean squared difference.
        masks: Of each layer [1, 1, H, W] with a mean square of 1, by which features are multiplied; or none.
    """

    layers: tuple[str, ...]
    targets: list[Tensor]
    coefficients: list[float]
    masks: list[Tensor] | None = None

    def masked(self, index: int, features: Tensor, window: tuple[slice, slice] | None = None) -> Tensor:
        """The features of layer `index`, or of a window of it, where the style counts."""
        if self.masks is None:
            return features
        mask = self.masks[index]
        return features * (mask if window is None else mask[:, :, window[0], window[1]])


@dataclass(frozen=True)
class Objective:
    """A loss that can be measured on pictures of one size.

    Args:
        network: What makes features.
        content: By layer.
        styles: One, or one for each region.
        variation: The kind of total variation.
        variation_coefficient: Of the total variation.
    """

    network: Vgg19
    content: dict[str, Content]
    styles: tuple[Style, ...]
    variation: str
    variation_coefficient: float


def add_variation(objective: Objective, picture: Tensor, gradient: Tensor) -> float:
    """The variation loss of a picture, whose gradient is added in place."""
    if objective.variation_coefficient == 0:
        return 0.0
    value, slope = total_variation_op(picture, objective.variation)
    gradient.add_(slope, alpha=objective.variation_coefficient)
    return float(value) * objective.variation_coefficient


def cast(picture: Tensor, network: Vgg19) -> Tensor:
    """A picture as the network computes: in its type, channels last."""
    return picture.to(dtype=network.mean.dtype, memory_format=torch.channels_last)


def sums_in(network: Vgg19) -> torch.dtype:
    """The type of losses and Gram matrices of a network: float64 for float64, else float32."""
    return torch.float64 if network.mean.dtype == torch.float64 else torch.float32
