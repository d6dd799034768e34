# SPDX-License-Identifier: Apache-2.0
"""The rewrites that networks for styles profit from, each proven equal to what it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export_graphs import kinds, make_graph, picture, run
from gantk.export import verify
from gantk.export.rewrites import rewrite

ENLARGED = ("enlarged-to-transposed", "enlarged-to-subpixel")


def enlarged(
    inputs: int = 3,
    outputs: int = 4,
    *,
    kernel: int = 3,
    pad: int = 1,
    mode: str = "reflect",
    fill: float | None = None,
    bias: bool = True,
    scale: float = 2.0,
    seed: int = 0,
    convolution: dict[str, Any] | None = None,
    **resize: Any,
) -> ir.Model:
    """A nearest enlargement, a padding (by the convolution itself where `mode` is empty), and a convolution."""
    random = np.random.default_rng(seed)
    weights = {
        "scales": np.array([1, 1, scale, scale], np.float32),
        "pads": np.array([0, 0, pad, pad, 0, 0, pad, pad]),
        "w": random.standard_normal((outputs, inputs, kernel, kernel)).astype(np.float32),
        "b": random.standard_normal(outputs).astype(np.float32),
        "fill": np.array(0.0 if fill is None else fill, np.float32),
    }
    how = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
        **resize,
    }
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["large"], name="grow", **how)]
    own = {"pads": [pad] * 4}
    if mode:
        padded = ["large", "pads", *(["fill"] if fill is not None else [])]
        nodes.append(helper.make_node("Pad", padded, ["padded"], name="pad", mode=mode))
        own = {}
    read = ["padded" if mode else "large", "w", *(["b"] if bias else [])]
    nodes.append(helper.make_node("Conv", read, ["y"], name="conv", **own, **(convolution or {})))
    used = {name for node in nodes for name in node.input}
    return make_graph(
        nodes, {name: array for name, array in weights.items() if name in used}, inputs, outputs
    )


@pytest.mark.parametrize("name", ENLARGED)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 7),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    mode=st.sampled_from(["reflect", "edge", "constant", ""]),
    bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_an_enlargement_and_its_convolution_are_one_layer(
    name: str,
    batch: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    mode: str,
    bias: bool,
    seed: int,
) -> None:
    graph = enlarged(inputs, outputs, mode=mode, bias=bias, seed=seed)
    other = rewrite(graph, [name])
    assert other is not None
    assert "Resize" not in kinds(other)
    x = picture(batch, inputs, height, width, seed)
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=2e-5)


@pytest.mark.parametrize(
    ("place", "rounding"),
    [
        ("asymmetric", "floor"),
        ("asymmetric", "round_prefer_floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
        (None, None),
    ],
)
def test_other_exporters_round_otherwise(place: str | None, rounding: str | None) -> None:
    """Each pixel becomes two by two, whatever is said of it, or nothing is, which is ONNX's default."""
    graph = enlarged(coordinate_transformation_mode=place, nearest_mode=rounding)
    x = picture(2, 3, 5, 4)
    for name in ENLARGED:
        other = rewrite(graph, [name])
        assert other is not None
        np.testing.assert_allclose(run(other, x), run(graph, x), atol=2e-5)


@pytest.mark.parametrize("backend", verify.working_backends("fp32"))
@pytest.mark.parametrize("name", ENLARGED)
def test_every_backend_computes_the_layer_right(name: str, backend: str) -> None:
    graph = enlarged(16, 24)
    other = rewrite(graph, [name])
    assert other is not None
    x = picture(2, 16, 7, 10)
    np.testing.assert_allclose(run(other, x, backend), run(graph, x), atol=5e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": 5, "pad": 2},
        {"pad": 2},
        {"scale": 3.0},
        {"mode": "constant", "fill": 1.0},
        {"mode": "wrap"},
        {"convolution": {"strides": [2, 2]}},
        {"convolution": {"dilations": [2, 2]}},
        {"convolution": {"pads": [1, 1, 1, 1]}},
        {"convolution": {"auto_pad": "SAME_UPPER"}},
        {"coordinate_transformation_mode": "align_corners"},
        {"nearest_mode": "ceil"},
        {"nearest_mode": "round_prefer_ceil"},
        {"coordinate_transformation_mode": "half_pixel"},
        {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "ceil"},
        {"resize_mode": "linear"},
        {"axes": [2, 3, 1, 0]},
    ],
    ids=str,
)
def test_other_enlargements_are_left_alone(change: dict[str, Any]) -> None:
    if "resize_mode" in change:
        graph = enlarged()
        graph.graph[0].attributes["mode"] = ir.AttrString("mode", change["resize_mode"])
    else:
        graph = enlarged(**change)
    assert all(rewrite(graph, [name]) is None for name in ENLARGED)


def test_an_enlargement_that_something_else_needs_stays() -> None:
    graph = enlarged(3, 3)
    large = graph.graph[0].outputs[0]
    extra = ir.node("ReduceMean", [large], name="mean")
    extra.outputs[0].name, extra.outputs[0].type = "mean", ir.TensorType(ir.DataType.FLOAT)
    graph.graph.append(extra)
    graph.graph.outputs.append(extra.outputs[0])
    assert all(rewrite(graph, [name]) is None for name in ENLARGED)


LAYERS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "grow": (
        "Resize",
        ["", "scales"],
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "threefold": ("Resize", ["", "three"], {"axes": [2, 3]}),
    "relu": ("Relu", [], {}),
    "scale": ("Mul", ["k"], {}),
    "same": ("Conv", ["v"], {"pads": [1, 1, 1, 1]}),
    "shrink": ("Conv", ["v"], {"pads": [1, 1, 0, 0]}),
    "narrower": ("Conv", ["v"], {"pads": [1, 1, 1, 0]}),
    "double": ("ConvTranspose", ["u"], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "double by three": (
        "ConvTranspose",
        ["v"],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    "double, and two": ("ConvTranspose", ["u"], {"strides": [2, 2]}),
    "double, and one": ("ConvTranspose", ["u"], {"strides": [2, 2], "pads": [1, 1, 0, 0]}),
    "double, less one": ("ConvTranspose", ["v"], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "double, with one": ("ConvTranspose", ["u"], {"strides": [2, 2], "output_padding": [1, 1]}),
    "uneven": ("Pad", ["one"], {"mode": "edge"}),
    "above and below": ("Pad", ["rows"], {"mode": "edge"}),
    "right": ("Pad", ["column"], {"mode": "edge"}),
    "around": ("Pad", ["pads"], {"mode": "constant"}),
    "beside": ("Pad", ["first", "", "order"], {"mode": "edge"}),
    "crop": ("Slice", ["starts", "ends", "axes"], {}),
    "inner": ("Slice", ["ones", "minus", "sides"], {}),
    "round": ("Round", [], {}),
    "clip": ("Clip", ["low", "high"], {}),
    "turn": ("Transpose", [], {"perm": [0, 2, 3, 1]}),
}


def painted(
    *between: str,
    outputs: int = 3,
    kernel: int = 9,
    seed: int = 0,
    bias: bool = True,
    after: Sequence[str] = (),
) -> ir.Model:
    """Some layers, a padding, a convolution with few outputs, and some layers more."""
    random = np.random.default_rng(seed)
    half = kernel // 2
    weights = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "pads": np.array([0, 0, half, half, 0, 0, half, half]),
        "three": np.array([3, 3], np.float32),
        "one": np.array([0, 0, 1, 1, 0, 0, 0, 0]),
        "first": np.array([1, 0, 0, 0, 0, 0, 0, 0]),
        "rows": np.array([0, 0, 1, 0, 0, 0, 1, 0]),
        "column": np.array([0, 0, 0, 0, 0, 0, 0, 1]),
        "u": random.standard_normal((4, 4, 4, 4)).astype(np.float32),
        "order": np.array([3, 1, 2, 0]),
        "v": random.standard_normal((4, 4, 3, 3)).astype(np.float32),
        "k": random.standard_normal((1, 4, 1, 1)).astype(np.float32),
        "w": random.standard_normal((outputs, 4, kernel, kernel)).astype(np.float32),
        "b": random.standard_normal(outputs).astype(np.float32),
        "starts": np.array([0]),
        "ends": np.array([-1]),
        "axes": np.array([2]),
        "ones": np.array([1, 1]),
        "minus": np.array([-1, -1]),
        "sides": np.array([2, 3]),
        "low": np.float32(-20),
        "high": np.float32(20),
    }
    paint = ("Conv", ["w", *(["b"] if bias else [])], {})
    steps = [*((name, LAYERS[name]) for name in (*between, "around")), ("paint", paint)]
    steps += [(name, LAYERS[name]) for name in after]
    value, nodes = "x", []
    for index, (name, (kind, rest, attributes)) in enumerate(steps):
        made = "y" if index == len(steps) - 1 else f"t{index}"
        nodes.append(helper.make_node(kind, [value, *rest], [made], name=f"{name}{index}", **attributes))
        value = made
    used = {name for node in nodes for name in node.input}
    return make_graph(nodes, {name: array for name, array in weights.items() if name in used}, 4, outputs)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    outputs=st.integers(1, 4),
    kernel=st.sampled_from([3, 5, 9]),
    bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_a_narrow_convolution_is_one_of_four_times_the_width(
    batch: int, height: int, width: int, outputs: int, kernel: int, bias: bool, seed: int
) -> None:
    graph = painted("grow", "relu", outputs=outputs, kernel=kernel, bias=bias, seed=seed)
    other = rewrite(graph, ["narrow-to-phases"])
    assert other is not None
    assert kinds(other)[-2:] == ["Conv", "DepthToSpace"]
    x = picture(batch, 4, height, width, seed)
    expected = run(graph, x)
    np.testing.assert_allclose(run(other, x), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("between", "turned"),
    [
        ((), False),
        (("relu",), False),
        (("grow",), True),
        (("grow", "relu", "scale", "same"), True),
        (("grow", "uneven"), False),
        (("grow", "shrink"), False),
        (("grow", "uneven", "shrink"), False),
        (("uneven", "grow"), True),
        (("threefold",), False),
        (("grow", "beside"), False),
        (("grow", "above and below"), True),
        (("grow", "right"), False),
        (("grow", "narrower"), False),
        (("double",), True),
        (("double by three",), True),
        (("double, and two",), True),
        (("double, and one",), False),
        (("double, less one",), False),
        (("double, with one",), False),
    ],
)
def test_only_where_every_size_is_even(between: tuple[str, ...], turned: bool) -> None:
    graph = painted(*between)
    other = rewrite(graph, ["narrow-to-phases"])
    assert (other is not None) == turned
    if other is not None:
        x = picture(1, 4, 5, 7)
        expected = run(graph, x)
        np.testing.assert_allclose(run(other, x), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("height", "width", "turned"), [(6, 8, True), (5, 8, False), (6, 7, False)])
def test_sizes_may_be_even_because_they_are_always_the_same(height: int, width: int, turned: bool) -> None:
    proto = ir.to_proto(painted())
    for axis, size in enumerate((height, width), start=2):
        for value in (proto.graph.input[0], proto.graph.output[0]):
            value.type.tensor_type.shape.dim[axis].dim_value = size
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    other = rewrite(graph, ["narrow-to-phases"])
    assert (other is not None) == turned
    if other is not None:
        x = picture(1, 4, height, width)
        expected = run(graph, x)
        np.testing.assert_allclose(run(other, x), expected, atol=1e-5 * np.abs(expected).max())


def test_a_crop_in_steps_that_are_computed_may_leave_any_size() -> None:
    graph = painted("grow", "inner")
    cut = next(node for node in graph.graph if node.op_type == "Slice")
    assert rewrite(graph, ["narrow-to-phases"]) is not None
    steps = ir.node("Neg", [cut.inputs[2]], name="steps")
    steps.outputs[0].name = "steps"
    graph.graph.insert_before(cut, steps)
    cut.resize_inputs(5)
    cut.replace_input_with(4, steps.outputs[0])
    assert rewrite(graph, ["narrow-to-phases"]) is None


def test_wide_and_pointwise_convolutions_are_left_alone() -> None:
    assert rewrite(painted("grow", outputs=5), ["narrow-to-phases"]) is None
    assert rewrite(painted("grow", kernel=1), ["narrow-to-phases"]) is None


@pytest.mark.parametrize("first", ENLARGED)
def test_evenness_is_seen_through_what_the_other_rewrites_leave(first: str) -> None:
    graph = painted("grow", "same", "relu")
    other = rewrite(graph, [first, "narrow-to-phases"])
    assert other is not None
    assert "Resize" not in kinds(other)
    x = picture(2, 4, 5, 3)
    expected = run(graph, x)
    np.testing.assert_allclose(run(other, x), expected, atol=1e-5 * np.abs(expected).max())


def test_what_is_done_to_each_pixel_is_done_before_they_are_spread_out() -> None:
    """As the end of a network that yields pixels: crop, round, clamp, turn."""
    graph = painted("grow", "relu", after=["crop", "crop", "round", "clip", "turn"])
    other = rewrite(graph, ["narrow-to-phases"])
    assert other is not None
    assert kinds(other)[-7:] == ["Conv", "Round", "Clip", "DepthToSpace", "Slice", "Slice", "Transpose"]
    for size in [(2, 1), (4, 7)]:
        x = picture(2, 4, *size)
        expected = run(graph, x)
        assert len(np.unique(expected)) > 5
        np.testing.assert_allclose(run(other, x), expected, atol=1e-3)


def test_the_same_may_be_done_twice() -> None:
    graph = painted("grow", after=["round", "relu", "clip", "relu"])
    other = rewrite(graph, ["narrow-to-phases"])
    assert other is not None
    assert kinds(other)[-6:] == ["Conv", "Round", "Relu", "Clip", "Relu", "DepthToSpace"]
    x = picture(1, 4, 5, 3)
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=1e-3)


def test_what_others_need_stays_where_it_is() -> None:
    graph = painted("grow", after=["round", "clip"])
    rounded = graph.graph[-2].outputs[0]
    rounded.type = ir.TensorType(ir.DataType.FLOAT)
    graph.graph.outputs.append(rounded)
    other = rewrite(graph, ["narrow-to-phases"])
    assert other is not None
    assert kinds(other)[-3:] == ["Round", "DepthToSpace", "Clip"]
    x = picture(1, 4, 5, 3)
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=1e-3)
