# SPDX-License-Identifier: Apache-2.0
"""A small set of drawn pictures to train on, and curves for those tests alone that look at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of 28 x 28: a bright square somewhere on dark."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(40):
        pixels = np.full((28, 28), 20, np.uint8)
        top, left = rng.integers(2, 18, 2)
        pixels[top : top + 8, left : left + 8] = 230
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twenty pictures: mostly black, and mostly white."""
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(1)
    for name, low, high in (("black", 0, 60), ("white", 195, 255)):
        (folder / name).mkdir()
        for index in range(20):
            pixels = rng.integers(low, high, (28, 28)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
    return folder


@pytest.fixture(autouse=True)
def _curves_where_wanted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere not even their axes are made: that takes as long as most trainings here."""
    if request.node.get_closest_marker("curves") is None:
        for name in ("draw_losses", "draw_health", "draw_distances"):
            monkeypatch.setattr(f"gantk.train.plots.{name}", lambda *_: b"no picture")
