# SPDX-License-Identifier: Apache-2.0
"""Training of a network that takes its style from a picture: Huang and Belongie (arXiv 1703.06868)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gantk import models
from gantk.data import Batch, Pictures, find_source, load
from gantk.data.batches import crops, normalise_unit
from gantk.errors import UsageError
from gantk.models import vgg
from gantk.models.adain import Config, Generator
from gantk.runtime.pictures import Pixels
from gantk.train.ema import Average
from gantk.train.options import resolve_machine
from gantk.train.painting import STYLES_SHOWN, PaintingConfig, PaintingTraining
from gantk.train.perceptual import content_distance, moments_distance
from gantk.train.reporter import Reporter
from gantk.train.state import State
from gantk.train.styles import middle

_LAYER = "relu4_1"  # The paper's, section 6.1.
_MEASURED = 8  # Pictures that say how large VGG-19's features are.


@dataclass(frozen=True)
class AdainConfig(PaintingConfig):
    """A training of a decoder to VGG-19.

    Args:
        styles: A folder of pictures to take style from.
        layer: The encoder's last, see `gantk.models.adain.Config`; by default the paper's, or the first layer of
            the last block that the file of weights has.

    The other arguments, and the errors, are those of `PaintingConfig`.
    """

    changeable: ClassVar[frozenset[str]] = PaintingConfig.changeable | {"styles"}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = PaintingConfig.limits

    style_weight: float = 3.0
    styles: str = ""
    layer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.styles:
            raise UsageError("no styles are given; a folder of pictures is wanted", where="--styles")
        if self.layer is not None:
            models.configure(self.family, self.network_config())

    @property
    def family(self) -> str:
        return Generator.family

    def network_config(self) -> dict[str, Any]:
        return {"layer": self.layer}


class AdainTraining(PaintingTraining[AdainConfig]):
    """A decoder that learns to paint features whose statistics were taken from another picture."""

    kind = "adain"
    config_type = AdainConfig
    distances = ("content", "style")

    def __init__(self, fabric: Any, config: AdainConfig, pictures: Pictures) -> None:
        super().__init__(fabric, config, pictures)
        assert config.layer is not None
        size, channels = config.decoded
        self._layer = config.layer
        self._style_layers = _first_layers(config.layer)
        self._styles = load(find_source(config.styles), size, channels, threads=config.threads)
        self._network = _network(config, fabric.device, self._styles)
        self.state = _state(self._network, config, fabric.device, fabric.global_rank)

    @classmethod
    def resolve(cls, config: AdainConfig, reporter: Reporter) -> AdainConfig:
        for folder in (config.data, config.styles):
            find_source(folder)
        last = vgg.last_layer(config.vgg_path, progress=reporter.fetching)
        if config.layer is None:
            reach = vgg.LAYERS[: vgg.LAYERS.index(last) + 1]
            layer = _LAYER if _LAYER in reach else _first_layers(last)[-1]
            if layer != _LAYER:
                reporter.say(
                    f"the VGG-19 weights end at {last}: styles are taken from {layer} on, "
                    f"not from {_LAYER}, which gives larger patterns"
                )
            config = replace(config, layer=layer)
        return resolve_machine(config)

    def facts(self) -> dict[str, Any]:
        return {"styles": {"pictures": len(self._styles), "fingerprint": self._styles.fingerprint()}}

    def set_up(self) -> None:
        self._decoder = self.set_up_with(self._network.decoder)

    def step(self, batch: Batch, total: int) -> dict[str, Tensor]:
        config, fabric, network = self.config, self.fabric, self._network
        pictures = normalise_unit(batch.pictures, fabric.device)
        styles = normalise_unit(self._draw_styles(len(pictures)), fabric.device)
        with torch.no_grad(), fabric.autocast():
            wanted_styles = network.encoder(styles)
            features = network.encoder(pictures)[self._layer]
            full = torch.ones(len(pictures), device=fabric.device)
            wanted = network.adapt(features, wanted_styles[self._layer], full)

        painted = self._decoder(wanted)
        with fabric.autocast():
            found = network.encoder(painted)
        content = content_distance(found[self._layer], wanted)
        layers = self._style_layers
        style = moments_distance([found[name] for name in layers], [wanted_styles[name] for name in layers])
        loss = config.content_weight * content + config.style_weight * style
        self.learn(loss)
        return {"loss": loss, "content": content, "style": style}

    def some_styles(self) -> Pixels:
        return middle(self._styles.sample(STYLES_SHOWN), self.config.size)

    def paint(self, pictures: Tensor, styles: Pixels, number: int) -> Tensor:
        style = normalise_unit(torch.from_numpy(styles[number : number + 1]), pictures.device)
        full = torch.ones(len(pictures), device=pictures.device)
        painted: Tensor = self.state.average.module(pictures, style.expand_as(pictures), full)
        return painted

    def _draw_styles(self, count: int) -> Tensor:
        """Random parts of random styles, uint8[count, 3, size, size]."""
        draws, array, size = self.state.draws, self._styles.array, self.config.size
        room = array.shape[2] - size + 1
        chosen = torch.randint(len(array), (count,), generator=draws)
        corners = torch.randint(room, (count, 2), generator=draws)
        return torch.from_numpy(crops(array, chosen.numpy(), corners.numpy(), size))


def _first_layers(last: str) -> tuple[str, ...]:
    """The first layer of each block up to a layer, whose statistics make the style (section 6.1)."""
    reach = vgg.LAYERS[: vgg.LAYERS.index(last) + 1]
    return tuple(layer for layer in reach if layer.endswith("_1"))


def _network(config: AdainConfig, device: torch.device, styles: Pictures) -> Generator:
    """VGG-19 with features of unit size, and a decoder with fresh weights, the same in every process."""
    torch.manual_seed(config.seed)
    assert config.layer is not None
    network = Generator(Config(config.layer))
    network.encoder.load_state_dict(vgg.load_vgg19(config.vgg_path, config.layer).state_dict())
    shown = torch.from_numpy(middle(styles.sample(_MEASURED), config.size))
    network.encoder.rescale(normalise_unit(shown, torch.device("cpu")))
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _state(network: Generator, config: AdainConfig, device: torch.device, rank: int) -> State:
    return State(
        {"generator": network},
        {"generator": torch.optim.Adam(network.decoder.parameters(), config.lr, fused=True)},
        Average(network, config.ema),
        # On the CPU, where the styles are gathered.
        torch.Generator().manual_seed(config.seed * 1000 + rank),
    )
