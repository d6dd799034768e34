# SPDX-License-Identifier: Apache-2.0
"""The feed-forward style network of Johnson, Alahi and Fei-Fei (arXiv 1603.08155), holding many styles.

Its layers are those of the paper's supplement with nearest enlargement in place of transposed convolution and
instance in place of batch normalisation (Ulyanov et al., arXiv 1607.08022); many styles share all weights but
the scales and offsets of the normalisation (Dumoulin et al., arXiv 1610.07629, section 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UsageError
from gantk.models.config import check, check_fields, check_names
from gantk.tensors import TensorSpec

SMALLEST = 8
"""The smallest height and width of a picture in pixels: below, reflection padding has nothing to reflect."""

STYLES_LIMIT = 256
_EPSILON = 1e-5


@dataclass(frozen=True)
class Config:
    """A feed-forward style network.

    Args:
        styles: A name for each style.
        width: Channels at the picture's full size; twice and four times as many at half and a quarter of it.
        blocks: Residual blocks at a quarter of the picture's size.

    Raises:
        UsageError: A value is not allowed.
    """

    styles: tuple[str, ...] = ("style",)
    width: int = 32
    blocks: int = 5

    def __post_init__(self) -> None:
        check("width", self.width, range(1, 257))
        check("blocks", self.blocks, range(1, 33))
        check_names("styles", self.styles, 1, STYLES_LIMIT)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `Generator.forward` takes: with one style there is nothing to weigh."""
        picture = TensorSpec("picture", "float32", ("N", 3, "H", "W"), (0.0, 1.0), "NCHW", SMALLEST)
        weights = TensorSpec("style_weights", "float32", ("N", len(self.styles)), (0.0, 1.0), "NC")
        return (picture,) if len(self.styles) == 1 else (picture, weights)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `Generator.forward` returns."""
        return (TensorSpec("stylized", "float32", ("N", 3, "H", "W"), (0.0, 1.0), "NCHW"),)

    def to_json(self) -> dict[str, Any]:
        return {"styles": list(self.styles), "width": self.width, "blocks": self.blocks}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` made.

        Raises:
            UsageError: A field is unknown, or a value is not allowed.
        """
        check_fields(cls, data)
        styles = data.get("styles", cls.styles)
        if not isinstance(styles, list | tuple):
            raise UsageError(f"styles are {styles!r}; a list of names is wanted")
        return cls(**{**data, "styles": tuple(styles)})


class Generator(nn.Module):
    """Pictures to pictures in a style, of any size from `SMALLEST` pixels on."""

    family = "style"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, styles = config.width, len(config.styles)
        self.shrink = nn.ModuleList(
            [
                Layer(3, width, 9, styles),
                Layer(width, 2 * width, 3, styles, stride=2),
                Layer(2 * width, 4 * width, 3, styles, stride=2),
            ]
        )
        self.blocks = nn.ModuleList([Block(4 * width, styles) for _ in range(config.blocks)])
        self.enlarge = nn.ModuleList(
            [
                Layer(4 * width, 2 * width, 3, styles, enlarge=True),
                Layer(2 * width, width, 3, styles, enlarge=True),
            ]
        )
        self.paint = Convolution(width, 3, 9)

    def forward(self, picture: Tensor, style_weights: Tensor | None = None) -> Tensor:
        """Stylise pictures.

        Args:
            picture: float[N, 3, H, W] RGB in [0, 1].
            style_weights: float[N, styles], the share of each style, of sum 1 for a blend; needed where there
                is more than one style.

        Returns:
            float[N, 3, H, W]; it may leave [0, 1], and is to be clamped.
        """
        height, width = picture.shape[2:]
        features = picture
        for layer in self.shrink:
            features = layer(features, style_weights)
        for block in self.blocks:
            features = block(features, style_weights)
        for layer in self.enlarge:
            features = layer(features, style_weights)
        painted: Tensor = self.paint(features)
        # Two halvings round up, so that what comes back has the next multiple of 4.
        return painted[:, :, :height, :width]


class Convolution(nn.Module):
    """A convolution that reflects the borders, after a nearest enlargement to twice the size if asked for."""

    def __init__(
        self, before: int, after: int, kernel: int, *, stride: int = 1, enlarge: bool = False
    ) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(kernel // 2)
        self.conv = nn.Conv2d(before, after, kernel, stride)
        self.enlarge = enlarge

    def forward(self, features: Tensor) -> Tensor:
        if self.enlarge:
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
        convolved: Tensor = self.conv(self.pad(features))
        return convolved


class ConditionalInstanceNorm(nn.Module):
    """Instance normalisation whose scale and offset are blends of those of the styles.

    Args:
        channels: Of the features.
        styles: The number of rows of `scale` and `offset`.
    """

    def __init__(self, channels: int, styles: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(styles, channels))
        self.offset = nn.Parameter(torch.zeros(styles, channels))

    def forward(self, features: Tensor, style_weights: Tensor | None) -> Tensor:
        if style_weights is None:
            return F.instance_norm(features, weight=self.scale[0], bias=self.offset[0], eps=_EPSILON)
        normal = F.instance_norm(features, eps=_EPSILON)
        scale, offset = style_weights @ self.scale, style_weights @ self.offset
        return normal * scale[:, :, None, None] + offset[:, :, None, None]


class Layer(nn.Module):
    """Convolution, conditional instance normalisation, ReLU."""

    def __init__(
        self, before: int, after: int, kernel: int, styles: int, *, stride: int = 1, enlarge: bool = False
    ) -> None:
        super().__init__()
        self.convolve = Convolution(before, after, kernel, stride=stride, enlarge=enlarge)
        self.norm = ConditionalInstanceNorm(after, styles)

    def forward(self, features: Tensor, style_weights: Tensor | None) -> Tensor:
        return F.relu(self.norm(self.convolve(features), style_weights))


class Block(nn.Module):
    """A residual block: a layer, then a convolution and normalisation, added to what came in."""

    def __init__(self, channels: int, styles: int) -> None:
        super().__init__()
        self.layer = Layer(channels, channels, 3, styles)
        self.convolve = Convolution(channels, channels, 3)
        self.norm = ConditionalInstanceNorm(channels, styles)

    def forward(self, features: Tensor, style_weights: Tensor | None) -> Tensor:
        inner = self.layer(features, style_weights)
        added: Tensor = features + self.norm(self.convolve(inner), style_weights)
        return added
