# SPDX-License-Identifier: Apache-2.0
"""Convolutions of every kind as native ones with channels last: proven equal to what they replace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from export_graphs import close, kinds, make_graph, picture, run
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.rewrites import rewrite
from gantk.runtime.operators import OPERATORS
from native_build import onnxruntime_library
from norm_graphs import Draft
from wholly_native import turned


@pytest.fixture(autouse=True)
def _bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proven are the bodies."""
    monkeypatch.setenv(OPERATORS, "")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    inputs=st.integers(1, 5),
    made=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 2),
    dilation=st.sampled_from([1, 1, 2]),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    bias=st.booleans(),
    after=st.sampled_from(["Relu", "Tanh", "LeakyRelu"]),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
)
def test_a_convolution_of_any_size(
    inputs: int,
    made: int,
    kernel: tuple[int, int],
    stride: int,
    dilation: int,
    pads: list[int],
    bias: bool,
    after: str,
    height: int,
    width: int,
) -> None:
    assume(dilation * (kernel[0] - 1) < height + pads[0] + pads[2])
    assume(dilation * (kernel[1] - 1) < width + pads[1] + pads[3])
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((made, inputs, *kernel)).astype(np.float32)}
    if bias:
        weights["b"] = random.standard_normal(made).astype(np.float32)
    how = {"strides": [stride, stride], "pads": pads, "dilations": [dilation, dilation]}
    nodes = [
        helper.make_node("Conv", ["x", *weights], ["t"], name="conv", **how),
        helper.make_node(after, ["t"], ["y"], name="after"),
    ]
    graph = make_graph(nodes, weights, inputs, made)
    other = turned(graph)
    taken_in = {"Relu": "Relu", "LeakyRelu": "PRelu"}
    convolution = f"NhwcConvolution{taken_in.get(after, '')}"
    free = stride == dilation == 1 and pads[0] == pads[1] and pads[2] == pads[3]
    border = ["BorderedBlocks"] if any(pads) and not free else []
    end = [] if after in taken_in else [after]
    assert kinds(other) == ["Transpose", *border, convolution, *end, "Transpose"]
    x = picture(2, inputs, height, width)
    wanted = run(graph, x)
    assume(np.abs(wanted).max() > 0.01)
    close(run(other, x), wanted, 1e-5)


@pytest.mark.parametrize("native", [False, True], ids=["body", "native"])
@pytest.mark.parametrize("dilation", [2, 4, 16])
@pytest.mark.parametrize(("channels", "free"), [(16, True), (20, False)])
def test_a_dilated_convolution(
    channels: int, free: bool, dilation: int, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that fill in what is missing (Iizuka et al., ACM Transactions on Graphics 36:4)."""
    draft = Draft(channels, 0)
    how = {"dilations": [dilation] * 2, "pads": [dilation] * 4}
    draft.add("Relu", draft.conv("x", channels, channels, **how))
    graph = draft.graph()
    other = turned(graph)
    border = [] if free else ["BorderedBlocks"]
    assert kinds(other) == ["Transpose", *border, "NhwcConvolutionRelu", "Transpose"]
    x = picture(2, channels, 20, 23)
    wanted = run(graph, x)
    if native:
        monkeypatch.setenv(OPERATORS, str(onnxruntime_library()))
    close(run(other, x), wanted, 1e-5)


@pytest.mark.parametrize("mode", ["reflect", "edge", "constant", "own"])
def test_an_enlargement_is_one_transposed_convolution(mode: str) -> None:
    draft = Draft(3, 0)
    scales = draft.weight(np.array([1, 1, 2, 2], np.float32))
    how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    value = draft.add("Resize", "x", "", scales, **how)
    value = (
        draft.conv(value, 3, 3, pads=[1] * 4)
        if mode == "own"
        else draft.conv(draft.pad(value, 1, mode), 3, 3)
    )
    draft.add("Relu", value)
    graph = draft.graph()
    other = turned(graph)
    (enlarged,) = (node for node in other.graph if node.op_type == "NhwcTransposedConvolution4x4Relu")
    edge = mode in ("reflect", "edge")
    assert enlarged.attributes["pads"].as_ints() == (3 if edge else 1,) * 4
    assert kinds(other).count("BorderedBlocks") == edge
    x = picture(2, 3, 5, 7)
    close(run(other, x), run(graph, x), 1e-5)


@pytest.mark.parametrize("native", [False, True], ids=["body", "native"])
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize(
    ("kernel", "how", "pads"),
    [
        ((4, 4), {"pads": [1] * 4}, [1] * 4),
        ((3, 3), {"pads": [1] * 4, "output_padding": [1, 1]}, [1] * 4),
        ((1, 1), {"output_padding": [1, 1]}, [1] * 4),
        ((2, 4), {"pads": [0, 1, 0, 1]}, [1] * 4),
        ((4, 4), {"pads": [1, 1, 0, 0]}, [1, 1, 0, 0]),
        ((4, 4), {"pads": [1] * 4, "output_padding": [1, 1]}, [1, 1, 0, 0]),
        ((3, 3), {}, [1, 1, 0, 0]),
        ((3, 2), {"output_padding": [0, 1]}, [1, 1, 0, 0]),
        ((4, 4), {"pads": [3] * 4}, [3] * 4),
        ((3, 3), {"pads": [3] * 4, "output_padding": [1, 1]}, [3] * 4),
    ],
    ids=str,
)
def test_a_transposed_convolution_of_stride_2_is_one_of_kernel_4(
    kernel: tuple[int, int],
    how: dict[str, Any],
    pads: list[int],
    channels: int,
    native: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draft = Draft(channels, 0)
    weights = [draft.normal(channels, channels, *kernel), draft.normal(channels)]
    draft.add("Relu", draft.add("ConvTranspose", "x", *weights, strides=[2, 2], **how))
    graph = draft.graph()
    other = turned(graph)
    assert kinds(other) == ["Transpose", "NhwcTransposedConvolution4x4Relu", "Transpose"]
    assert list(other.graph[1].attributes["pads"].as_ints()) == pads
    x = picture(2, channels, 16, 11)  # Of more tiles than one.
    wanted = run(graph, x)
    if native:
        monkeypatch.setenv(OPERATORS, str(onnxruntime_library()))
    close(run(other, x), wanted, 1e-5)


@pytest.mark.parametrize("native", [False, True], ids=["body", "native"])
@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        ((4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((3, 2), {"strides": [2, 1], "output_padding": [1, 0]}),
        ((3, 3), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("after", ["Relu", "LeakyRelu", "Tanh"])
def test_a_transposed_convolution_of_each_channel_by_itself(
    kernel: tuple[int, int], how: dict[str, Any], after: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bilinear enlargements that are trained (Long et al., arXiv 1411.4038)."""
    draft = Draft(6, 0)
    weights = [draft.normal(6, 1, *kernel), draft.normal(6)]
    draft.add(after, draft.add("ConvTranspose", "x", *weights, group=6, **how))
    graph = draft.graph()
    other = turned(graph)
    taken_in = {"Relu": "Relu", "LeakyRelu": "PRelu"}.get(after, "")
    assert f"NhwcDepthwiseTransposed{taken_in}" in kinds(other)
    x = picture(2, 6, 7, 5)
    wanted = run(graph, x)
    if native:
        monkeypatch.setenv(OPERATORS, str(onnxruntime_library()))
    close(run(other, x), wanted, 1e-5)


@pytest.mark.parametrize("how", [{"output_shape": [14, 10]}, {"dilations": [2, 2]}, {"group": 3}], ids=str)
def test_others_of_groups_stay(how: dict[str, Any]) -> None:
    draft = Draft(6, 0)
    group = how.get("group", 6)
    attributes = {"group": group, "strides": [2, 2], **how}
    draft.add("Relu", draft.add("ConvTranspose", "x", draft.normal(6, 6 // group, 3, 3), **attributes))
    assert rewrite(draft.graph(), [WHOLLY_NATIVE]) is None
