# SPDX-License-Identifier: Apache-2.0
"""Open networks for tests of stylising."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import style_networks
from gantk.stylize.network import Look, StyleNetwork, open_network
from gantk.stylize.painter import Painter


@pytest.fixture(scope="session")
def one_style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return style_networks.style_bundle(tmp_path_factory.mktemp("bundles") / "one.gantk").root


@pytest.fixture(scope="session")
def three_styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return style_networks.style_bundle(tmp_path_factory.mktemp("bundles") / "three.gantk", 3).root


@pytest.fixture
def network(one_style: Path) -> Iterator[StyleNetwork]:
    with open_network(one_style, "onnxruntime", threads=1) as network:
        yield network


@pytest.fixture
def blending(three_styles: Path) -> Iterator[StyleNetwork]:
    with open_network(three_styles, "onnxruntime", threads=1) as network:
        yield network


@pytest.fixture
def painter(network: StyleNetwork) -> Painter:
    return Painter(network, Look())
