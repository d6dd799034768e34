# SPDX-License-Identifier: Apache-2.0
"""fp8 files: int8's ranges, float32's weights, and values that ONNX Runtime rounds as float8 does."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import engine_graphs as graphs
import networks
from gantk.errors import UsageError
from gantk.export import int8, verify
from gantk.export.calibration import Calibration, calibration_feeds
from gantk.export.int8 import Quantiser
from gantk.export.reference import Reference
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model, status
from gantk.tensors import TensorSpec

FP8 = ml_dtypes.float8_e4m3fn


def convolutions() -> bytes:
    """Two convolutions with a ReLU between them, x [N, 16, H, W] to y."""
    weights = {"a": graphs.convolution(), "b": graphs.convolution(seed=1)}
    weights["b"][3] = 0  # A channel that a training has killed.
    nodes = [
        onnx.helper.make_node("Conv", ["x", "a"], ["h"], name="first", pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["h"], ["r"], name="relu"),
        onnx.helper.make_node("Conv", ["r", "b"], ["y"], name="second", pads=[1, 1, 1, 1]),
    ]
    return graphs.save(nodes, weights, opset=22)


def feeds(count: int = 4) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(5)
    return [{"x": draw.standard_normal((2, 16, 9, 7)).astype(np.float32)} for _ in range(count)]


def quantise(folder: Path, precision: str, kept: tuple[str, ...] = ()) -> onnx.ModelProto:
    made = Quantiser(convolutions(), feeds(), "minmax", folder, precision).quantise(kept)
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    return onnx.load_from_string(made)


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_ranges_are_those_of_int8_and_weights_those_of_float32(tmp_path: Path) -> None:
    narrow, wide = (stored(quantise(tmp_path, precision)) for precision in ("fp8", "int8"))
    exact = {"a": graphs.convolution(), "b": graphs.convolution(seed=1)}
    exact["b"][3] = 0
    for name in ("x_scale", "r_scale", "a_scale", "b_scale"):
        np.testing.assert_allclose(
            448 * narrow[name].astype(float), 127 * wide[name].astype(float), rtol=1e-6
        )
    for name, weights in exact.items():
        scale = narrow[f"{name}_scale"].astype(np.float64).reshape(-1, 1, 1, 1)
        assert narrow[f"{name}_quantized"].dtype == narrow[f"{name}_zero_point"].dtype == FP8
        found = narrow[f"{name}_quantized"].astype(np.float64) * scale
        # Of 3 digits after the first the last is rounded: by 1/16 at most, and near 0 by half the smallest step.
        assert (
            np.abs(found - weights) <= np.maximum(np.abs(weights) / 16, scale * 2.0**-10) * (1 + 1e-6)
        ).all()
        assert (np.abs(found).max(axis=(1, 2, 3)) <= np.abs(weights).max(axis=(1, 2, 3)) * (1 + 1e-6)).all()


def test_only_inputs_of_layers_are_rounded(tmp_path: Path) -> None:
    model = quantise(tmp_path, "fp8")
    pairs = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert sorted(pairs) == ["r", "x"]
    assert {"h_scale", "y_scale"}.isdisjoint(stored(model))
    assert model.graph.node[-1].output[0] == model.graph.output[0].name == "y"
    assert from_bytes(model.SerializeToString()).precision == "fp8"
    kept = quantise(tmp_path, "fp8", ("first",))
    assert [node.input[0] for node in kept.graph.node if node.op_type == "QuantizeLinear"] == ["r"]


def test_onnx_runtime_rounds_as_float8_does(tmp_path: Path) -> None:
    model = quantise(tmp_path, "fp8")
    held = stored(model)

    def rounded(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
        units = np.clip(values / scale.astype(np.float32), -448, 448)
        return units.astype(np.float32).astype(FP8).astype(np.float64) * scale.astype(np.float64)

    def convolve(x: np.ndarray, name: str) -> np.ndarray:
        weights = held[f"{name}_quantized"].astype(np.float64) * held[f"{name}_scale"].reshape(-1, 1, 1, 1)
        return torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(weights), padding=1).numpy()

    # ONNX Runtime's usual optimisations would drop the ReLU here, without a word.
    x = 2 * feeds(1)[0]["x"]  # Some of it beyond the range, where values saturate.
    hidden = np.maximum(convolve(rounded(x, held["x_scale"]), "a"), 0)
    with open_model(from_bytes(model.SerializeToString()), "onnxruntime") as runner:
        found = runner.run({"x": x})["y"]
        assert (runner.precision, runner.file_precision) == ("fp32", "fp8")
    wanted = convolve(rounded(hidden, held["r_scale"]), "b")
    # A hidden value that lies between two of float8 may go either way.
    assert np.mean(np.abs(found - wanted)) < 1e-3 * np.abs(wanted).mean()
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_a_network_keeps_its_quality_and_the_search_is_that_of_int8(tmp_path: Path) -> None:
    data = networks.generator()
    proto = onnx.load_from_string(data)
    for index, node in enumerate(proto.graph.node):
        node.name = f"layer{index}"
    data = proto.SerializeToString()
    made_of = [{"latent": networks.latents(2)}, {"latent": networks.latents(5)}]
    with open_model(from_bytes(data), "onnxruntime") as runner:
        outputs = tuple(runner.run(feed) for feed in made_of)
    wanted = Reference("onnxruntime float32", tuple(made_of), outputs, {"picture": 2.0})
    found = Quantiser(data, made_of, "minmax", tmp_path, "fp8")
    assert verify.working_backends("fp8") == ("onnxruntime",)
    (every,) = verify.measure(found.quantise(), "fp8", "onnxruntime", [wanted], None)
    assert every.passed and every.psnr_db is not None and 30 < every.psnr_db < 60
    assert (every.executed, every.backend) == ("fp32", "onnxruntime")
    lines: list[str] = []
    made, verdicts = int8._search(found, every.psnr_db + 0.5, wanted, lines.append)
    assert verdicts[0].passed
    assert any(line.startswith("  fp8: 1 of 2 convolutions") for line in lines)
    assert from_bytes(made).precision == "fp8"


def test_pictures_are_wanted_for_fp8_too() -> None:
    picture = TensorSpec("picture", "uint8", ("N", "H", "W", 3), (0.0, 255.0), "NHWC")
    with pytest.raises(UsageError, match="fp8 wants pictures to calibrate `picture` with"):
        calibration_feeds((picture,), Calibration(), "fp8")


def test_openvino_is_not_asked(tmp_path: Path) -> None:
    if not status("openvino").works:
        pytest.skip("wants openvino: pip install 'gantk[openvino]'")
    assert "openvino" not in verify.working_backends("fp8")
