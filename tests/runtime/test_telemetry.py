# SPDX-License-Identifier: Apache-2.0
"""What users run is nobody's business: the telemetry of ONNX Runtime and of OpenVINO is off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import networks

pytest.importorskip("onnxruntime")

# Where they are set, nothing is told anyway.
_SILENCING = (
    "CI",
    "TF_BUILD",
    "JENKINS_URL",
    "ORT_RUNNING_UNIT_TESTS",
    "ORT_DISABLE_TELEMETRY",
    "XDG_CACHE_HOME",
)


BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize(
    "code",
    [
        "gantk.open('x.onnx', 'onnxruntime').close()",
        "gantk.available()",
        "import convolutions",
        "import native_operators as b; b.session(open('x.onnx', 'rb').read(), {}, None, 1)",
        "import cuda_settings, overhead, onnxruntime",
    ],
)
def test_nothing_is_noted_for_anybody(tmp_path: Path, code: str) -> None:
    (tmp_path / "x.onnx").write_bytes(networks.generator())
    kept = {name: value for name, value in os.environ.items() if name not in _SILENCING}
    folders = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    paths = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**kept, **folders, "PYTHONPATH": paths}
    subprocess.run(
        [sys.executable, "-c", f"import gantk; {code}"], cwd=tmp_path, env=environment, check=True, timeout=60
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
