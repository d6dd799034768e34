# SPDX-License-Identifier: Apache-2.0
"""Fake contenders for workers, and a stranger's ONNX file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from bench_helpers import MakeFake, make_onnx

from gantk.bench.contender import Contender

HERE = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def _fakes_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find `bench_fakes` by the environment."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def fake() -> MakeFake:
    def build(name: str, factory: str = "bench_fakes:make", **options: Any) -> Contender:
        return Contender(name, "fp32", "fp32", None, None, 10, factory, options)

    return build


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    return make_onnx(tmp_path / "style.onnx")
