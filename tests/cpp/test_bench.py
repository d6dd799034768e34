# SPDX-License-Identifier: Apache-2.0
"""The C++ runner as a contender of the benchmark."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gantk
import networks
import style_networks
from gantk.bench.contenders import find
from gantk.bench.process import Worker, WorkerError
from gantk.bench.run import compare
from gantk.bench.subject import describe
from gantk.errors import BackendMissingError
from gantk.runtime.arrays import random_feeds


@pytest.fixture
def worker_on_path(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", os.pathsep.join([str(built / "tools"), os.environ["PATH"]]))
    return built / "tools/gantk-bench-worker"


def test_the_worker_speaks_the_protocol(built: Path, tmp_path: Path) -> None:
    inputs = style_networks.style_bundle(tmp_path / "x.gantk", 3).manifest.inputs
    feeds = random_feeds(inputs, {"N": 1, "H": 17, "W": 12})
    np.savez(tmp_path / "feeds.npz", **feeds)  # type: ignore[arg-type]
    options = {"path": str(tmp_path / "x.gantk"), "backend": "onnxruntime", "precision": None, "threads": 1}
    with Worker("cpp", tmp_path, 1, command=(str(built / "tools/gantk-bench-worker"),)) as worker:
        with pytest.raises(WorkerError, match="`load` and `feed` first"):
            worker.ask(10, do="run", warmup_s=0, block_s=0, most=1)
        with pytest.raises(WorkerError, match="'dance' is not a request; known are load, feed"):
            worker.ask(10, do="dance")
        with pytest.raises(WorkerError, match="does not exist; a bundle is a folder"):
            worker.ask(30, do="load", factory="", options={"path": str(tmp_path / "none")}, imports=[])
        loaded = worker.ask(30, do="load", factory="", options=options, imports=[])
        assert (loaded["backend"], loaded["precision"], loaded["device"]) == ("cpp", "fp32", "cpu")
        assert loaded["open_ms"] > 0
        assert worker.ask(30, do="feed", path=str(tmp_path / "feeds.npz")) == {}
        timed = worker.ask(30, do="run", warmup_s=0.01, block_s=30, most=7)["ns"]
        assert len(timed) == 7
        assert min(timed) > 0
        assert worker.ask(30, do="output", path=str(tmp_path / "out.npz"))["ns"] > 0
        memory = worker.ask(10, do="memory")
        assert 2**20 < loaded["baseline_rss_bytes"] < memory["rss_bytes"] <= memory["peak_rss_bytes"]
        assert memory["gpu_bytes"] is None
    with (
        np.load(tmp_path / "out.npz") as arrays,
        gantk.open(tmp_path / "x.gantk", "onnxruntime", threads=1) as runner,
    ):
        np.testing.assert_array_equal(arrays["stylized"], runner.run(feeds)["stylized"])


def test_the_worker_says_who_starts_it(built: Path) -> None:
    command = [built / "tools/gantk-bench-worker", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gantk-bench-worker is started by gantk bench")


@pytest.mark.usefixtures("worker_on_path")
def test_it_takes_part_beside_python(tmp_path: Path) -> None:
    style_networks.style_bundle(tmp_path / "x.gantk")
    document = compare(
        tmp_path / "x.gantk",
        backends=["onnxruntime", "cpp"],
        shapes=[("picture", (1, 32, 32, 3))],
        threads=1,
        budget_s=0.5,
    )
    rows = {row["backend"]: row for row in document["rows"]}
    assert set(rows) == {"onnxruntime", "cpp"}
    assert rows["cpp"]["status"] == "ok", rows["cpp"]["reason"]
    assert rows["cpp"]["version"] == rows["onnxruntime"]["version"]
    assert rows["cpp"]["parity"]["max_abs"] == rows["onnxruntime"]["parity"]["max_abs"] == 0
    assert rows["cpp"]["iterations"] > 0


def test_it_is_missing_where_it_is_not_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = describe(style_networks.style_bundle(tmp_path / "x.gantk").root)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendMissingError, match="cpp was asked for .* gantk-bench-worker is not on PATH"):
        find(subject, ["cpp"], None, "cpu", 1)
    _, skipped = find(subject, None, None, "cpu", 1)
    assert [skip.name for skip in skipped if skip.missing and skip.name == "cpp"] == ["cpp"]


@pytest.mark.usefixtures("worker_on_path")
def test_a_lone_file_is_not_for_it(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(networks.generator())
    found, skipped = find(describe(tmp_path / "x.onnx"), ["cpp"], None, "cpu", 1)
    assert found == []
    assert [skip.reason for skip in skipped] == ["the C++ runner opens bundles, and this is an ONNX file"]
