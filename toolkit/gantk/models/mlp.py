# SPDX-License-Identifier: Apache-2.0
"""A fully connected pair: the simplest network that learns digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from gantk.models.config import NetworkConfig

_GENERATOR_WIDTHS = (256, 512, 1024)
_DISCRIMINATOR_WIDTHS = (512, 256)
_DROPOUT = 0.3


@dataclass(frozen=True)
class Config(NetworkConfig):
    """A fully connected pair.

    Args:
        size: 8 to 128 pixels.
        channels: 1 for grey, 3 for colour.
        latent_size: The length of a latent vector.
    """

    sizes: ClassVar = range(8, 129)


class Generator(nn.Module):
    """Latent vectors to pictures through dense layers of 256, 512 and 1024 with LeakyReLU(0.2), then tanh."""

    family = "mlp"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = config.latent_size
        for after in _GENERATOR_WIDTHS:
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
            before = after
        picture = (config.channels, config.size, config.size)
        layers += [nn.Linear(before, config.channels * config.size**2), nn.Tanh(), nn.Unflatten(1, picture)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        """Make pictures.

        Args:
            latent: float[N, latent_size], drawn from N(0, 1).

        Returns:
            float[N, channels, size, size] in [-1, 1].
        """
        pictures: Tensor = self.layers(latent)
        return pictures


class Discriminator(nn.Module):
    """Pictures to logits through dense layers of 512 and 256 with LeakyReLU(0.2) and dropout."""

    family = "mlp"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [nn.Flatten()]
        before = config.channels * config.size**2
        for after in _DISCRIMINATOR_WIDTHS:
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2), nn.Dropout(_DROPOUT)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Linear(before, 1), nn.Flatten(0))

    def forward(self, pictures: Tensor) -> Tensor:
        """Judge pictures.

        Args:
            pictures: float[N, channels, size, size] in [-1, 1].

        Returns:
            Logits float[N]: positive where a picture is taken for a real one.
        """
        logits: Tensor = self.layers(pictures)
        return logits
