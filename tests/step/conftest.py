# SPDX-License-Identifier: Apache-2.0
"""A VGG-19 with random weights that ends early, its exported step, and pictures to paint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from gantk.export import verify
from gantk.export.gatys.chain import StepConfig
from gantk.models.vgg import Vgg19, load_vgg19
from step_networks import CONTENT, LAYERS, make_weights


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights up to relu3_1."""
    path = tmp_path_factory.mktemp("vgg") / "short.safetensors"
    save_file(make_weights(), path)
    return path


@pytest.fixture
def network(vgg_file: Path) -> Vgg19:
    return load_vgg19(vgg_file, LAYERS[-1], "max")


@pytest.fixture
def config() -> StepConfig:
    return StepConfig(LAYERS, CONTENT)


@pytest.fixture(scope="session")
def bundle(exported_step: Path) -> Path:
    return exported_step


@pytest.fixture
def one_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """For exports that are not about the gate: it lets through what the first backend computes well."""
    first = verify.working_backends("fp32")[:1]
    monkeypatch.setattr(verify, "working_backends", lambda precision: first)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A disc on a gradient, 40 x 30 pixels."""
    y, x = np.mgrid[:30, :40]
    disc = ((x - 20) ** 2 + (y - 15) ** 2 < 80)[..., None]
    pixels = np.where(disc, (220, 160, 40), np.stack([x * 4, y * 5, 200 - x * 2], -1)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "content.png")
    return tmp_path / "content.png"


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """Red and white stripes, 36 x 36 pixels."""
    stripes = np.where((np.arange(36) // 4 % 2)[:, None, None], (200, 30, 30), (250, 245, 240))
    Image.fromarray(np.broadcast_to(stripes, (36, 36, 3)).astype(np.uint8)).save(tmp_path / "style.png")
    return tmp_path / "style.png"
