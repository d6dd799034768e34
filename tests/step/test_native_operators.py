# SPDX-License-Identifier: Apache-2.0
"""The exported step with native operators in place of the portable bodies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load

import gantk
from gantk.bundle import Bundle
from gantk.errors import GantkError
from gantk.runtime.operators import OPERATORS
from native_build import onnxruntime_library

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def library() -> Path:
    return onnxruntime_library()


def run(bundle: Path, feeds: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    with gantk.open(bundle, backend="onnxruntime") as runner:
        return runner.run(feeds), getattr(runner, "operators", None)


def test_a_step_is_the_same(bundle: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Bundle.read(bundle)
    assert opened.manifest.probe is not None
    probe = load(opened.read_file(opened.manifest.probe))
    feeds = {spec.name: probe[f"input.{spec.name}"] for spec in opened.manifest.inputs}
    monkeypatch.setenv(OPERATORS, "")
    portable, used = run(bundle, feeds)
    assert used is None
    monkeypatch.setenv(OPERATORS, str(library))
    native, used = run(bundle, feeds)
    assert used == library
    for name, wanted in portable.items():
        if name.endswith("loss"):
            np.testing.assert_allclose(native[name], wanted, rtol=1e-5)
    # An activation next to 0 may tip over, which changes the pixels that it sees.
    found, wanted = native["gradient"], portable["gradient"]
    noise = float(np.mean((found.astype(np.float64) - wanted) ** 2))
    assert 10 * np.log10(float(np.ptp(wanted)) ** 2 / noise) >= 60
    off = np.abs(found - wanted) / float(np.abs(wanted).max())
    assert np.mean(off > 1e-5) < 0.1
    assert noise > 0  # Another order of sums.


def test_its_convolutions_are_native_forward_and_backward(
    bundle: Path, library: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(bundle / "model.fp32.onnx", options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    kinds = Counter(node.op_type for node in nodes if "Conv" in node.op_type or "Pool" in node.op_type)
    # The one that sees the three channels of a picture is ONNX Runtime's.
    assert kinds.pop("Conv", 0) + kinds.pop("FusedConv", 0) == 1
    assert kinds == {
        "Convolution3x3Relu": 4, "Convolution3x3ReluGrad": 5, "MaxPool2x2": 2, "MaxPool2x2Grad": 2
    }  # fmt: skip


def test_a_library_that_is_not_there(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPERATORS, str(tmp_path / "nothing.so"))
    with pytest.raises(GantkError, match=r"nothing.so`, the library of native operators, does not exist"):
        gantk.open(bundle, backend="onnxruntime")


def test_a_library_that_is_none(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(b"no library")
    monkeypatch.setenv(OPERATORS, str(other))
    with pytest.raises(GantkError, match=r"ONNX Runtime cannot load the operators of `.*other.so`"):
        gantk.open(bundle, backend="onnxruntime")
