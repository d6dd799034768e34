# SPDX-License-Identifier: Apache-2.0
"""int8 files: calibrated with the user's pictures, as good as asked for, and the same for every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import engine_graphs as graphs
import networks
import style_networks
from gantk.errors import GantkError
from gantk.export import int8, qdq, verify
from gantk.export.calibration import METHODS, Calibration, calibration_feeds
from gantk.export.engines.build import BuildOptions, build
from gantk.export.int8 import Quantiser
from gantk.export.reference import Reference
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import from_bytes
from gantk.runtime.products import PRODUCTS
from gantk.runtime.registry import open_model, status
from gantk.tensors import TensorSpec


def network() -> bytes:
    """Convolutions with nothing between them but ReLU and an addition: latent [N, 4] to a picture of 8 x 8."""
    return networks.generator()


def quantiser(data: bytes, folder: Path, method: str = "minmax") -> Quantiser:
    inputs = from_bytes(data).inputs
    feeds = [random_feeds(inputs, {"N": 2}, seed=seed) for seed in range(8)]
    return Quantiser(data, feeds, method, folder)


def reference(data: bytes) -> Reference:
    """What the float32 file makes of other inputs."""
    model = from_bytes(data)
    feeds = [random_feeds(model.inputs, {"N": batch}, seed=100 + batch) for batch in (1, 5)]
    with open_model(model, "onnxruntime") as runner:
        outputs = [runner.run(feed) for feed in feeds]
    return Reference("onnxruntime float32", tuple(feeds), tuple(outputs), {"picture": 2.0})


def is_quantised(data: bytes) -> dict[str, bool]:
    """Of each convolution, whether it takes what was dequantised."""
    graph = onnx.load_from_string(data).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    return {
        node.name: made_by.get(node.input[0]) == "DequantizeLinear" == made_by.get(node.input[1])
        for node in graph.node
        if node.op_type in qdq.LAYERS
    }


def named() -> bytes:
    proto = onnx.load_from_string(network())
    for index, node in enumerate(proto.graph.node):
        node.name = f"layer{index}"
    return proto.SerializeToString()


@pytest.mark.parametrize("method", list(METHODS))
def test_one_file_for_every_backend(method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = quantiser(named(), tmp_path, method).quantise()
    assert capfd.readouterr() == ("", "")  # Standard output is for the command's data.
    assert from_bytes(data).precision == "int8"
    assert set(is_quantised(data).values()) == {True}
    wanted = reference(named())
    for backend in ("onnxruntime", "openvino"):
        if status(backend).works:
            (verdict,) = verify.measure(data, "int8", backend, [wanted], 30.0)
            assert verdict.psnr_db is not None
            assert 30 < verdict.psnr_db < 60, (method, backend)  # Good, and not float32 under another name.
    rtx = PRODUCTS["tensorrt-rtx"]
    if rtx.version is None:
        pytest.skip("the rest wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'")
    built = build(rtx, data, "int8", graphs.profiles_of(data), BuildOptions(("sm_89",)), "x.onnx")
    assert {layer.precision for layer in built.found.heavy_layers} == {"int8"}


def test_layers_that_are_kept_compute_in_float32(tmp_path: Path) -> None:
    found = quantiser(named(), tmp_path)
    first, second = found.layers
    before = found.quantise()
    ranges = (tmp_path / "ranges.json").read_bytes()
    kept = found.quantise([first])
    assert is_quantised(kept) == {first: False, second: True}
    assert found.quantise() == before  # Ranges are taken once, and the network stays as it is.
    assert (tmp_path / "ranges.json").read_bytes() == ranges


def test_the_search_adds_layers_back_until_quality_holds(tmp_path: Path) -> None:
    data, lines = named(), []
    wanted = reference(data)
    found = quantiser(data, tmp_path)
    alone = {}
    for layer in found.layers:
        others = [other for other in found.layers if other != layer]
        alone[layer] = verify.measure(found.quantise(others), "int8", "onnxruntime", [wanted], 0.0)[0].psnr_db
    (everything,) = verify.measure(found.quantise(), "int8", "onnxruntime", [wanted], 0.0)
    worst, best = sorted(found.layers, key=lambda layer: alone[layer] or 0.0)
    assert everything.psnr_db is not None and everything.psnr_db < (alone[best] or 0.0)
    # Between what all layers together reach and what the better one reaches alone.
    bound = (everything.psnr_db + (alone[best] or 0.0)) / 2
    made, verdicts = int8._search(found, bound, wanted, lines.append)
    assert is_quantised(made) == {worst: False, best: True}
    assert verdicts[0].passed
    assert verdicts[0].psnr_db == alone[best]
    assert any(f"with `{worst}` in float32" in line for line in lines)
    made, _ = int8._search(found, everything.psnr_db - 1, wanted, lines.append)
    assert set(is_quantised(made).values()) == {True}
    with pytest.raises(GantkError, match="no layer can be int8 at 150 dB"):
        int8._search(found, 150.0, wanted, lines.append)


def sliced() -> bytes:
    """A network whose last convolution is cut to size, as style networks are."""
    weights = {
        "a": graphs.convolution(),
        "b": graphs.convolution(seed=1),
        "one": np.array([1]),
        "end": np.array([99]),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["x", "a"], ["h"], name="first", pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["h"], ["r"], name="relu"),
        onnx.helper.make_node("Conv", ["r", "b"], ["c"], name="last", pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Slice", ["c", "one", "end", "one"], ["y"], name="cut"),
    ]
    return graphs.save(nodes, weights, opset=22)


def test_a_pair_that_onnx_runtime_would_move_is_left_out(tmp_path: Path) -> None:
    """With it, ONNX Runtime 1.31 does not load the file: it moves the pair across the slice, and finds it ill typed."""
    feeds = [
        {"x": np.random.default_rng(seed).standard_normal((1, 16, 8, 8)).astype(np.float32)}
        for seed in range(3)
    ]
    made = Quantiser(sliced(), feeds, "minmax", tmp_path).quantise()
    assert is_quantised(made) == {"first": True, "last": True}
    graph = onnx.load_from_string(made).graph
    assert next(node for node in graph.node if node.name == "cut").input[0] == "c"
    assert {"x", "r"} == {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"} - {"h"}
    stored = {tensor.name for tensor in graph.initializer}
    # No scale is left without a use.
    assert stored == {name for node in graph.node for name in node.input} & stored
    with (
        open_model(from_bytes(made), "onnxruntime") as narrow,
        open_model(from_bytes(sliced()), "onnxruntime") as wide,
    ):
        found, wanted = narrow.run(feeds[0])["y"], wide.run(feeds[0])["y"]
    assert 25 < 10 * np.log10(np.ptp(wanted) ** 2 / np.square(found - wanted).mean()) < 60


def test_a_network_without_convolutions(tmp_path: Path) -> None:
    spec = TensorSpec("x", "float32", ("N", 3))
    data = networks.simple("Relu", [spec], TensorSpec("y", "float32", ("N", 3)))
    with pytest.raises(GantkError, match="no layer that int8 is made of: Conv, ConvTranspose"):
        Quantiser(data, [], "minmax", tmp_path)


def test_a_style_network_is_quantised(folder: Path, tmp_path: Path) -> None:
    """With reflected borders, instance normalisation and enlargements between its convolutions."""
    data = style_networks.style_network(1)
    model = from_bytes(data)
    found = Quantiser(
        data, calibration_feeds(model.inputs, Calibration(folder, 2)).calibrating, "minmax", tmp_path
    )
    made = found.quantise()
    assert set(is_quantised(made).values()) == {True}
    feed = random_feeds(model.inputs, {"N": 1, "H": 41, "W": 54}, seed=5)
    with open_model(model, "onnxruntime") as wide, open_model(from_bytes(made), "onnxruntime") as narrow:
        difference = wide.run(feed)["stylized"].astype(float) - narrow.run(feed)["stylized"]
    # Random weights suffer more than trained ones do; a wrong scale or axis would leave nothing.
    assert 15 < 10 * np.log10(255**2 / np.square(difference).mean()) < 50
