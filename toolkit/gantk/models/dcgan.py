# SPDX-License-Identifier: Apache-2.0
"""The deep convolutional pair of Radford, Metz and Chintala (arXiv 1511.06434), which may learn classes.

With classes, the generator takes a label as well (Mirza and Osindero, arXiv 1411.1784, section 3.2), and the
discriminator projects a picture's features on a vector of its class (Miyato and Koyama, arXiv 1802.05637, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gantk.models.config import NetworkConfig, check, check_names
from gantk.tensors import TensorSpec

WIDTHS = range(1, 513)
CLASSES_LIMIT = 1000


@dataclass(frozen=True)
class Config(NetworkConfig):
    """A DCGAN.

    Args:
        size: 28, 32, 64 or 128 pixels; a 28-pixel picture grows from 7x7, the others from 4x4.
        channels: 1 for grey, 3 for colour.
        latent_size: The length of a latent vector.
        width: Channels at half the picture's size; they double at each halving. The paper has 128 for
            pictures of 64 pixels.
        classes: Their names, at least two; none for pictures of one kind.
    """

    sizes: ClassVar = (28, 32, 64, 128)

    width: int = 64
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check("width", self.width, WIDTHS)
        if self.classes != ():
            check_names("classes", self.classes, 2, CLASSES_LIMIT)

    def to_json(self) -> dict[str, Any]:
        data = super().to_json()
        classes = data.pop("classes")
        return {**data, "classes": list(classes)} if classes else data

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the generator takes: with classes a label too, which is a place in `classes`."""
        if not self.classes:
            return super().inputs
        return (*super().inputs, TensorSpec("label", "int64", ("N",), (0.0, len(self.classes) - 1.0)))

    @property
    def smallest(self) -> int:
        """The size in pixels of the smallest feature maps."""
        return 7 if self.size == 28 else 4

    @property
    def widths(self) -> list[int]:
        """The channels of the feature maps, from the smallest map to the one of half the picture's size."""
        halvings = (self.size // self.smallest).bit_length() - 1
        return [self.width << step for step in reversed(range(halvings))]


class Generator(nn.Module):
    """Latent vectors to pictures.

    A dense layer makes maps of 4x4 (or 7x7); each transposed convolution doubles their size. Batch
    normalisation and ReLU follow every layer but the last, which ends in tanh (section 3 of the paper).
    """

    family = "dcgan"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths, smallest = config.widths, config.smallest
        features = widths[0] * smallest**2
        self.project = nn.Sequential(
            nn.Linear(config.latent_size, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(),
            nn.Unflatten(1, (widths[0], smallest, smallest)),
        )
        # A label as a unit vector beside the latents would be multiplied by one column of weights: it is looked up.
        self.class_offsets = nn.Embedding(len(config.classes), features) if config.classes else None
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [_enlarge(before, after, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.enlarge = nn.Sequential(*layers, _enlarge(widths[-1], config.channels, bias=True), nn.Tanh())
        self.apply(_initialise)

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Make pictures.

        Args:
            latent: float[N, latent_size], drawn from N(0, 1).
            label: int64[N], places in the configuration's `classes`; wanted where it has any.

        Returns:
            float[N, channels, size, size] in [-1, 1].
        """
        dense, *others = self.project
        features = dense(latent)
        if self.class_offsets is not None:
            features = features + self.class_offsets(label)
        for layer in others:
            features = layer(features)
        pictures: Tensor = self.enlarge(features)
        return pictures


class Discriminator(nn.Module):
    """Pictures to logits: the generator's mirror, with strided convolutions and LeakyReLU(0.2).

    The first layer has no batch normalisation (section 3 of the paper).
    """

    family = "dcgan"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths = config.widths[::-1]
        layers: list[nn.Module] = [_shrink(config.channels, widths[0], bias=True), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers += [_shrink(before, after, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.shrink = nn.Sequential(*layers)
        features = widths[-1] * config.smallest**2
        self.judge = nn.Sequential(nn.Flatten(), nn.Linear(features, 1), nn.Flatten(0))
        self.class_vectors = nn.Embedding(len(config.classes), features) if config.classes else None
        self.apply(_initialise)

    def forward(self, pictures: Tensor, label: Tensor | None = None) -> Tensor:
        """Judge pictures.

        Args:
            pictures: float[N, channels, size, size] in [-1, 1].
            label: int64[N], their places in the configuration's `classes`; wanted where it has any.

        Returns:
            Logits float[N]: positive where a picture is taken for a real one, of its class.
        """
        features = self.shrink(pictures)
        logits: Tensor = self.judge(features)
        if self.class_vectors is not None:
            logits = logits + (features.flatten(1) * self.class_vectors(label)).sum(1)
        return logits


def _enlarge(before: int, after: int, *, bias: bool) -> nn.Module:
    return nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1, bias=bias)


def _shrink(before: int, after: int, *, bias: bool) -> nn.Module:
    return nn.Conv2d(before, after, kernel_size=4, stride=2, padding=1, bias=bias)


@torch.no_grad()
def _initialise(module: nn.Module) -> None:
    """Weights N(0, 0.02), batch-norm weights N(1, 0.02), biases 0 (section 4 of the paper)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
        module.weight.normal_(0.0, 0.02)
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            bias.zero_()
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        module.weight.normal_(1.0, 0.02)
        module.bias.zero_()
