# SPDX-License-Identifier: Apache-2.0
"""A laboratory for engines, new for each test."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from engine_lab import Lab, make_lab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return make_lab(tmp_path, monkeypatch)


@pytest.fixture(autouse=True, scope="module")
def _nothing_old_is_searched() -> None:
    """What other tests left stays out of the many collections of garbage here."""
    gc.collect()
    gc.freeze()
