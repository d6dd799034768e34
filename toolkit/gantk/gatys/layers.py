# SPDX-License-Identifier: Apache-2.0
"""Which layers tell content and style, and the network up to the last of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gantk.gatys.config import GatysConfig, Layers
from gantk.models import vgg

STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT = ("relu4_2", "relu3_3", "relu2_2", "relu1_2")
"""The layers of Gatys et al. (section 3), and for content what comes next to theirs in shorter files."""


@dataclass(frozen=True)
class Judge:
    """A network and what it is asked.

    Args:
        network: Frozen, to the last of the layers.
        content: The layers that tell content.
        style: The layers that tell style.
        notes: Sentences on what was chosen instead of the default.
    """

    network: vgg.Vgg19
    content: Layers
    style: Layers
    notes: tuple[str, ...]


def open_judge(
    config: GatysConfig, device: torch.device, progress: Callable[[int, int], None] | None = None
) -> Judge:
    """Choose the layers and load the weights.

    Raises:
        GantkError: The weights cannot be had, or lack a layer that was asked for.
    """
    path = None if config.vgg is None else Path(config.vgg)
    content, style, notes = config.content_layers, config.style_layers, []
    if content is None or style is None:
        last = vgg.last_layer(path, progress=progress)
        have = vgg.LAYERS[: vgg.LAYERS.index(last) + 1]
        content = content or _content(have)
        style = style or _style(have)
        if last != vgg.LAYERS[-1] and (config.content_layers is None or config.style_layers is None):
            notes.append(
                f"the weights end at {last}: style is taken from {', '.join(name for name, _ in style)}, "
                f"content from {', '.join(name for name, _ in content)}"
            )
    used = [name for name, weight in (*content, *style) if weight > 0]
    network = vgg.load_vgg19(path, max(used, key=vgg.LAYERS.index), config.pooling, progress=progress)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    network.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Judge(network, _weighing(content), _weighing(style), tuple(notes))


def default_layers(last: str) -> tuple[str, tuple[str, ...]]:
    """The layer that tells content, and those that tell style, where the weights end at `last`."""
    have = vgg.LAYERS[: vgg.LAYERS.index(last) + 1]
    return _content(have)[0][0], tuple(name for name, _ in _style(have))


def _content(have: tuple[str, ...]) -> Layers:
    return ((next(name for name in (*CONTENT, have[-1]) if name in have), 1.0),)


def _style(have: tuple[str, ...]) -> Layers:
    found = [name for name in STYLE if name in have]
    if len(found) < len(STYLE) and have[-1] not in found:
        found.append(have[-1])
    return tuple((name, 1.0) for name in found)


def _weighing(layers: Layers) -> Layers:
    return tuple((name, weight) for name, weight in layers if weight > 0)
