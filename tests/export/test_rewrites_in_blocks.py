# SPDX-License-Identifier: Apache-2.0
"""Wide convolutions of few channels as small ones of blocks: proven equal to what they were, at every size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export_graphs import kinds, make_graph, picture, run
from gantk.export import verify
from gantk.export.precision import convert
from gantk.export.rewrites import rewrite

BLOCKS = "narrow-to-blocks"


def wide(
    inputs: int = 3,
    outputs: int = 3,
    *,
    kernel: tuple[int, int] = (9, 9),
    bias: bool = True,
    seed: int = 0,
    **attributes: Any,
) -> ir.Model:
    """A convolution, and what follows it."""
    random = np.random.default_rng(seed)
    weights = {
        "w": random.standard_normal((outputs, inputs, *kernel)).astype(np.float32),
        "b": random.standard_normal(outputs).astype(np.float32),
    }
    read = ["x", *(weights if bias else ["w"])]
    nodes = [
        helper.make_node("Conv", read, ["c"], name="conv", **attributes),
        helper.make_node("Tanh", ["c"], ["y"], name="after"),
    ]
    # Far from where the hyperbolic tangent is 1 whatever it is given.
    scaled = {name: array * np.float32(0.05) for name, array in weights.items() if name in read}
    return make_graph(nodes, scaled, inputs, outputs)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    rows=st.integers(5, 10),
    columns=st.integers(5, 10),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_blocks_compute_what_pixels_do(
    batch: int,
    inputs: int,
    outputs: int,
    rows: int,
    columns: int,
    more: tuple[int, int],
    pads: tuple[int, int, int, int],
    bias: bool,
    seed: int,
) -> None:
    graph = wide(inputs, outputs, kernel=(rows, columns), bias=bias, seed=seed, pads=list(pads))
    other = rewrite(graph, [BLOCKS])
    if min(inputs, outputs) >= 8:
        assert other is None
        return
    assert other is not None
    x = picture(batch, inputs, rows + more[0], columns + more[1], seed)
    wanted = run(graph, x)
    assert np.abs(wanted).max() > 0.01, "the test wants values that differ"
    np.testing.assert_allclose(run(other, x), wanted, atol=2e-6)
    np.testing.assert_allclose(run(convert(other, "fp16"), x), wanted, atol=4e-3)


@pytest.mark.parametrize("backend", verify.working_backends("fp32"))
@pytest.mark.parametrize("size", [(9, 9), (12, 17), (18, 15)])
def test_every_backend_computes_them_right(backend: str, size: tuple[int, int]) -> None:
    graph = wide(pads=[4, 4, 4, 4])
    other = rewrite(graph, [BLOCKS])
    assert other is not None
    x = picture(2, 3, *size)
    np.testing.assert_allclose(run(other, x, backend), run(graph, x), atol=2e-5)


def test_a_picture_becomes_channels_for_tensor_cores() -> None:
    other = rewrite(wide(outputs=32), [BLOCKS])
    assert other is not None
    (node,) = [node for node in other.graph if node.op_type == "Conv"]
    assert node.inputs[1] is not None
    assert list(node.inputs[1].shape or ()) == [512, 48, 3, 3]
    assert kinds(other)[-4:] == ["Conv", "DepthToSpace", "Slice", "Tanh"]
    assert rewrite(other, [BLOCKS]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": (3, 9)},
        {"kernel": (9, 4)},
        {"strides": [2, 2]},
        {"dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER"},
        {"inputs": 8, "outputs": 8},
    ],
    ids=str,
)
def test_what_is_left_alone(change: dict[str, Any]) -> None:
    assert rewrite(wide(**change), [BLOCKS]) is None


def test_groups_and_computed_weights_are_left_alone() -> None:
    weight = np.ones((4, 2, 9, 9), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", group=2)]
    assert rewrite(make_graph(nodes, {"w": weight}, 4, 4), [BLOCKS]) is None
    nodes = [
        helper.make_node("Relu", ["w"], ["v"], name="made"),
        helper.make_node("Conv", ["x", "v"], ["y"], name="conv"),
    ]
    assert rewrite(make_graph(nodes, {"w": weight}, 2, 4), [BLOCKS]) is None
    nodes[0] = helper.make_node("Relu", ["b"], ["c"], name="made")
    nodes[1] = helper.make_node("Conv", ["x", "w", "c"], ["y"], name="conv")
    graph = make_graph(nodes, {"w": weight, "b": np.ones(4, np.float32)}, 2, 4)
    assert rewrite(graph, [BLOCKS]) is None


@pytest.mark.parametrize(
    ("name", "operator", "kernel"),
    [
        ("narrow-to-blocks", "Conv", 9),
        ("narrow-to-eights", "Conv", 3),
        ("narrow-to-phases", "Conv", 3),
        ("narrow-transposed-to-subpixel", "ConvTranspose", 4),
    ],
)
def test_no_rewrite_loses_a_bias_that_is_computed(name: str, operator: str, kernel: int) -> None:
    weights = {"w": np.ones((2, 2, kernel, kernel), np.float32), "b": np.ones(2, np.float32)}
    border = [1, 1, 1, 1] if kernel < 5 else [4, 4, 4, 4]
    strides = {"strides": [2, 2]} if operator == "ConvTranspose" else {}
    doubled = helper.make_node("Resize", ["x", "", "scales"], ["wide"], name="double", mode="nearest")
    nodes = [
        helper.make_node("Relu", ["b"], ["c"], name="made"),
        helper.make_node(operator, ["wide", "w", "c"], ["y"], name="conv", pads=border, **strides),
    ]
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    assert rewrite(make_graph([doubled, *nodes], {**weights, **scales}, 2, 2), [name]) is None
    nodes[1].input[2] = "b"
    assert rewrite(make_graph([doubled, nodes[1]], {**weights, **scales}, 2, 2), [name]) is not None
