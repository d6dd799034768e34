# SPDX-License-Identifier: Apache-2.0
"""Any style from one picture of it: adaptive instance normalisation of Huang and Belongie (arXiv 1703.06868)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.models import vgg
from gantk.models.config import check_fields
from gantk.models.style import Convolution
from gantk.models.vgg import Vgg19
from gantk.tensors import TensorSpec

_EPSILON = 1e-5
_CONTRAST = 0.2


@dataclass(frozen=True)
class Config:
    """A network that takes its style from a picture.

    Args:
        layer: The layer of VGG-19 whose features take on the style's mean and deviation. The paper has
            ``relu4_1``; a lower one keeps more of the picture and takes colours and fine texture alone.

    Raises:
        UsageError: There is no such layer.
    """

    layer: str = "relu4_1"

    def __post_init__(self) -> None:
        vgg.check_layer(self.layer)

    @property
    def smallest(self) -> int:
        """The smallest height and width of a picture in pixels: its features are two wide, to be reflected."""
        return vgg.smallest_size(self.layer) + 1

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `Generator.forward` takes."""
        return (
            TensorSpec("picture", "float32", ("N", 3, "H", "W"), (0.0, 1.0), "NCHW", self.smallest),
            TensorSpec("style", "float32", ("N", 3, "HS", "WS"), (0.0, 1.0), "NCHW", self.smallest),
            TensorSpec("alpha", "float32", ("N",), (0.0, 1.0)),
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `Generator.forward` returns."""
        return (TensorSpec("stylized", "float32", ("N", 3, "H", "W"), (0.0, 1.0), "NCHW"),)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` made.

        Raises:
            UsageError: A field is unknown, or a value is not allowed.
        """
        check_fields(cls, data)
        return cls(**data)


class Generator(nn.Module):
    """Pictures and pictures of styles to pictures: VGG-19 up to a layer, AdaIN, and VGG-19 mirrored.

    The encoder is frozen, and has its place among the weights, so that a checkpoint is all there is to have.
    Its poolings round up: a picture of any size comes back whole.
    """

    family = "adain"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Vgg19(config.layer, round_up=True).requires_grad_(False)
        self.adapt = AdaptiveInstanceNorm()
        self.decoder = Decoder(config.layer)

    def forward(self, picture: Tensor, style: Tensor, alpha: Tensor) -> Tensor:
        """Paint pictures in the styles of others.

        Args:
            picture: float[N, 3, H, W] RGB in [0, 1]; H and W at least `Config.smallest`.
            style: float[N, 3, HS, WS] RGB in [0, 1].
            alpha: float[N], from 0 for the picture as the decoder gives it back, to 1 for the style in full.

        Returns:
            float[N, 3, H, W]; it may leave [0, 1], and is to be clamped.
        """
        height, width = picture.shape[2:]
        layer = self.config.layer
        mixed = self.adapt(self.encoder(picture)[layer], self.encoder(style)[layer], alpha)
        painted: Tensor = self.decoder(mixed)
        return painted[:, :, :height, :width]


class AdaptiveInstanceNorm(nn.Module):
    """Features that keep their pattern and take the mean and deviation of others (section 5, equations 8 and 14).

    Computed and blended in float32, whatever the features are.
    """

    def forward(self, features: Tensor, style: Tensor, alpha: Tensor) -> Tensor:
        """Move the statistics of each channel.

        Args:
            features: float[N, C, H, W] of pictures.
            style: float[N, C, HS, WS] of styles.
            alpha: float[N], the share of the moved features; the rest stays as it is.

        Returns:
            As `features`.
        """
        wide, style = features.float(), style.float()
        mean = style.mean((2, 3), keepdim=True)
        deviation = ((style - mean).square().mean((2, 3), keepdim=True) + _EPSILON).sqrt()
        moved = F.instance_norm(wide, eps=_EPSILON) * deviation + mean
        share = alpha.float()[:, None, None, None]
        return (share * moved + (1 - share) * wide).to(features.dtype)


class Decoder(nn.Module):
    """VGG-19 mirrored up to a layer: nearest enlargement for pooling, reflection for zeros at the borders.

    Args:
        layer: One of `gantk.models.vgg.LAYERS`.
    """

    def __init__(self, layer: str) -> None:
        super().__init__()
        layers = vgg.LAYERS[: vgg.LAYERS.index(layer) + 1]
        widths = [3, *map(vgg.channels, layers)]
        self.convolutions = nn.ModuleList(
            # Mirrored: where VGG-19 pools before the first layer of a block, the decoder enlarges after it.
            Convolution(
                widths[n + 1], widths[n], 3, enlarge=n + 1 < len(layers) and layers[n + 1][-2:] == "_1"
            )
            for n in reversed(range(len(layers)))
        )
        self.apply(_initialise)
        last = self.convolutions[-1].conv
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        with torch.no_grad():
            # Features of unit size begin as a picture of middle grey with little contrast, near to any other.
            last.weight.mul_(_CONTRAST)
            last.bias.fill_(0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Paint.

        Args:
            features: float[N, C, H, W]; H and W at least 2.

        Returns:
            float[N, 3, s H, s W], s being the size that the layer's features shrink by.
        """
        for convolution in self.convolutions[:-1]:
            features = F.relu(convolution(features))
        painted: Tensor = self.convolutions[-1](features)
        return painted


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """Weights that keep features as large as they are through ReLU (He et al., arXiv 1502.01852), biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            module.bias.zero_()
