# SPDX-License-Identifier: Apache-2.0
"""A laboratory for engines, new for each test."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpu_backends
from engine_lab import Lab, make_lab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return make_lab(tmp_path, monkeypatch)


@pytest.fixture(params=gpu_backends.KINDS)
def here(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[gpu_backends.Here]:
    """A backend on a fake GPU, on which nothing forbidden happens."""
    found = gpu_backends.KINDS[request.param](tmp_path, monkeypatch)
    yield found
    gc.collect()
    found.cuda.settle()
    assert found.cuda.faults == []


@pytest.fixture(autouse=True, scope="module")
def _nothing_old_is_searched() -> None:
    """What other tests left stays out of the many collections of garbage here."""
    gc.collect()
    gc.freeze()
