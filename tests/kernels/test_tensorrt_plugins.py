# SPDX-License-Identifier: Apache-2.0
"""The TensorRT plugins: built into an engine as TensorRT does it, their PTX run by the interpreter against float64."""

from __future__ import annotations

import re
from typing import Any

import fake_plugin_api
import ml_dtypes
import numpy as np
import pytest
from fake_plugin_api import DataType, ShapeExpr, TensorDesc
from judged import TRIALS
from onnx import TensorProto, helper
from ptx import Machine, Memory, parse

from gantk.errors import GantkError
from gantk.export.functions import DOMAIN, KINDS, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.kernels import tensorrt
from gantk.kernels.launch import Device
from gantk.kernels.tensorrt_graph import for_library, with_plugins
from gantk.kernels.tensorrt_source import partial_kernel, plugin_target, variation_kernel
from variations import variation

pytestmark = TRIALS

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed: pip install gantk[kernels]")

GPU = Device((8, 0), 6, 166912)  # Few multiprocessors, so that trials are small and yet are split.
ONNX = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
TYPES = {"float32": DataType.FLOAT, "float16": DataType.HALF, "bfloat16": DataType.BF16}
NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
Array = np.ndarray[Any, Any]


def network(node: Any, dtype: str, shape: list[Any], outputs: list[str], kind: str = "l1") -> Any:
    graph = helper.make_graph(
        [node],
        "trial",
        [helper.make_tensor_value_info("given", ONNX[dtype], shape)],
        [helper.make_tensor_value_info(name, ONNX[dtype], None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, functions=bodies(OPSET, kind), opset_imports=opsets, ir_version=10)


def given(dtype: str, shape: list[Any]) -> TensorDesc:
    """An input whose named sizes are open."""
    sizes = [
        ShapeExpr(size) if isinstance(size, int) else ShapeExpr(lambda env, size=size: env[size])
        for size in shape
    ]
    return TensorDesc(sizes, TYPES[dtype], tuple(size if isinstance(size, int) else -1 for size in shape))


def engine_of(
    proto: Any,
    dtype: str,
    shape: list[Any],
    tuned: tuple[int, ...],
    precision: str = "exact",
    choose: int = 0,
) -> list[Any]:
    trt = fake_plugin_api.module()
    tensorrt.register(trt)
    tensorrt.register(trt)  # Again is harmless.
    made = with_plugins(proto, {"given": tuned}, GPU, precision)
    assert made.functions[:] == [body for body in proto.functions if body.name == "nothing"]
    return fake_plugin_api.build(trt, made.graph.node, {"given": given(dtype, shape)}, choose)


def run(engine: list[Any], array: Array, sizes: dict[str, int]) -> dict[str, Array]:
    """Execute an engine's kernels, one after the other."""
    memory = Memory()
    addresses = {"given": memory.put(array)}
    types = {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.BF16: ml_dtypes.bfloat16}
    for step in engine:
        for name, result in zip(step.outputs, step.results, strict=True):
            shape = tuple(size.evaluate(sizes) for size in result.shape_expr)
            addresses[name] = memory.empty(shape, types[result.dtype])
        numbers = {name: getattr(step.launch, name).evaluate(sizes) for name in step.launch.NAMES}
        grid, block = (tuple(numbers[f"{kind}_{axis}"] for axis in "xyz") for kind in ("grid", "block"))
        module = parse(step.ptx)
        statics = sum(int(bits) // 8 for bits in re.findall(r"\.shared \.align \d+ \.[bu](\d+) ", step.ptx))
        assert numbers["shared_mem"] + 128 * bool(statics) <= 48 * 1024  # Without asking for more.
        machine = Machine(
            module.entries[step.kernel], module.variables, block, grid, numbers["shared_mem"],
            max(1, min(1024 // block[0], int(np.prod(grid)))),
        )  # fmt: skip
        machine.run(memory, fake_plugin_api.arguments(step, addresses, sizes), (), 20_000_000)
    return {name: memory.get(addresses[name]) for step in engine for name in step.outputs}


def gram_engine(
    dtype: str, channels: int, *, scale: float = 0.0, precision: str = "exact", choose: int = 0
) -> list[Any]:
    shape = ["N", channels, "H", "W"]
    node = helper.make_node("GramMatrix", ["given"], ["gram"], "gram", domain=DOMAIN, scale=scale)
    return engine_of(
        network(node, dtype, shape, ["gram"]), dtype, shape, (1, channels, 24, 40), precision, choose
    )


@pytest.mark.parametrize(
    ("dtype", "precision", "channels", "tolerance"),
    [
        ("float32", "exact", 70, 1e-6), ("float32", "tf32", 24, 2e-3), ("float16", "exact", 70, 1e-6),
        ("bfloat16", "exact", 130, 1e-6),
    ],
)  # fmt: skip
@pytest.mark.parametrize("choose", [0, 1], ids=["planned", "second"])
def test_gram(dtype: str, precision: str, channels: int, tolerance: float, choose: int) -> None:
    """One engine for pictures of all sizes, whatever it was tuned for: aligned rows or not, many or few places."""
    engine = gram_engine(dtype, channels, precision=precision, choose=choose)
    assert engine[0].tactics == [1, 2] or "128" in engine[0].kernel
    for count, height, width in ((1, 16, 32), (2, 3, 7), (1, 1, 1)):
        values = np.random.default_rng(0).standard_normal((count, channels, height, width)) + 0.5
        array = values.astype(NUMPY[dtype])
        made = run(engine, array, {"N": count, "H": height, "W": width})["gram"]
        rows = array.astype(np.float64).reshape(count, channels, -1)
        wanted = rows @ rows.transpose(0, 2, 1) / (height * width)
        np.testing.assert_allclose(made, wanted, rtol=0, atol=tolerance * float(np.abs(wanted).max()))
        np.testing.assert_array_equal(made, made.transpose(0, 2, 1))


def test_a_scale_is_compiled_in() -> None:
    array = np.random.default_rng(1).standard_normal((1, 5, 4, 6)).astype(np.float32)
    rows = array.astype(np.float64).reshape(1, 5, -1)
    made = run(gram_engine("float32", 5, scale=0.3), array, {"N": 1, "H": 4, "W": 6})["gram"]
    np.testing.assert_allclose(made, rows @ rows.transpose(0, 2, 1) * np.float32(0.3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [64, "W"], ids=["fixed", "open"])
@pytest.mark.parametrize(("kind", "dtype"), list(zip(KINDS, TYPES, strict=True)))
def test_total_variation(kind: str, dtype: str, width: int | str) -> None:
    shape = ["N", 3, "H", width]
    node = helper.make_node(
        "TotalVariation", ["given"], ["value", "gradient"], "tv", domain=DOMAIN, kind=kind, epsilon=0.001
    )
    proto = network(node, dtype, shape, ["value", "gradient"], kind)
    engine = engine_of(proto, dtype, shape, (1, 3, 48, 64))
    assert ("packed" in engine[0].kernel) == (width == 64)
    # Of open widths also those whose columns fill blocks, or leave one thread of a block with work.
    open_widths = ((2, 9, 23), (1, 30, 1), (1, 1, 1), (2, 30, 128), (1, 2, 43))
    for count, height, across in ((2, 21, 64), (1, 1, 64)) if width == 64 else open_widths:
        array = np.random.default_rng(2).random((count, 3, height, across)).astype(NUMPY[dtype])
        made = run(engine, array, {"N": count, "H": height, "W": across})
        value, gradient = variation(array.astype(np.float64), kind, float(np.float32(0.001)))
        np.testing.assert_allclose(made["value"], value, rtol=1e-5, atol=1e-6)
        rounding = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
        np.testing.assert_allclose(made["gradient"].astype(np.float64), gradient, rtol=0, atol=rounding)


def test_other_nodes_keep_their_bodies() -> None:
    nodes = [
        helper.make_node("GramMatrix", ["given"], ["gram"], "gram", domain=DOMAIN),
        helper.make_node("GramMatrixGrad", ["gram", "given"], ["slope"], "slope", domain=DOMAIN),
    ]
    proto = network(nodes[0], "float32", ["N", 8, "H", "W"], ["slope"])
    proto.graph.node.append(nodes[1])
    before = proto.SerializeToString()
    made = with_plugins(proto, {"given": (1, 8, 16, 16)}, GPU)
    assert proto.SerializeToString() == before
    assert [node.op_type for node in made.graph.node] == ["GramPartial", "GramReduce", "GramMatrixGrad"]
    assert [body.name for body in made.functions] == ["GramMatrixGrad"]


def test_for_a_library_of_plugins_nodes_say_where_they_are() -> None:
    node = helper.make_node("GramMatrix", ["given"], ["gram"], "gram", domain=DOMAIN, scale=0.5)
    made = for_library(network(node, "float32", ["N", 8, "H", "W"], ["gram"]))
    given = {each.name: helper.get_attribute_value(each) for each in made.graph.node[0].attribute}
    assert given == {"scale": 0.5, "plugin_namespace": b"gantk", "plugin_version": b"1"}


def test_what_the_library_has_no_plugin_for_keeps_its_body() -> None:
    """As the convolutions and the pooling of a step of style transfer: without a body or a plugin a parser stops."""
    node = helper.make_node("GramMatrix", ["pooled"], ["gram"], "gram", domain=DOMAIN)
    proto = network(node, "float32", ["N", 8, "H", "W"], ["gram"])
    proto.graph.node.insert(0, helper.make_node("MaxPool2x2", ["given"], ["pooled"], "pool", domain=DOMAIN))
    made = for_library(proto)
    pool, gram = made.graph.node
    assert [each.name for each in gram.attribute] == ["plugin_namespace", "plugin_version"]
    assert len(pool.attribute) == 0
    kept = {body.name for body in made.functions}
    assert "MaxPool2x2" in kept
    assert kept.isdisjoint({"GramMatrix", "GramMatrixGrad", "TotalVariation"})


def test_what_is_missing_is_said() -> None:
    node = helper.make_node("GramMatrix", ["given"], ["gram"], "gram", domain=DOMAIN)
    proto = network(node, "float32", ["N", 8, "H", "W"], ["gram"])
    with pytest.raises(GantkError, match="the size of input 'given' is missing; given are none"):
        with_plugins(proto, {}, GPU)
    with pytest.raises(GantkError, match=r"compute capability 7.0; the kernels want at least 7.5"):
        plugin_target((7, 0))
    with pytest.raises(GantkError, match="there is no Gram kernel 'tf32' for float16 with tiles of 64"):
        partial_kernel("float16", "tf32", 64)
    with pytest.raises(
        GantkError, match="the kind of total variation is 'l3'; allowed are l1, l2, isotropic"
    ):
        variation_kernel("float32", "l3", 0.0, packed=True)


def test_an_engine_for_open_widths_refuses_kernels_of_whole_packs() -> None:
    shape = ["N", 3, "H", "W"]
    node = helper.make_node(
        "TotalVariation", ["given"], ["value", "gradient"], "tv", domain=DOMAIN, kind="l1"
    )
    made = with_plugins(
        network(node, "float32", ["N", 3, "H", 64], ["value"]), {"given": (1, 3, 48, 64)}, GPU
    )
    trt = fake_plugin_api.module()
    tensorrt.register(trt)
    with pytest.raises(
        GantkError, match=r"rows of -1 pixels \(-1: any number\) are no whole number of packs"
    ):
        fake_plugin_api.build(trt, made.graph.node, {"given": given("float32", shape)})
