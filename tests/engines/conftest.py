# SPDX-License-Identifier: Apache-2.0
"""Small files to build, and the product that builds without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import networks
from gantk.export.engines import pipeline
from gantk.export.engines.build import Built


@pytest.fixture(autouse=True)
def no_rewrites(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rewrites of files from elsewhere are tried, where a test does not ask for them: they are measured."""
    monkeypatch.setattr("gantk.export.foreign.pipeline.timed_inputs", lambda model, profiles: ())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with a fp32 and a fp16 file."""
    files = {(precision, "plain"): networks.generator(precision) for precision in ("fp32", "fp16")}
    return networks.bundle(tmp_path / "tiny.gantk", files).root


_built: dict[str, Built] = {}


@pytest.fixture
def built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what becomes of engines: the same one is built once."""
    build = pipeline.build_apart

    def take(*arguments: Any) -> Built:
        key = repr(arguments[:-2])  # Without the file's name and the progress.
        if key not in _built:
            _built[key] = build(*arguments)
        return _built[key]

    monkeypatch.setattr(pipeline, "build_apart", take)
