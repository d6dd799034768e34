# SPDX-License-Identifier: Apache-2.0
"""How the commands are called in tests: in this process, with what they print caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import networks
from gantk.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def gantk(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Call `gantk` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Done(status, *capsys.readouterr())

    return call


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    parities = {("fp32", "plain"): [networks.parity("onnxruntime"), networks.parity("openvino")]}
    return networks.bundle(tmp_path / "tiny.gantk", parities=parities).root


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(networks.generator())
    return path
