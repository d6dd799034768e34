# SPDX-License-Identifier: Apache-2.0
"""gantk's kernels in what TensorRT is given to parse: where they go, and where the portable bodies stay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import fake_plugin_api
import onnx
import pytest
from fake_plugin_api import DataType, ShapeExpr, TensorDesc
from onnx import TensorProto, helper

import networks
from gantk.errors import GantkError
from gantk.export.engines.plugins import QUICK_PLUGINS, put_kernels, raised_in_kernels
from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.kernels.launch import Device
from gantk.runtime import driver
from gantk.runtime.products import PRODUCTS

TENSORRT, RTX = PRODUCTS["tensorrt"], PRODUCTS["tensorrt-rtx"]
SIZES = {"x": (1, 16, 24, 40)}


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device((9, 0), 132, 232448)
    monkeypatch.setattr("gantk.kernels.device.gpu", [SimpleNamespace(device=device)].__getitem__)


def step(*left_out: str, domain: str = DOMAIN) -> bytes:
    """A network with one of each operator, but for those that are named, and the body of each."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16, "H", "W"])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("gram", "value", "slope")
    ]
    nodes = [
        helper.make_node("GramMatrix", ["x"], ["gram"], "style", domain=domain, scale=0.5),
        helper.make_node("TotalVariation", ["x"], ["value", "slope"], "smooth", domain=domain, kind="l1"),
    ]
    nodes = [node for node in nodes if node.op_type not in left_out]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    graph = helper.make_graph(nodes, "step", [x], outputs)
    functions = [body for body in bodies(OPSET, "l1") if body.name not in left_out]
    proto = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    return bytes(proto.SerializeToString())


def gradient() -> bytes:
    """A network with another operator of gantk's, whose name begins alike."""
    proto = onnx.load_from_string(step("TotalVariation"))
    proto.graph.node[0].op_type = "GramMatrixGrad"
    return bytes(proto.SerializeToString())


def test_the_engine_is_given_kernels_in_place_of_bodies() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed: pip install gantk[kernels]")
    trt = fake_plugin_api.module()
    data, rewrites = put_kernels(TENSORRT, trt, step(), SIZES)
    assert rewrites == (QUICK_PLUGINS,)
    proto = onnx.load_from_string(data)
    nodes = {node.op_type: node for node in proto.graph.node}
    assert list(nodes) == ["GramPartial", "GramReduce", "VariationPartial", "VariationFinish"]
    assert {body.name for body in proto.functions}.isdisjoint({"GramMatrix", "TotalVariation"})
    sizes = [ShapeExpr(lambda env: env["N"]), ShapeExpr(16), *(ShapeExpr(size) for size in (24, 40))]
    x = TensorDesc(sizes, DataType.FLOAT, (-1, 16, 24, 40))
    engine = fake_plugin_api.build(trt, proto.graph.node, {"x": x})
    assert [f".entry {kernel.kernel}(" in kernel.ptx for kernel in engine] == [True] * 4
    assert [kernel.kernel.removeprefix("gantk_plugin_").split("_")[0] for kernel in engine] == [
        "gram", "gram", "variation", "variation",
    ]  # fmt: skip


def test_gram_matrices_are_rounded_where_the_engine_may_round(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def with_plugins(proto: onnx.ModelProto, sizes: Any, device: Device, precision: str) -> onnx.ModelProto:
        asked.append((sizes, device.compute_capability, precision))
        return proto

    monkeypatch.setattr("gantk.kernels.tensorrt_graph.with_plugins", with_plugins)
    for tf32 in (False, True):
        put_kernels(TENSORRT, fake_plugin_api.module(), step(), SIZES, ("refit",), tf32=tf32)
    assert asked == [(SIZES, (9, 0), "exact"), (SIZES, (9, 0), "tf32")]
    for one in ("GramMatrix", "TotalVariation"):
        _, rewrites = put_kernels(TENSORRT, fake_plugin_api.module(), step(one), SIZES)
        assert rewrites == (QUICK_PLUGINS,)


@pytest.mark.parametrize(
    "given",
    [
        {"product": RTX},
        {"options": ("version-compatible",)},
        {"options": ("refit", "hardware-compatible")},
        {"trt": SimpleNamespace(__name__="no_such_product")},  # As old releases, without the module.
        {"data": networks.generator()},
        {"data": step(domain="theirs")},
        {"data": gradient()},
    ],
    ids=[
        "rtx",
        "version-compatible",
        "hardware-compatible",
        "old",
        "none of it",
        "called so elsewhere",
        "gradient",
    ],
)
def test_where_bodies_stay(given: dict[str, Any]) -> None:
    trt, data = given.get("trt") or fake_plugin_api.module(), given.get("data") or step()
    product = given.get("product", TENSORRT)
    assert put_kernels(product, trt, data, SIZES, given.get("options", ())) == (data, ())
    assert not getattr(getattr(trt, "plugin", None), "known", None)


def test_a_shape_that_is_not_to_be_found_says_how_to_go_on() -> None:
    with pytest.raises(GantkError, match="the size of input 'x' is missing") as caught:
        put_kernels(TENSORRT, fake_plugin_api.module(), step(), {})
    assert caught.value.hint == "--no-plugins builds it of ordinary operators"


def served(monkeypatch: pytest.MonkeyPatch, cuda_version: str) -> None:
    found = driver.Driver(True, cuda_version, ("H100",), targets=("sm_90",))
    monkeypatch.setattr(driver, "probe", lambda: found)


def test_what_a_newer_nvrtc_makes_is_not_given_to_an_older_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantk.kernels.compile.nvrtc_version", lambda: (13, 2))
    served(monkeypatch, "13.1")
    with pytest.raises(
        GantkError, match=r"NVRTC is 13.2, and the NVIDIA driver takes what those up to 13.1"
    ) as caught:
        put_kernels(TENSORRT, fake_plugin_api.module(), step(), SIZES)
    assert str(caught.value.hint).startswith(
        "pip install 'nvidia-cuda-nvrtc==13.1.*', or update the driver; --no-"
    )
    for same_or_newer in ("13.2", "14.0"):
        served(monkeypatch, same_or_newer)
        _, rewrites = put_kernels(TENSORRT, fake_plugin_api.module(), step(), SIZES)
        assert rewrites == (QUICK_PLUGINS,)


def test_what_goes_wrong_in_a_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT prints it, goes on, and builds nothing."""
    trt = fake_plugin_api.module()
    data, _ = put_kernels(TENSORRT, trt, step(), SIZES)
    assert raised_in_kernels() is None
    nodes = onnx.load_from_string(data).graph.node
    with pytest.raises(GantkError, match="a tensor is DataType.INT32"):
        fake_plugin_api.build(trt, nodes, {"x": TensorDesc([ShapeExpr(1)] * 4, DataType.INT32, (1, 1, 1, 1))})
    raised = raised_in_kernels()
    assert raised is not None
    assert "gantk's kernels do not go into the engine: a tensor is DataType.INT32" in raised.what
    assert raised.hint == "--no-plugins builds it of ordinary operators"
    assert raised_in_kernels() is None  # Once.
