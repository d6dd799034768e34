# SPDX-License-Identifier: Apache-2.0
"""A VGG-19 with random weights that ends early, its exported step, and pictures to paint."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from gantk.export import verify
from gantk.export.gatys.chain import StepConfig
from gantk.models.vgg import Vgg19, load_vgg19
from step_networks import CONTENT, LAYERS, make_weights
from style_pictures import write_disc, write_stripes


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
    return write_disc(tmp_path / "content.png", 30, 40)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    return write_stripes(tmp_path / "style.png", 36)
