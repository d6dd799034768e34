# SPDX-License-Identifier: Apache-2.0
"""The benchmark of an engine's runner against its product's own loop, on fakes of both."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from engine_lab import Lab, engine_of, make_lab, write_bundle
from fake_tensorrt import Engine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(Engine, "num_aux_streams", 0)  # Whose the loop leaves to the product.
    return make_lab(tmp_path, monkeypatch)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import engine_overhead

    monkeypatch.setattr(engine_overhead, "load", lambda product: lab.trt)
    yield engine_overhead
    for name in ("engine_overhead", "overhead"):
        sys.modules.pop(name)


def test_both_launch_one_graph_a_call(
    lab: Lab, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(lab.root, engine_of())
    monkeypatch.setattr(sys, "argv", ["engine_overhead.py", str(lab.root), "--calls", "60"])
    lab.cuda.calls.clear()
    benchmark.main()
    [row] = json.loads(capsys.readouterr().out)["rows"]
    assert (row["backend"], row["graph"], row["calls"]) == ("tensorrt-rtx", True, 60)
    assert row["direct_p50_ms"] > 0
    assert row["runner_p50_ms"] > 0
    assert lab.cuda.calls.count("cudaGraphLaunch") == 2 * (60 + 6)
    assert lab.cuda.faults == []


def test_an_engine_that_does_not_run_has_no_figure(lab: Lab, benchmark: ModuleType) -> None:
    write_bundle(lab.root, engine_of())
    lab.trt.fail["execute_async_v3"] = 4  # After the probe's and the two of a bound run.
    with pytest.raises(SystemExit, match="the engine does not run"):
        benchmark.measure(lab.root, "tensorrt-rtx", 10)
