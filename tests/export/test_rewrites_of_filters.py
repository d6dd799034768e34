# SPDX-License-Identifier: Apache-2.0
"""Filters of single channels as depthwise convolutions, proven equal to what exporters make of ``upfirdn2d``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export_graphs import close, kinds, make_graph, run
from filter_graphs import Filter
from gantk.export.rewrites import rewrite
from gantk.export.rewrites.filters import FEW_CHANNELS

NAMES = ("filters-to-depthwise",)
FORMS = st.sampled_from(["pictures", "groups"])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    pictures=st.integers(1, 3),
    channels=st.integers(1, 10),
    form=FORMS,
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    own=st.tuples(*[st.integers(0, 2)] * 4),
    bias=st.booleans(),
)
def test_a_blur_is_one_depthwise_convolution(
    pictures: int,
    channels: int,
    form: str,
    kernel: tuple[int, int],
    pads: tuple[int, int, int, int],
    own: tuple[int, int, int, int],
    bias: bool,
) -> None:
    draft = Filter(pictures, channels, (5, 6), form)
    graph = draft.filter(draft.pad("x", pads), kernel, bias=bias, pads=list(own))
    other = rewrite(graph, NAMES)
    assert other is not None
    assert kinds(other) == ["Conv", "Identity"]
    close(run(other, draft.features()), run(graph, draft.features()), 1e-5)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    pictures=st.integers(1, 3),
    channels=st.integers(1, 2 * FEW_CHANNELS),
    form=FORMS,
    by=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(3, 5), st.integers(3, 6)),
    data=st.data(),
    bias=st.booleans(),
)
def test_an_enlargement_is_one_transposed_convolution(
    pictures: int,
    channels: int,
    form: str,
    by: tuple[int, int],
    kernel: tuple[int, int],
    data: st.DataObject,
    bias: bool,
) -> None:
    least = [0, 0, 0, 0]
    most = [kernel[0] - 1, kernel[1] - 1, kernel[0] - by[0], kernel[1] - by[1]]
    pads = [data.draw(st.integers(low, high)) for low, high in zip(least, most, strict=True)]
    draft = Filter(pictures, channels, (5, 6), form)
    enlarged = draft.enlarge("x", by)
    graph = draft.filter(draft.pad(enlarged, tuple(pads)), kernel, bias=bias)
    other = rewrite(graph, NAMES)
    assert other is not None
    assert kinds(other) == ["ConvTranspose", "Identity"]
    kernels = other.graph.node(0).inputs[1]
    assert kernels is not None
    assert kernels.shape == (channels, channels if channels <= FEW_CHANNELS else 1, *kernel)
    close(run(other, draft.features()), run(graph, draft.features()), 1e-5)


@pytest.mark.parametrize("form", ["pictures", "groups"])
@pytest.mark.parametrize("kind", ["more", "front", "reflect", "filled", "cropped"])
def test_borders_that_no_convolution_has_stay(form: str, kind: str) -> None:
    draft = Filter(2, 3, (5, 6), form)
    value = "x"
    if kind == "more":  # More zeros around pictures than the kernel reaches.
        value = draft.pad(draft.enlarge(value, (2, 2)), (4, 4, 4, 4))
    elif kind == "front":  # Zeros before pixels, not behind them.
        value = draft.enlarge(value, (2, 2))
        name = next(node.input[1] for node in draft.nodes if node.op_type == "Pad")
        draft.weights[name] = np.roll(draft.weights[name], -len(draft.weights[name]) // 2)
    elif kind == "reflect":
        value = draft.pad(value, (1, 1, 1, 1), "reflect")
    elif kind == "filled":
        value = draft.pad(value, (1, 1, 1, 1), fill=1)
    else:
        value = draft.pad(value, (1, 1, -1, 0))
    graph = draft.filter(value, (3, 3))
    other = rewrite(graph, NAMES) or graph
    close(run(other, draft.features()), run(graph, draft.features()), 1e-5)
    assert "ConvTranspose" not in kinds(other)
    assert "Pad" in kinds(other)


def test_pictures_are_not_taken_for_channels() -> None:
    """Channels of all pictures, one after another, filtered as pictures and read in another order."""
    draft = Filter(2, 3, (5, 6), "pictures")
    graph = draft.filter(draft.shaped(draft.add("Transpose", "x", perm=[1, 0, 2, 3]), 2, 3, 5, 6), (3, 3))
    other = rewrite(graph, NAMES)
    assert other is not None
    close(run(other, draft.features()), run(graph, draft.features()), 1e-5)


def test_channels_of_zeros_stay() -> None:
    draft = Filter(2, 2, (5, 6), "groups")
    wide = draft.add("Pad", "x", draft.weight(np.array([0, 1, 0, 0, 0, 0, 0, 0])))
    draft.channels = 3
    graph = draft.filter(wide, (3, 3))
    graph.graph.inputs[0].shape = ir.Shape([2, 2, 5, 6])
    assert rewrite(graph, NAMES) is None


def test_pictures_that_are_laid_on_their_side_stay() -> None:
    draft = Filter(2, 3, (5, 6), "pictures")
    value = draft.add("Conv", draft.shaped("x", 6, 1, 5, 6), draft.normal(1, 1, 3, 3))
    draft.add("Identity", draft.shaped(value, 2, 3, 4, 3))
    draft.nodes[-1].output[0] = "y"
    assert rewrite(make_graph(draft.nodes, draft.weights, 3, 3, (5, 6), 2), NAMES) is None


def test_a_stride_stays() -> None:
    draft = Filter(2, 3, (5, 6), "pictures")
    value = draft.add("Conv", draft.shaped("x", 6, 1, 5, 6), draft.normal(1, 1, 3, 3), strides=[2, 2])
    draft.add("Identity", draft.shaped(value, 2, 3, 2, 2))
    draft.nodes[-1].output[0] = "y"
    assert rewrite(make_graph(draft.nodes, draft.weights, 3, 3, (5, 6), 2), NAMES) is None
