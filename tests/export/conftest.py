# SPDX-License-Identifier: Apache-2.0
"""A small generator with the spread of a trained one, the file it is exported from, and pictures to calibrate with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gantk import checkpoint, models
from gantk.runtime.scenes import draw_scenes


def make_generator(family: str = "dcgan", **config: int) -> nn.Module:
    """Fresh weights, scaled up until pictures have contrast, and batch norms that are not the identity."""
    torch.manual_seed(3)
    generator = models.build(family, {"size": 28, "channels": 1, "latent_size": 16, **config})
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
            else:
                parameter.uniform_(0.6, 1.4)
        generator.train()
        for _ in range(20):
            generator(torch.randn(32, 16))
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def generator() -> nn.Module:
    return make_generator(width=8)


@pytest.fixture(scope="session")
def source(generator: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "tiny.safetensors"
    path.write_bytes(checkpoint.generator_bytes(generator))
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, and a file that is none."""
    path = tmp_path_factory.mktemp("pictures")
    for index, scene in enumerate(draw_scenes(np.random.default_rng(3), 6, 70, 90, 3)):
        Image.fromarray((scene * 255).astype(np.uint8)).save(path / f"{index}.png")
    (path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return path
