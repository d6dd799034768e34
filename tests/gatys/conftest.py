# SPDX-License-Identifier: Apache-2.0
"""A VGG-19 with random weights that ends early, and pictures to paint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

# torchvision's index, and the channels before and after, of the convolutions up to relu3_1.
CONVOLUTIONS = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256))


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights up to relu3_1."""
    rng, tensors = torch.Generator().manual_seed(0), {}
    for index, before, after in CONVOLUTIONS:
        scale = (2 / (9 * before)) ** 0.5
        tensors[f"features.{index}.weight"] = torch.randn(after, before, 3, 3, generator=rng) * scale
        tensors[f"features.{index}.bias"] = torch.randn(after, generator=rng) * 0.05
    path = tmp_path_factory.mktemp("vgg") / "short.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A disc on a gradient, 48 x 36 pixels."""
    y, x = np.mgrid[:36, :48]
    disc = ((x - 24) ** 2 + (y - 18) ** 2 < 120)[..., None]
    pixels = np.where(disc, (220, 160, 40), np.stack([x * 4, y * 5, 200 - x * 2], -1)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "content.png")
    return tmp_path / "content.png"


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """Red and white stripes, 40 x 40 pixels."""
    stripes = np.where((np.arange(40) // 4 % 2)[:, None, None], (200, 30, 30), (250, 245, 240))
    Image.fromarray(np.broadcast_to(stripes, (40, 40, 3)).astype(np.uint8)).save(tmp_path / "style.png")
    return tmp_path / "style.png"
