# SPDX-License-Identifier: Apache-2.0
"""Training of a feed-forward style network: Johnson et al. (arXiv 1603.08155), many styles (arXiv 1610.07629)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gantk import models
from gantk.data import Batch, Pictures, find_source
from gantk.data.batches import normalise_unit
from gantk.errors import UsageError
from gantk.models.style import STYLES_LIMIT, Generator
from gantk.models.vgg import Vgg19, load_vgg19
from gantk.ops import gram_matrix, total_variation
from gantk.runtime.pictures import Pixels
from gantk.train.ema import Average
from gantk.train.options import resolve_machine
from gantk.train.painting import STYLES_SHOWN, PaintingConfig, PaintingTraining
from gantk.train.perceptual import Layers, choose_layers, content_distance, style_distance
from gantk.train.reporter import Reporter
from gantk.train.state import State
from gantk.train.styles import (
    fingerprint,
    middle,
    name_styles,
    read_style,
)


@dataclass(frozen=True)
class StyleConfig(PaintingConfig):
    """A training of one network that holds one style or several.

    Args:
        styles: The pictures to take style from; each gives the name of its file to a style.
        style_size: The smaller of the height and width that they are resized to; by default `size`. Larger ones
            give finer strokes.
        width: Of the network, see `gantk.models.style.Config`.
        blocks: Of the network.
        content_layer: See `gantk.train.perceptual.choose_layers`.
        style_layers: See there too.
        variation_weight: Of the total variation, as the mean over all values of |dx| + |dy|.

    The other arguments, and the errors, are those of `PaintingConfig`.
    """

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        **PaintingConfig.limits,
        "style_size": (16, 4096),
        "variation_weight": (0.0, 1e6),
    }
    changeable: ClassVar[frozenset[str]] = PaintingConfig.changeable | {"styles"}

    styles: tuple[str, ...] = ()
    style_size: int | None = None
    width: int = 32
    blocks: int = 5
    content_layer: str | None = None
    style_layers: tuple[str, ...] | None = None
    variation_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.styles) <= STYLES_LIMIT:
            raise UsageError(
                f"{len(self.styles)} styles are given; 1 to {STYLES_LIMIT} pictures are wanted",
                where="--style",
            )
        models.configure(self.family, self.network_config())

    @property
    def family(self) -> str:
        return Generator.family

    def network_config(self) -> dict[str, Any]:
        return {"styles": list(name_styles(self.styles)), "width": self.width, "blocks": self.blocks}


class StyleTraining(PaintingTraining[StyleConfig]):
    """A network that learns to paint as VGG-19 sees it in the style pictures."""

    kind = "style"
    config_type = StyleConfig
    distances = ("content", "style", "variation")

    def __init__(self, fabric: Any, config: StyleConfig, pictures: Pictures) -> None:
        super().__init__(fabric, config, pictures)
        assert config.content_layer is not None and config.style_layers is not None
        self._layers = Layers(config.content_layer, config.style_layers)
        self._styles = [read_style(path, config.style_size or config.size) for path in config.styles]
        vgg = load_vgg19(config.vgg_path, self._layers.last)
        vgg.rescale(normalise_unit(torch.from_numpy(self._styles[0])[None], torch.device("cpu")))
        self._vgg = vgg.to(device=fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._grams = self._read_grams(self._vgg)
        self.state = _build(config, fabric.device, fabric.global_rank)

    @classmethod
    def resolve(cls, config: StyleConfig, reporter: Reporter) -> StyleConfig:
        find_source(config.data)
        for path in config.styles:
            read_style(path, 16)
        layers = choose_layers(config.vgg, config.content_layer, config.style_layers, reporter)
        config = replace(config, content_layer=layers.content, style_layers=layers.style)
        return resolve_machine(config)

    def facts(self) -> dict[str, Any]:
        names = name_styles(self.config.styles)
        return {
            "styles": {name: fingerprint(pixels) for name, pixels in zip(names, self._styles, strict=True)}
        }

    def set_up(self) -> None:
        self._generator = self.set_up_with(self.state.generator)

    def step(self, batch: Batch, total: int) -> dict[str, Tensor]:
        config, fabric, layers = self.config, self.fabric, self._layers
        pictures = normalise_unit(batch.pictures, fabric.device)
        # Each picture of a batch learns another style, by chance (arXiv 1610.07629, section 3).
        count, styles = len(pictures), len(config.styles)
        chosen = torch.randint(styles, (count,), generator=self.state.draws, device=fabric.device)
        painted = self._paint(self._generator, pictures, chosen)

        with fabric.autocast():
            with torch.no_grad():
                wanted = self._vgg(pictures, until=layers.content)[layers.content]
            found = self._vgg(painted)
        content = content_distance(found[layers.content], wanted)
        grams = [gram[chosen] for gram in self._grams]
        style = style_distance([found[layer] for layer in layers.style], grams)
        variation = total_variation(painted).sum() / painted.numel()
        loss = (
            config.content_weight * content
            + config.style_weight * style
            + config.variation_weight * variation
        )
        self.learn(loss)
        return {"loss": loss, "content": content, "style": style, "variation": variation}

    def some_styles(self) -> Pixels:
        size = self.config.size
        styles = [read_style(path, size) for path in self.config.styles[:STYLES_SHOWN]]
        return np.stack([middle(pixels, size) for pixels in styles])

    def paint(self, pictures: Tensor, styles: Pixels, number: int) -> Tensor:
        chosen = torch.full((len(pictures),), number, device=pictures.device)
        return self._paint(self.state.average.module, pictures, chosen)

    def _paint(self, generator: Any, pictures: Tensor, chosen: Tensor) -> Tensor:
        """Paint pictures in the styles of the numbers `chosen`, int64[N]."""
        count = len(self.config.styles)
        weights = (F.one_hot(chosen, count).float(),) if count > 1 else ()
        painted: Tensor = generator(pictures, *weights)
        return painted

    @torch.no_grad()
    def _read_grams(self, vgg: Vgg19) -> list[Tensor]:
        """The Gram matrices of the styles, float32[styles, C, C] a layer; in float32, as they are goals."""
        rows = []
        for pixels in self._styles:
            features = vgg(normalise_unit(torch.from_numpy(pixels)[None], self.fabric.device))
            rows.append([gram_matrix(features[layer]) for layer in self._layers.style])
        return [torch.cat(grams) for grams in zip(*rows, strict=True)]


def _build(config: StyleConfig, device: torch.device, rank: int) -> State:
    """A network with fresh weights, which are the same in every process; the styles drawn are not."""
    torch.manual_seed(config.seed)
    generator = models.build(config.family, config.network_config())
    assert isinstance(generator, Generator)
    _begin_calmly(generator)
    generator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return State(
        {"generator": generator},
        {"generator": torch.optim.Adam(generator.parameters(), config.lr, fused=True)},
        Average(generator, config.ema),
        torch.Generator(device).manual_seed(config.seed * 1000 + rank),
    )


@torch.no_grad()
def _begin_calmly(generator: Generator) -> None:
    """Let the first pictures be of middle grey with little contrast, and residual blocks let all through.

    (Goyal et al., arXiv 1706.02677, section 5.1, on the latter.)
    """
    paint = generator.paint.conv
    paint.weight.mul_(0.2)
    torch.nn.init.constant_(paint.bias, 0.5)  # type: ignore[arg-type]
    for block in generator.blocks:
        block.norm.scale.zero_()  # type: ignore[union-attr, operator]
