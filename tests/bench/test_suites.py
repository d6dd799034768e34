# SPDX-License-Identifier: Apache-2.0
"""A suite that is ended in between: what it measured is there, and nothing else of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="a suite's network is exported with PyTorch")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SUITE = """
name = "tiny"
title = "A tiny DCGAN"

[network]
family = "dcgan"
seed = 0
precisions = ["fp32"]
config = {size = 28, channels = 1, latent_size = 8, width = 4}

[bench]
batch = [1, 2, 3]
threads = 1
budget_s = 0.3
backends = ["onnxruntime"]

[[claim]]
batch = 1
precision = "fp32"
over = "torch"
factor = 1.0
"""
PROGRAM = "import sys, run; from pathlib import Path; run.HERE = Path(sys.argv.pop()); sys.exit(run.main())"


def test_a_suite_that_is_terminated_leaves_what_it_measured(tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "tiny.toml").write_text(SUITE)
    (tmp_path / "temporary").mkdir()
    output = tmp_path / "results" / "tiny.json"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "tiny", str(tmp_path)],
        cwd=BENCHMARKS,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        stderr=subprocess.PIPE,
        text=True,
    ) as suite:
        assert suite.stderr is not None
        assert any(line.startswith("wrote ") for line in suite.stderr)
        suite.terminate()
        _, trouble = suite.communicate(timeout=60)
    assert suite.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in trouble
    document = json.loads(output.read_text())
    assert {row["batch"] for row in document["rows"]} == {1}
    assert document["rows"][0]["status"] == "ok"
    assert document["warnings"][-1] == (
        "the run ended before these were measured: latent 2x8, latent 3x8, what the runner itself costs"
    )
    assert list((tmp_path / "temporary").glob("gantk-*")) == []
