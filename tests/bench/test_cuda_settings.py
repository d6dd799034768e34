# SPDX-License-Identifier: Apache-2.0
"""The benchmark of ONNX Runtime's CUDA settings, on a stand-in for CUDA."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fake_onnxruntime
import networks
from gantk.bench import machine
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import from_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import cuda_settings
    import overhead

    monkeypatch.setattr(overhead, "MEMORY", "cpu")
    monkeypatch.setattr(cuda_settings, "SECONDS", 0.0)
    yield cuda_settings
    for name in ("cuda_settings", "overhead"):
        sys.modules.pop(name)


def test_a_session_is_timed_in_every_way(settings: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = fake_onnxruntime.install(monkeypatch)
    model = from_bytes(networks.generator())
    chosen = {"cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "1", "use_tf32": "0"}
    row = settings.session_row(model, random_feeds(model.inputs), chosen)
    assert provider.settings.items() > chosen.items()
    assert all(row[key] > 0 for key in settings.MEASURED)
    provider.fail = {provider.runs + 1}  # The capture.
    row = settings.session_row(model, random_feeds(model.inputs), chosen)
    assert (row["graph_ms"], row["device_ms"]) == (None, None)
    assert row["bound_ms"] > 0


def row_of(what: str, graph_ms: float | None) -> dict[str, Any]:
    return {"network": "x", "shape": [1, 4], "what": what, "bound_ms": 2.0, "graph_ms": graph_ms}


def test_rows_are_kept_for_the_same_gpu_and_versions(
    settings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    monkeypatch.setattr(machine, "versions", lambda device: {"onnxruntime-gpu": "1"})
    settings.write(path, [row_of("one", 1.5), row_of("two", None)])
    settings.write(path, [row_of("two", 1.0)])
    document = json.loads(path.read_text())
    assert [(row["what"], row["graph_ms"]) for row in document["rows"]] == [("one", 1.5), ("two", 1.0)]
    table = settings.section(document)
    assert table.index("| two |") < table.index("| one |")
    monkeypatch.setattr(machine, "versions", lambda device: {"onnxruntime-gpu": "2"})
    settings.write(path, [row_of("three", 1.0)])
    assert [row["what"] for row in json.loads(path.read_text())["rows"]] == ["three"]
