# SPDX-License-Identifier: Apache-2.0
"""A VGG-19 with random weights that ends early, and pictures to paint."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from step_networks import make_weights
from style_pictures import write_disc, write_stripes


@pytest.fixture(scope="session")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights up to relu3_1."""
    path = tmp_path_factory.mktemp("vgg") / "short.safetensors"
    save_file(make_weights(seed=0), path)
    return path


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return write_disc(tmp_path / "content.png", 36, 48)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    return write_stripes(tmp_path / "style.png", 40)
