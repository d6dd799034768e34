# SPDX-License-Identifier: Apache-2.0
"""Small things to train style networks with: photographs, styles, and the first blocks of a VGG-19."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

_CHAIN = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128)}  # To relu2_2, by torchvision's numbers.


def write_vgg(path: Path, *, last: int = 7) -> Path:
    """VGG-19 with random weights that keep features as large as they are; to relu2_2."""
    rng = torch.Generator().manual_seed(0)
    weights = {}
    for index, (before, after) in _CHAIN.items():
        if index <= last:
            scale = (2 / (9 * before)) ** 0.5
            weights[f"features.{index}.weight"] = torch.randn(after, before, 3, 3, generator=rng) * scale
            weights[f"features.{index}.bias"] = torch.zeros(after)
    save_file(weights, path)
    return path


def write_photos(folder: Path, count: int = 6) -> Path:
    """Smooth pictures of several sizes, with a bright square each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        height, width = rng.integers(80, 140, 2)
        corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8))
        pixels = np.array(corners.resize((width, height), Image.Resampling.BICUBIC))
        top, left = rng.integers(0, 50, 2)
        pixels[top : top + 24, left : left + 24] = 240
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def write_style(path: Path, colours: tuple[tuple[int, int, int], tuple[int, int, int]], period: int) -> Path:
    """Stripes of two colours, each `period` pixels wide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = (np.arange(96) // period % 2)[None, :].repeat(80, 0)
    Image.fromarray(np.array(colours, np.uint8)[stripes]).save(path)
    return path
