# SPDX-License-Identifier: Apache-2.0
"""Filters of single channels as depthwise convolutions, proven equal to what exporters make of ``upfirdn2d``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export_graphs import close, kinds, make_graph, picture, run
from gantk.export.rewrites import rewrite
from gantk.export.rewrites.filters import FEW_CHANNELS
from norm_graphs import Draft

NAMES = ("filters-to-depthwise",)


class Filter(Draft):
    """``upfirdn2d`` as exporters see it.

    Args:
        pictures: How many.
        channels: Of each.
        sides: Height and width.
        form: ``pictures`` for channels that are pictures, as in the public PyTorch ports; ``groups`` for a group for
            each, as in NVIDIA's reference.
    """

    def __init__(self, pictures: int, channels: int, sides: tuple[int, int], form: str) -> None:
        super().__init__(channels, 0)
        self.pictures, self.sides, self.form = pictures, sides, form

    def shaped(self, value: str, *sizes: int) -> str:
        return self.add("Reshape", value, self.weight(np.array(sizes)))

    def enlarge(self, value: str, by: tuple[int, int], zeros: tuple[int, int] | None = None) -> str:
        """Put zeros between pixels: `zeros` behind each row and column, where these are not what `by` wants."""
        height, width = self.sides
        rows, columns = zeros or (by[0] - 1, by[1] - 1)
        front = [self.pictures, self.channels] if self.form == "groups" else [self.pictures * self.channels]
        value = self.shaped(value, *front, height, 1, width, 1)
        amounts = [0] * (2 * (len(front) + 4))
        amounts[-3], amounts[-1] = rows, columns
        value = self.add("Pad", value, self.weight(np.array(amounts)))
        self.sides = (height * by[0], width * by[1])
        return self.shaped(value, self.pictures, self.channels, *self.sides)

    def pad(
        self, value: str, pads: tuple[int, int, int, int], mode: str = "constant", fill: float = 0
    ) -> str:
        amounts = self.weight(np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]))
        more = [self.weight(np.array(fill, np.float32))] if mode == "constant" else []
        self.sides = (self.sides[0] + pads[0] + pads[2], self.sides[1] + pads[1] + pads[3])
        return self.add("Pad", value, amounts, *more, mode=mode)

    def filter(
        self, value: str, kernel: tuple[int, int], *, bias: bool = False, **how: list[int]
    ) -> ir.Model:
        """The network that ends with one filter for all channels, which is not symmetric."""
        one = self.normal(1, 1, *kernel)
        pads = how.get("pads", [0] * 4)
        height = self.sides[0] + pads[0] + pads[2] - kernel[0] + 1
        width = self.sides[1] + pads[1] + pads[3] - kernel[1] + 1
        if self.form == "groups":
            self.weights[one] = np.repeat(self.weights[one], self.channels, 0)
            more = [self.normal(self.channels)] if bias else []
            value = self.add("Conv", value, one, *more, group=self.channels, **how)
        else:
            value = self.shaped(value, self.pictures * self.channels, 1, *self.sides)
            value = self.add("Conv", value, one, *([self.normal(1)] if bias else []), **how)
            value = self.shaped(value, self.pictures, self.channels, height, width)
        self.add("Identity", value)
        self.nodes[-1].output[0] = "y"
        return make_graph(self.nodes, self.weights, self.channels, self.channels, (5, 6), self.pictures)

    def features(self) -> np.ndarray:
        return picture(self.pictures, self.channels, 5, 6)


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
