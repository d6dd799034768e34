# SPDX-License-Identifier: Apache-2.0
"""Files from elsewhere: branches and loops build, and what could never be opened or verified is said before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load

import engine_graphs as graphs
import gantk
import networks
from gantk.bundle import HeavyLayer, ShapeRange
from gantk.cli.exported import tell
from gantk.cli.output import prose
from gantk.errors import GantkError
from gantk.export.engines import build as building
from gantk.export.engines.audit import audit
from gantk.export.engines.build import BuildOptions, build
from gantk.export.engines.pipeline import EngineRequest
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.runtime.probe import probe_of
from gantk.runtime.products import Product
from gantk.tensors import TensorSpec

ADA = BuildOptions(("sm_89",))
RTX = EngineRequest(("tensorrt-rtx",), options=ADA)

Tensors = Mapping[str, tuple[int, Sequence[int | str]]]


def save(nodes: Sequence[onnx.NodeProto], inputs: Tensors, outputs: Tensors, **weights: Any) -> bytes:
    """A file of nodes, with each tensor's type and shape."""
    ends = (
        [helper.make_tensor_value_info(name, *kind) for name, kind in tensors.items()]
        for tensors in (inputs, outputs)
    )
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "theirs", *ends, tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()


def product(kind: int = TensorProto.FLOAT, dtype: Any = np.float32, name: str = "") -> bytes:
    """``x`` [N, 16] @ w, all of one type."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name=name)
    return save([node], {"x": (kind, ["N", 16])}, {"y": (kind, ["N", 8])}, w=np.ones((16, 8), dtype))


def branches() -> bytes:
    """One of two matrix products, as ``c`` says."""
    kind = TensorProto.FLOAT
    then, other = (
        helper.make_graph(
            [helper.make_node("MatMul", ["x", weight], [made], name=f"{made}/product")],
            made,
            [],
            [helper.make_tensor_value_info(made, kind, None)],
        )
        for weight, made in (("w", "then"), ("v", "else"))
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other, name="choice")
    inputs = {"x": (kind, ["N", 16]), "c": (TensorProto.BOOL, [])}
    ones = np.ones((16, 8), np.float32)
    return save([node], inputs, {"y": (kind, ["N", 8])}, w=ones, v=2 * ones)


def lstm() -> bytes:
    """Of five steps, which TensorRT makes a loop of."""
    kind, r = TensorProto.FLOAT, np.random.default_rng(0)
    weights = {
        name: r.standard_normal((1, 32, size)).astype(np.float32) for name, size in (("w", 16), ("r", 8))
    }
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=8)
    return save([node], {"x": (kind, [5, 2, 16])}, {"y": (kind, [5, 1, 2, 8])}, **weights)


def made(data: bytes, tmp_path: Path, lines: list[str] | None = None) -> Any:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(data)
    return bundle_onnx(
        path, tmp_path / "theirs.gantk", RTX, report=[].append if lines is None else lines.append
    )


def test_branches_and_loops_are_built(rtx: Product, tmp_path: Path) -> None:
    """Their conditions and limits are layers that yield nothing."""
    heavy = build(rtx, branches(), "fp32", graphs.profiles_of(branches()), ADA, "x.onnx").found.heavy_layers
    assert [layer.name for layer in heavy] == ["then/product", "else/product"]
    engine = made(lstm(), tmp_path).manifest.engines[0]
    assert {layer.kind for layer in engine.heavy_layers} == {"matrix-multiply"}


@pytest.mark.parametrize("name", ["lay er|(x)[y]", "a | b", "é [0]"])
def test_layers_have_the_names_of_their_nodes(rtx: Product, name: str) -> None:
    data = product(name=name)
    found = build(rtx, data, "fp32", graphs.profiles_of(data), ADA, "x.onnx").found
    assert found.heavy_layers == (HeavyLayer(name, "matrix-multiply", "fp32"),)


def test_a_mistake_of_our_own_is_not_the_vendors(rtx: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*arguments: Any) -> Any:
        audit(*arguments)
        raise AttributeError("ours")

    monkeypatch.setattr(building, "audit", mistaken)
    with pytest.raises(AttributeError, match="ours"):
        build(rtx, product(), "fp32", graphs.profiles_of(product()), ADA, "x.onnx")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (product(TensorProto.DOUBLE, np.float64), "'x' of `.*` is float64, and float32 in an engine"),
        (product(TensorProto.BFLOAT16, ml_dtypes.bfloat16), "'x' of `.*` is bfloat16, which numpy does not"),
    ],
)
def test_types_with_which_no_engine_is_opened(rtx: Product, tmp_path: Path, data: bytes, text: str) -> None:
    with pytest.raises(GantkError, match=text) as caught:
        made(data, tmp_path)
    assert "inputs and outputs are float32" in (caught.value.hint or "")
    assert not (tmp_path / "theirs.gantk").exists()


def test_a_node_without_a_name_has_a_number(rtx: Product) -> None:
    proto = onnx.load_from_string(graphs.refused("Det"))
    proto.graph.node[0].name = ""
    text = r"node number 0 \(Det\) of `x.onnx` is refused by the parser: it has no such operator"
    profiles = ({"x": ShapeRange((1, 16, 16, 16), (1, 16, 16, 16), (1, 16, 16, 16))},)
    with pytest.raises(GantkError, match=text):
        build(rtx, proto.SerializeToString(), "fp32", profiles, ADA, "x.onnx")


def test_inputs_that_are_shapes(rtx: Product, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime, which is tried first, fails at random shapes; that is caught, and no matter for the terminal."""
    kind = TensorProto.FLOAT
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    inputs = {"x": (kind, ["N", 16]), "s": (TensorProto.INT64, [2])}
    with pytest.raises(GantkError, match="input 's' of `.*` is read as a shape") as caught:
        made(save(nodes, inputs, {"y": (kind, ["A", "B"])}), tmp_path)
    assert (caught.value.where or "").endswith("theirs.onnx, s")
    assert capfd.readouterr().err == ""


def test_a_file_that_takes_nothing_is_refused_by_name(rtx: Product, tmp_path: Path) -> None:
    node, ones = helper.make_node("MatMul", ["v", "w"], ["y"]), np.ones((4, 4), np.float32)
    data = save([node], {}, {"y": (TensorProto.FLOAT, [4, 4])}, v=ones, w=ones)
    with pytest.raises(
        GantkError, match=r"theirs.onnx` has no input, and a bundle's networks have at least one"
    ):
        made(data, tmp_path)


def test_a_network_that_yields_no_number_is_refused(rtx: Product, tmp_path: Path) -> None:
    proto = onnx.load_from_string(product())
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((16, 8), np.nan, np.float32), "w"))
    with pytest.raises(GantkError, match="itself yields nothing but NaN and infinite values in 'y'"):
        made(proto.SerializeToString(), tmp_path)
    assert not (tmp_path / "theirs.gantk").exists()


@pytest.mark.parametrize(
    "asked", [{}, {"smallest": ("x=4x16",)}, {"usual": ("x=1x16",), "largest": ("x=1x16",)}]
)
def test_a_probe_is_of_a_shape_that_engines_serve(
    rtx: Product, tmp_path: Path, asked: dict[str, tuple[str, ...]]
) -> None:
    data = save(
        [helper.make_node("Relu", ["x"], ["y"])], {"x": (1, ["batch", 16])}, {"y": (1, ["batch", 16])}
    )
    (tmp_path / "a.onnx").write_bytes(data)
    bundle = bundle_onnx(tmp_path / "a.onnx", tmp_path / "a.gantk", replace(RTX, **asked))
    assert probe_of(bundle, bundle.manifest.engines[0])


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        ("RandomNormalLike", "'y' is random, another one in each run"),
        ("Sqrt", "'y' is not finite everywhere"),
    ],
)
def test_outputs_that_judge_nothing_are_no_probe(
    rtx: Product, tmp_path: Path, operator: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, lines = TensorProto.FLOAT, list[str]()
    data = save(
        [helper.make_node(operator, ["x"], ["y"])], {"x": (kind, ["N", 16])}, {"y": (kind, ["N", 16])}
    )
    bundle = made(data, tmp_path, lines)
    assert bundle.manifest.probe is None
    assert any(text in line for line in lines)
    tell(prose(), bundle, None)
    said = " ".join(capsys.readouterr().err.split())
    assert "unverified, and will be: the bundle has no probe" in said
    assert "not compared with PyTorch: it came as an ONNX file" in said


def test_architectures_that_are_left_out_by_default_are_said(rtx: Product, tmp_path: Path) -> None:
    lines = list[str]()
    (tmp_path / "x.onnx").write_bytes(product())
    limited = EngineRequest(("tensorrt-rtx",), options=BuildOptions(workspace_bytes=2**30))
    made = bundle_onnx(tmp_path / "x.onnx", tmp_path / "x.gantk", limited, report=lines.append)
    (engine,) = made.manifest.engines
    assert "sm_75" not in engine.targets
    (line,) = (line for line in lines if "left out" in line)
    assert line == "  left out: tensorrt-rtx has no fp32 matrix products for sm_75, and `node_of_y` is one"
    assert engine.workspace_bytes == 2**30


def test_what_made_the_bundle_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "theirs.onnx").write_bytes(product())
    tools = bundle_onnx(tmp_path / "theirs.onnx", tmp_path / "x.gantk").manifest.tools
    assert tools["onnx"] == onnx.__version__
    assert "torch" not in tools


def test_a_file_may_be_called_anything(tmp_path: Path) -> None:
    path = tmp_path / "not\udcffutf-8.onnx"
    path.write_bytes(networks.generator(metadata=False))
    assert bundle_onnx(path, tmp_path / "x.gantk").manifest.name == "not\ufffdutf-8"


def test_weights_beside_a_file_are_taken_in(tmp_path: Path) -> None:
    proto = onnx.load_from_string(product())
    proto.opset_import.insert(0, helper.make_opsetid("theirs", 3))
    place = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(proto, tmp_path / "a.onnx", **place)
    bundle = bundle_onnx(tmp_path / "a.onnx", tmp_path / "a.gantk")
    (variant,) = bundle.manifest.variants
    assert variant.opset == 17
    (tmp_path / "w.bin").unlink()
    with gantk.open(bundle.root, "onnxruntime", device="cpu") as runner:
        np.testing.assert_array_equal(
            runner.run({"x": np.ones((2, 16), np.float32)})["y"], np.full((2, 8), 16)
        )


def test_a_probe_is_of_some_small_pictures(tmp_path: Path) -> None:
    sides = {"x": (TensorProto.FLOAT, ["N", 3, "H", "W"])}
    data = save([helper.make_node("Relu", ["x"], ["y"])], sides, {"y": sides["x"]})
    proto = onnx.load_from_string(data)
    spec = TensorSpec("x", "float32", ("N", 3, "H", "W"), (0.0, 1.0), "NCHW")
    helper.set_model_props(proto, {"gantk.inputs": json.dumps([spec.to_json()])})
    onnx.save(proto, tmp_path / "a.onnx")
    bundle = bundle_onnx(tmp_path / "a.onnx", tmp_path / "a.gantk")
    assert bundle.manifest.probe is not None
    assert load(bundle.read_file(bundle.manifest.probe))["input.x"].shape == (2, 3, 64, 64)


def test_weights_beside_a_foreign_file_are_taken_in(rtx: Product, tmp_path: Path) -> None:
    proto = onnx.load_from_string(networks.generator(metadata=False))
    onnx.save(proto, tmp_path / "big.onnx", save_as_external_data=True, size_threshold=0, location="big.bin")
    made = bundle_onnx(tmp_path / "big.onnx", tmp_path / "big.gantk", RTX)
    held = onnx.load_from_string(made.read_file(made.manifest.variants[0].file))
    assert not any(tensor.external_data for tensor in held.graph.initializer)
    assert len(made.manifest.engines) == 1


def test_weights_beside_a_foreign_file_that_were_cut(rtx: Product, tmp_path: Path) -> None:
    proto = onnx.load_from_string(networks.generator(metadata=False))
    onnx.save(proto, tmp_path / "big.onnx", save_as_external_data=True, size_threshold=0, location="big.bin")
    (tmp_path / "big.bin").write_bytes((tmp_path / "big.bin").read_bytes()[:100])
    with pytest.raises(
        GantkError, match=r"weights of `\S+big.onnx` cannot be taken in: External data"
    ) as caught:
        bundle_onnx(tmp_path / "big.onnx", tmp_path / "big.gantk", RTX)
    assert "download them again" in (caught.value.hint or "")
