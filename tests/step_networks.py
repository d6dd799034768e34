# SPDX-License-Identifier: Apache-2.0
"""A VGG-19 with random weights that ends early, and a step of an optimisation over it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from gantk.export.gatys.pipeline import export_step

# torchvision's index, and the channels before and after, of the convolutions up to relu3_1.
CONVOLUTIONS = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256))
LAYERS = ("relu1_1", "relu2_1", "relu3_1")
CONTENT = "relu2_2"


def make_weights(seed: int = 1) -> dict[str, torch.Tensor]:
    """The convolutions of a VGG-19 up to relu3_1, as torchvision names them."""
    rng, tensors = torch.Generator().manual_seed(seed), {}
    for index, before, after in CONVOLUTIONS:
        scale = (2 / (9 * before)) ** 0.5
        tensors[f"features.{index}.weight"] = torch.randn(after, before, 3, 3, generator=rng) * scale
        tensors[f"features.{index}.bias"] = torch.randn(after, generator=rng) * 0.05
    return tensors


def export_short_step(path: Path) -> None:
    """Export the step over `LAYERS` and `CONTENT`."""
    weights = path.with_suffix(".safetensors")
    save_file(make_weights(), weights)
    export_step(weights, path, style_layers=LAYERS, content_layer=CONTENT)
