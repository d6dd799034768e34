# SPDX-License-Identifier: Apache-2.0
"""How far a picture is from a content and from a style, in the eyes of VGG-19 (Johnson et al., arXiv 1603.08155).

Every distance is relative: 0 where the features are those wanted, 1 where there are none. So content, layers and
styles weigh as much as their weights say, whatever the size of the picture and the strength of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gantk.errors import UsageError
from gantk.models import vgg
from gantk.ops import gram_matrix
from gantk.train.reporter import Reporter

CONTENT_LAYER = "relu3_3"
STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
"""The layers of the paper (section 3.1), which a file of weights may lack."""

_TINY = 1e-8


@dataclass(frozen=True)
class Layers:
    """The layers that features are compared at.

    Args:
        content: One.
        style: One or more, in the order of the network.
    """

    content: str
    style: tuple[str, ...]

    @property
    def last(self) -> str:
        """The last of all, up to which VGG-19 is needed."""
        return max(self.content, *self.style, key=vgg.LAYERS.index)


def choose_layers(
    path: str | None, content: str | None, style: Sequence[str] | None, reporter: Reporter
) -> Layers:
    """The layers asked for; where none are, the paper's as far as the file of weights goes, said in words.

    Args:
        path: The file of weights, or `None` for the one that is fetched.
        content: A layer.
        style: Layers.
        reporter: Told of a download, and of what was chosen for want of layers.

    Raises:
        UsageError: There is no such layer in VGG-19.
        GantkError: The weights cannot be had or read.
    """
    for layer in (content, *(style or ())):
        if layer is not None:
            vgg.check_layer(layer)
    last = vgg.last_layer(None if path is None else Path(path), progress=reporter.fetching)
    reach = vgg.LAYERS[: vgg.LAYERS.index(last) + 1]
    chosen = Layers(
        content or (CONTENT_LAYER if CONTENT_LAYER in reach else last),
        in_order(style or {layer if layer in reach else last for layer in STYLE_LAYERS}),
    )
    lacking = [layer for layer in STYLE_LAYERS if layer not in reach]
    if lacking and not style:
        reporter.say(
            f"the VGG-19 weights end at {last}: style is taken from {', '.join(chosen.style)} "
            f"and content from {chosen.content}; whole weights have {', '.join(lacking)} too"
        )
    return chosen


def in_order(layers: Sequence[str] | set[str]) -> tuple[str, ...]:
    """Layers in the order of the network, each once."""
    if not layers:
        raise UsageError("no layer is given; at least one is wanted")
    return tuple(layer for layer in vgg.LAYERS if layer in layers)


def content_distance(features: Tensor, wanted: Tensor) -> Tensor:
    """The squared distance of features, relative to those wanted (section 3.1 of the paper, equation 2).

    Args:
        features: float[N, C, H, W].
        wanted: As `features`.

    Returns:
        float32 scalar, the mean over the pictures; sums are in float32.
    """
    return _relative(features, wanted)


def style_distance(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The squared distance of Gram matrices, relative to those wanted (section 3.1 of the paper, equation 4).

    Args:
        features: float[N, C, H, W], a tensor a layer.
        wanted: The Gram matrices of the styles, float32[N, C, C] as `gantk.ops.gram_matrix` gives them.

    Returns:
        float32 scalar, the mean over layers and pictures.
    """
    pairs = zip(features, wanted, strict=True)
    return torch.stack([_relative(gram_matrix(layer), gram) for layer, gram in pairs]).mean()


def moments_distance(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """The squared distance of the channels' means and deviations, relative to those wanted.

    A style in the sense of Huang and Belongie (arXiv 1703.06868, section 6.2, equation 13).

    Args:
        features: float[N, C, H, W], a tensor a layer.
        wanted: The styles' features, float[N, C, HS, WS].

    Returns:
        float32 scalar, the mean over layers and pictures.
    """
    pairs = zip(features, wanted, strict=True)
    return torch.stack([_relative(_moments(layer), _moments(style)) for layer, style in pairs]).mean()


def _moments(features: Tensor) -> Tensor:
    """Mean and deviation of each channel: float32[N, 2 C]."""
    wide = features.float().flatten(2)
    deviation = (wide.var(2, correction=0) + _TINY).sqrt()
    return torch.cat([wide.mean(2), deviation], 1)


def _relative(found: Tensor, wanted: Tensor) -> Tensor:
    found, wanted = found.float().flatten(1), wanted.float().flatten(1)
    distance = (found - wanted).square().sum(1) / (wanted.square().sum(1) + _TINY)
    return distance.mean()
