# SPDX-License-Identifier: Apache-2.0
"""Everything that the training of a pair of networks can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from gantk import models
from gantk.data import Source, find_classes
from gantk.errors import UsageError
from gantk.train import augment
from gantk.train.options import RunConfig, resolve_machine


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """A training of a pair of networks against each other.

    Args:
        data: A folder of pictures, or an MNIST-type idx file, or the folder of one.
        network: One of `gantk.models.PAIRS`.
        size: The height and width of pictures in pixels; by default 28 for idx files of that size, else 64.
        channels: 1 or 3; by default 1 where the pictures are grey.
        latent_size: The length of a latent vector.
        width: Channels of a DCGAN at half the picture's size; the fully connected pair has none.
        conditional: Whether to learn the classes that the pictures come in (`gantk.data.find_classes`).
        classes: Their names; found when the configuration is resolved.
        augment: How pictures are changed before the discriminator sees them, see `gantk.train.augment.parse`; by
            default as `gantk.train.augment.choose` has it.
        lr_g: The generator's learning rate.
        lr_d: The discriminator's.
        label_smoothing: Real pictures are labelled 1 minus this (arXiv 1606.03498, section 3.4), 0 to 0.5.
        anneal: Whether both learning rates fall to zero over the second half of the steps.
        skip_d_below: The discriminator does not learn from a batch on which its loss is lower; 0: it does.

    The other arguments, and the errors, are those of `gantk.train.options.RunConfig`.
    """

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        **RunConfig.limits,
        "batch": (2, 65_536),  # Batch normalisation wants two.
        "lr_g": (0.0, 1.0),
        "lr_d": (0.0, 1.0),
        "label_smoothing": (0.0, 0.5),
        "skip_d_below": (0.0, 10.0),
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {**RunConfig.choices, "network": models.PAIRS}

    network: str = "dcgan"
    size: int | None = None
    channels: int | None = None
    latent_size: int = 100
    width: int = 64
    conditional: bool = False
    classes: tuple[str, ...] = ()
    augment: str = augment.AUTO
    lr_g: float = 2e-4
    lr_d: float = 2e-4
    anneal: bool = False
    label_smoothing: float = 0.0
    skip_d_below: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conditional and self.network != "dcgan":
            raise UsageError(
                f"the network {self.network!r} learns no classes",
                where="--conditional",
                hint="--network dcgan",
            )
        if self.augment != augment.AUTO:
            augment.parse(self.augment)
        models.configure(self.network, self.network_config(default_size=64, default_channels=3))

    @property
    def family(self) -> str:
        return self.network

    @property
    def decoded(self) -> tuple[int, int]:
        assert self.size is not None and self.channels is not None
        return self.size, self.channels

    def network_config(
        self, default_size: int | None = None, default_channels: int | None = None
    ) -> dict[str, Any]:
        config = {
            "size": self.size or default_size,
            "channels": self.channels or default_channels,
            "latent_size": self.latent_size,
        }
        if self.network != "dcgan":
            return config
        return {**config, "width": self.width, "classes": self.classes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        # A run from before there was augmentation goes on without.
        return super().from_json({"augment": augment.NONE, **data})


def resolve(config: TrainConfig, source: Source) -> TrainConfig:
    """Put what is chosen by the pictures and the machine in place of every `auto` and `None`.

    Raises:
        UsageError: As `gantk.train.options.resolve_machine`.
        GantkError: Classes are to be learned, and the pictures have none.
    """
    native = source.size if source.size in (28, 32, 64, 128) else 64
    config = resolve_machine(config)
    classes = config.classes or (find_classes(source) if config.conditional else ())
    channels = config.channels or source.channels
    chosen = augment.choose(source.count, channels) if config.augment == augment.AUTO else config.augment
    return replace(config, size=config.size or native, channels=channels, classes=classes, augment=chosen)
