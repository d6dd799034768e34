# SPDX-License-Identifier: Apache-2.0
"""Operators that become others on the way to native ones: proven equal, by the bodies of these and natively."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from export_graphs import close, kinds, picture, run
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.rewrites import rewrite
from gantk.runtime.operators import OPERATORS
from native_build import onnxruntime_library
from norm_graphs import Draft
from wholly_native import turned


def counted(graph: ir.Model) -> Counter[str]:
    return Counter(kinds(graph))


def assert_alike(graph: ir.Model, *, channels: int, height: int = 9, width: int = 7) -> ir.Model:
    """The wholly native form, which computes what the graph does, by its bodies and by its kernels."""
    x = picture(2, channels, height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OPERATORS, "")
        wanted, other = run(graph, x), turned(graph)
        assert np.abs(wanted).max() > 0.01
        close(run(other, x), wanted, 1e-5)
        patch.setenv(OPERATORS, str(onnxruntime_library()))
        close(run(other, x), wanted, 1e-5)
    return other


# --- averages ---------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    channels=st.sampled_from([2, 3, 16]),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.sampled_from([None, [0, 0, 0, 0], [1, 0, 1, 1]]),
    height=st.integers(8, 11),
)
def test_averages_are_of_each_channel_by_itself(
    channels: int, window: tuple[int, int], strides: tuple[int, int], pads: list[int] | None, height: int
) -> None:
    assume(pads is None or min(window) > 1)
    draft = Draft(channels, 0)
    how = {} if pads is None else {"pads": pads, "count_include_pad": 1}
    value = draft.add("AveragePool", "x", kernel_shape=window, strides=strides, **how)
    draft.conv(value, channels, 4, 1)
    other = assert_alike(draft.graph(), channels=channels, height=height)
    assert counted(other)["NhwcDepthwiseConvolution"] == 1


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1]},
        {"ceil_mode": 1},
        {"auto_pad": "SAME_UPPER"},
        {"dilations": [2, 2]},
    ],
    ids=str,
)
def test_other_averages_stay(attributes: dict[str, object]) -> None:
    draft = Draft(4, 0)
    draft.conv(draft.add("AveragePool", "x", kernel_shape=[2, 2], **attributes), 4, 4)
    assert rewrite(draft.graph(), [WHOLLY_NATIVE]) is None


# --- crops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "mode", "pads"),
    [
        ([0, 0, -1, -2, 0, 0, -3, -1], "reflect", 0),
        ([0, 0, -1, 0, 0, 0, 0, 0], "constant", 0),
        ([0, 0, 0, -2, 0, 0, 0, 0], "edge", 0),
        ([0, 0, -1, 2, 0, 0, 1, -2], "constant", 1),
    ],
)
def test_crops_are_cuts(amounts: list[int], mode: str, pads: int) -> None:
    draft = Draft(3, 0)
    value = draft.add("Pad", draft.conv("x", 3, 4), draft.weight(np.array(amounts)), mode=mode)
    draft.conv(value, 4, 4, 1)
    found = counted(assert_alike(draft.graph(), channels=3))
    assert (found["Slice"], found["BorderedBlocks"]) == (1, pads)


@pytest.mark.parametrize(
    ("amounts", "mode"), [([0, -1, 0, 0, 0, 0, 0, 0], "constant"), ([0, 0, -1, 1, 0, 0, 0, 0], "reflect")]
)
def test_crops_of_channels_and_crops_that_reflect_stay(amounts: list[int], mode: str) -> None:
    draft = Draft(3, 0)
    value = draft.add("Pad", draft.conv("x", 3, 4), draft.weight(np.array(amounts)), mode=mode)
    draft.conv(value, 4 + sum(amounts[1:2]), 4, 1)
    assert rewrite(draft.graph(), [WHOLLY_NATIVE]) is None


# --- groups -----------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    groups=st.integers(2, 4),
    inputs=st.integers(2, 3),
    made=st.integers(1, 3),
    bias=st.booleans(),
    after=st.sampled_from(["Relu", "LeakyRelu", "Tanh"]),
    pads=st.sampled_from([[0] * 4, [1] * 4, [0, 1, 2, 1]]),
    stride=st.integers(1, 2),
)
def test_groups_are_convolutions_of_their_own(
    groups: int, inputs: int, made: int, bias: bool, after: str, pads: list[int], stride: int
) -> None:
    channels, outputs = groups * inputs, groups * made
    draft = Draft(channels, 0)
    weights = [draft.normal(outputs, inputs, 3, 3), *([draft.normal(outputs)] if bias else [])]
    how = {"group": groups, "pads": pads, "strides": [stride, stride]}
    draft.conv(draft.add(after, draft.add("Conv", "x", *weights, **how)), outputs, 2, 1)
    found = counted(assert_alike(draft.graph(), channels=channels))
    assert found["Slice"] == groups
    assert found["NhwcConvolutionRelu" if after == "Relu" else "NhwcConvolution"] >= groups


def test_groups_with_computed_weights_stay() -> None:
    draft = Draft(4, 0)
    weights = draft.add("Relu", draft.normal(4, 2, 3, 3))
    draft.add("Relu", draft.add("Conv", draft.conv("x", 4, 4), weights, group=2))
    assert rewrite(draft.graph(), [WHOLLY_NATIVE]) is None


# --- quotients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_channel", [False, True])
def test_quotients_by_constants_are_products(by_channel: bool) -> None:
    draft = Draft(4, 0)
    divisor = np.linspace(1, 3, 4, dtype=np.float32).reshape(4, 1, 1) if by_channel else np.float32(2**0.5)
    value = draft.add("Add", draft.conv("x", 4, 4, 1), "x")
    draft.conv(draft.add("Div", value, draft.weight(np.asarray(divisor))), 4, 4, 1)
    assert counted(assert_alike(draft.graph(), channels=4))["NhwcAffine"] == 1


@pytest.mark.parametrize("divisor", ["zero", "computed", "first"])
def test_other_quotients_stay(divisor: str) -> None:
    draft = Draft(4, 0)
    value = draft.conv("x", 4, 4, 1)
    other = {
        "zero": draft.weight(np.array(0, np.float32)),
        "computed": draft.add("Abs", value),
        "first": draft.weight(np.array(2, np.float32)),
    }[divisor]
    draft.conv(draft.add("Div", *((other, value) if divisor == "first" else (value, other))), 4, 4, 1)
    assert counted(turned(draft.graph()))["Div"] == 1


# --- enlargements -----------------------------------------------------------------------------------------------------

HALVES = ("half_pixel", "round_prefer_floor")


def enlarged(
    draft: Draft, value: str, scales: list[float], place: str, rounded: str, mode: str = "nearest"
) -> str:
    how = {"mode": mode, "nearest_mode": rounded, "coordinate_transformation_mode": place}
    return draft.add("Resize", value, "", draft.weight(np.array(scales, np.float32)), **how)


@pytest.mark.parametrize(
    ("place", "rounded"),
    [
        ("asymmetric", "floor"),
        ("asymmetric", "round_prefer_floor"),
        HALVES,
        ("half_pixel", "round_prefer_ceil"),
    ],
)
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 2), (2, 1), (1, 1), (3, 3), (4, 3)])
def test_pixels_that_are_repeated_are_copied(place: str, rounded: str, rows: int, columns: int) -> None:
    draft = Draft(3, 0)
    value = enlarged(draft, draft.conv("x", 3, 4, 1), [1, 1, rows, columns], place, rounded)
    draft.conv(draft.add("Abs", value), 4, 4, 1)
    if max(rows, columns) > 2 and (place, rounded) == ("asymmetric", "round_prefer_floor"):
        other = rewrite(draft.graph(), [WHOLLY_NATIVE])
        assert other is not None
        assert counted(other)["Resize"] == 1
        return
    found = counted(assert_alike(draft.graph(), channels=3))
    assert (found["Resize"], found["Concat"]) == (0, (rows > 1) + (columns > 1) + 1)


@pytest.mark.parametrize(
    ("scales", "place", "rounded"),
    [
        ([1, 1, 1.5, 2], *HALVES),
        ([1, 1, 0.5, 0.5], *HALVES),
        ([1, 2, 2, 2], *HALVES),
        ([1, 1, 2, 2], "align_corners", "round_prefer_floor"),
        ([1, 1, 2, 2], "asymmetric", "ceil"),
        ([1, 1, 2, 2], "half_pixel", "floor"),
    ],
    ids=str,
)
def test_other_enlargements_are_of_a_picture(scales: list[float], place: str, rounded: str) -> None:
    draft = Draft(4, 0)
    value = enlarged(draft, draft.conv("x", 4, 4, 1), scales, place, rounded)
    draft.conv(draft.add("Abs", value), 4 * int(scales[1]), 4, 1)
    other = rewrite(draft.graph(), [WHOLLY_NATIVE])
    assert other is not None
    assert counted(other)["Resize"] == 1
    x = picture(2, 4, 6, 8)
    close(run(other, x), run(draft.graph(), x), 1e-5)


POINTWISE = "pointwise-before-enlargement"


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    mode=st.sampled_from(["nearest", "linear"]),
    place=st.sampled_from(["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"]),
    scales=st.sampled_from([[1, 1, 2, 2], [1, 1, 1, 3], [1, 1, 1.5, 2]]),
    made=st.integers(1, 5),
    bias=st.booleans(),
)
def test_a_convolution_of_single_pixels_sees_the_small_picture(
    mode: str, place: str, scales: list[float], made: int, bias: bool
) -> None:
    draft = Draft(3, 0)
    value = enlarged(draft, "x", scales, place, "floor", mode)
    weights = [draft.normal(made, 3, 1, 1), *([draft.normal(made)] if bias else [])]
    draft.add("Relu", draft.add("Conv", value, *weights))
    graph = draft.graph()
    other = rewrite(graph, [POINTWISE])
    assert other is not None
    assert kinds(other) == ["Conv", "Resize", "Relu"]
    x = picture(2, 3, 4, 6)
    close(run(other, x), run(graph, x), 1e-5)


@pytest.mark.parametrize(
    "change",
    ["kernel", "pads", "strides", "smaller", "channels", "cubic", "crop", "twice", "shown", "computed"],
)
def test_other_convolutions_see_the_large_one(change: str) -> None:
    draft = Draft(4, 0)
    scales = {"smaller": [1, 1, 0.5, 2], "channels": [1, 2, 2, 2]}.get(change, [1, 1, 2, 2])
    place = "tf_crop_and_resize" if change == "crop" else "half_pixel"
    how = {"mode": "cubic" if change == "cubic" else "linear", "coordinate_transformation_mode": place}
    regions = draft.weight(np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)) if change == "crop" else ""
    value = draft.add("Resize", "x", regions, draft.weight(np.array(scales, np.float32)), **how)
    more = {"pads": {"pads": [1] * 4}, "strides": {"strides": [2, 2]}}.get(change, {})
    channels = 8 if change == "channels" else 4
    if change == "computed":
        made = draft.add("Conv", value, draft.add("Relu", draft.normal(4, 4, 1, 1)))
    else:
        made = draft.conv(value, channels, 4, 3 if change == "kernel" else 1, **more)
    draft.add("Relu", made)
    if change == "twice":
        draft.add("Concat", draft.add("Abs", value), "Relu2.out", axis=1)
    graph = draft.graph()
    if change == "shown":
        shown = next(node.outputs[0] for node in graph.graph if node.op_type == "Resize")
        graph.graph.outputs.append(shown)
    assert rewrite(graph, [POINTWISE]) is None


# --- transposed convolutions ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    stride=st.integers(2, 4),
    kernel=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    before=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    more=st.integers(0, 3),
    bias=st.booleans(),
    after=st.sampled_from(["Relu", "LeakyRelu", "Tanh"]),
    made=st.integers(1, 3),
)
def test_a_transposed_convolution_that_enlarges_by_its_stride_is_a_sub_pixel_one(
    stride: int,
    kernel: tuple[int, int],
    before: tuple[int, int],
    more: int,
    bias: bool,
    after: str,
    made: int,
) -> None:
    """FSRCNN's last layer (Dong et al., arXiv 1608.00367), a U-Net's of 2 x 2, and whatever else grows just so."""
    assume(more < stride)
    ends = [size - pad + more - stride for size, pad in zip(kernel, before, strict=True)]
    assume(min(ends) >= 0)
    draft = Draft(3, 0)
    weights = [draft.normal(3, made, *kernel), *([draft.normal(made)] if bias else [])]
    how = {"strides": [stride] * 2, "pads": [*before, *ends], "output_padding": [more, more]}
    draft.add(after, draft.add("ConvTranspose", "x", *weights, **how))
    graph = draft.graph()
    found = counted(assert_alike(graph, channels=3, height=5))
    assert found["NhwcTransposedConvolution4x4"] + sum(
        count for kind, count in found.items() if kind.startswith("NhwcConvolution")
    ) in (0, 1)


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 3), {"strides": [3, 2]}),
        ((5, 5), {"strides": [3, 3]}),
        ((3, 3), {"strides": [3, 3], "dilations": [2, 2]}),
        ((3, 3), {"strides": [3, 3], "auto_pad": "SAME_UPPER"}),
        ((3, 3), {"strides": [3, 3], "output_shape": [27, 21]}),
        ((3, 3), {"pads": [1, 1, 1, 1]}),
    ],
    ids=str,
)
def test_other_transposed_convolutions_stay(kernel: tuple[int, int], attributes: dict[str, object]) -> None:
    draft = Draft(4, 0)
    draft.add(
        "Relu", draft.add("ConvTranspose", draft.conv("x", 4, 4), draft.normal(4, 4, *kernel), **attributes)
    )
    assert rewrite(draft.graph(), [WHOLLY_NATIVE]) is None
