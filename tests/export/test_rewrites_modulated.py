# SPDX-License-Identifier: Apache-2.0
"""Modulated convolutions with constant weights, each proven equal to the one whose weights are computed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export_graphs import close, kinds, make_graph, picture, run
from gantk.export.precision import convert
from gantk.export.rewrites import rewrite
from norm_graphs import Draft

NAMES = ("modulated-to-features",)
SUMS = ("", "Pow", "Mul", "ReduceSumSquare")


class Modulated(Draft):
    """A modulated convolution as exporters see it: a group for each picture.

    Args:
        pictures: How many.
        inputs: Channels.
        outputs: Channels.
        operator: ``Conv`` or ``ConvTranspose``.
        kernel: Rows and columns of its kernel.
    """

    def __init__(
        self,
        pictures: int,
        inputs: int,
        outputs: int,
        operator: str = "Conv",
        kernel: tuple[int, int] = (3, 3),
    ) -> None:
        super().__init__(inputs, 0)
        self.pictures, self.outputs, self.operator, self.kernel = pictures, outputs, operator, kernel

    def shaped(self, value: str, *sizes: int) -> str:
        return self.add("Reshape", value, self.weight(np.array(sizes)))

    def style(self, size: int, *shape: int) -> str:
        """Of each picture, made of its means."""
        means = self.shaped(self.add("GlobalAveragePool", "x"), self.pictures, self.channels)
        style = self.add(
            "Gemm", means, self.normal(self.channels, size), self.weight(np.ones(size, np.float32))
        )
        return self.shaped(style, *shape) if shape else style

    def modulate(self, total: str = "", *, divide: bool = False, scale: float = 0.5) -> str:
        """Weights of each picture, demodulated by the root of a sum of squares made in one of the ways of `SUMS`."""
        n, i, o = self.pictures, self.channels, self.outputs
        kernel = self.add("Mul", self.normal(1, o, i, *self.kernel), self.weight(np.array(scale, np.float32)))
        weights = self.add("Mul", kernel, self.style(i, n, 1, i, 1, 1))
        if total:
            axes = self.weight(np.array([2, -2, -1]))
            if total == "ReduceSumSquare":
                sums = self.add(total, weights, axes, keepdims=0)
            else:
                other = weights if total == "Mul" else self.weight(np.array(2, np.float32))
                sums = self.add("ReduceSum", self.add(total, weights, other), axes, keepdims=0)
            smooth = self.add("Add", sums, self.weight(np.array(1e-8, np.float32)))
            root = self.add("Sqrt", smooth)
            root = self.shaped(root if divide else self.add("Reciprocal", root), n, o, 1, 1, 1)
            weights = self.add("Div" if divide else "Mul", weights, root)
        return weights

    def convolve(self, weights: str, *, bias: bool = False) -> ir.Model:
        """The network, whose convolution has such weights, [pictures, outputs, inputs, rows, columns]."""
        n, i, o = self.pictures, self.channels, self.outputs
        if self.operator == "ConvTranspose":
            weights = self.add("Transpose", weights, perm=[0, 2, 1, 3, 4])
            weights = self.shaped(weights, n * i, o, *self.kernel)
        else:
            weights = self.shaped(weights, n * o, i, *self.kernel)
        more = [self.normal(n * o)] if bias else []
        how = {"strides": [2, 2]} if self.operator == "ConvTranspose" else {"pads": [1, 0, 2, 1]}
        value = self.shaped("x", 1, n * i, 5, 6)
        value = self.add(self.operator, value, weights, *more, group=n, **how)
        self.add("Reshape", value, self.weight(np.array([n, o, *self.sides()])))
        self.nodes[-1].output[0] = "y"
        return make_graph(self.nodes, self.weights, i, o, (5, 6), n)

    def sides(self) -> tuple[int, int]:
        rows, columns = self.kernel
        if self.operator == "ConvTranspose":
            return 8 + rows, 10 + columns
        return 5 + 3 - rows + 1, 6 + 1 - columns + 1

    def features(self) -> np.ndarray:
        return picture(self.pictures, self.channels, 5, 6)


def turned(graph: ir.Model, x: np.ndarray, tolerance: float = 1e-5) -> ir.Model:
    """What is made of a network, once it has been seen to compute the same by constant weights."""
    other = rewrite(graph, NAMES)
    assert other is not None
    close(run(other, x), run(graph, x), tolerance)
    (convolution,) = (node for node in other.graph if node.op_type in ("Conv", "ConvTranspose"))
    assert convolution.inputs[1] is not None
    assert convolution.inputs[1].const_value is not None
    assert "group" not in convolution.attributes
    return other


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    pictures=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    operator=st.sampled_from(["Conv", "ConvTranspose"]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    total=st.sampled_from(SUMS),
    divide=st.booleans(),
    bias=st.booleans(),
)
def test_modulated_weights_become_constant(
    pictures: int,
    inputs: int,
    outputs: int,
    operator: str,
    kernel: tuple[int, int],
    total: str,
    divide: bool,
    bias: bool,
) -> None:
    draft = Modulated(pictures, inputs, outputs, operator, kernel)
    other = turned(draft.convolve(draft.modulate(total, divide=divide), bias=bias), draft.features())
    assert not {"Pow", "ReduceSum", "ReduceSumSquare"} & set(kinds(other))
    assert kinds(other).count("MatMul") == bool(total)


def test_weights_of_one_picture_may_lack_its_axis() -> None:
    draft = Modulated(1, 4, 3)
    weights = draft.add("Mul", draft.normal(3, 4, 3, 3), draft.style(4, 4, 1, 1))
    squares = draft.add("Mul", weights, weights)
    sums = draft.add("ReduceSum", squares, draft.weight(np.array([1, 2, 3])), keepdims=1)
    weights = draft.add("Div", weights, draft.add("Sqrt", sums))
    value = draft.add("Conv", "x", weights, pads=[1, 1, 1, 1])
    draft.nodes[-1].output[0] = "y"
    assert value
    other = turned(make_graph(draft.nodes, draft.weights, 4, 3, (5, 6), 1), draft.features())
    assert not {"ReduceSum", "Reshape1"} & set(kinds(other))


def test_sums_of_squares_that_something_else_reads_are_right() -> None:
    """Of weights that are demodulated already, by factors for outputs: these sums stay as they are."""
    draft = Modulated(2, 3, 4)
    weights = draft.modulate("Pow")
    sums = draft.add("ReduceSumSquare", weights, draft.weight(np.array([2, 3, 4])), keepdims=1)
    other = turned(draft.convolve(draft.add("Mul", weights, sums)), draft.features())
    assert kinds(other).count("ReduceSumSquare") == 1


def test_a_style_may_be_one_number() -> None:
    draft = Modulated(2, 3, 4)
    weights = draft.add("Mul", draft.normal(1, 4, 3, 3, 3), draft.style(1, 2, 1, 1, 1, 1))
    sums = draft.add("ReduceSumSquare", weights, draft.weight(np.array([2, 3, 4])), keepdims=1)
    other = turned(draft.convolve(draft.add("Div", weights, draft.add("Sqrt", sums))), draft.features())
    assert "ReduceSumSquare" not in kinds(other)


def test_a_style_may_be_one_for_all_pictures() -> None:
    """Then their sums of squares are as many as there are pictures, and stay."""
    draft = Modulated(2, 3, 4)
    first = draft.add("Slice", draft.style(3), *(draft.weight(np.array([at])) for at in (0, 1, 0)))
    kernel = draft.add("Expand", draft.normal(1, 4, 3, 3, 3), draft.weight(np.array([2, 4, 3, 3, 3])))
    weights = draft.add("Mul", kernel, draft.shaped(first, 1, 1, 3, 1, 1))
    sums = draft.add("ReduceSumSquare", weights, draft.weight(np.array([2, 3, 4])), keepdims=1)
    turned(draft.convolve(draft.add("Div", weights, draft.add("Sqrt", sums))), draft.features())


def test_groups_of_several_pictures_are_no_pictures() -> None:
    draft = Modulated(2, 6, 4)
    weights = draft.add("Mul", draft.normal(1, 4, 3, 3, 3), draft.style(3, 2, 1, 3, 1, 1))
    draft.add("Conv", "x", draft.shaped(weights, 8, 3, 3, 3), group=2)
    draft.nodes[-1].output[0] = "y"
    assert rewrite(make_graph(draft.nodes, draft.weights, 6, 8, (5, 6), 2), NAMES) is None


def test_squares_of_styles_do_not_leave_float16() -> None:
    """The square of a style of 300 is more than fp16 holds; demodulated weights are small."""
    draft = Modulated(1, 4, 4)
    weights = draft.modulate("Pow", scale=1)
    for name, array in draft.weights.items():
        if array.shape == (4,):
            draft.weights[name] = array * 300
    graph = draft.convolve(weights)
    other = turned(graph, draft.features())
    close(run(convert(other, "fp16"), draft.features()), run(graph, draft.features()), 0.01)
    (sums,) = (node for node in convert(other, "fp16").graph if node.op_type == "MatMul")
    assert [value.dtype for value in (*sums.inputs, *sums.outputs) if value] == [ir.DataType.FLOAT] * 3


@pytest.mark.parametrize("kind", ["kernels", "rows", "both", "whole", "shuffled"])
def test_other_weights_stay(kind: str) -> None:
    draft = Modulated(2, 3, 3)
    if kind == "kernels":  # Each picture has its own.
        weights = draft.add("Mul", draft.normal(2, 3, 3, 3, 3), draft.style(3, 2, 1, 3, 1, 1))
    elif kind == "rows":
        weights = draft.add("Mul", draft.normal(1, 3, 3, 3, 3), draft.style(3, 2, 1, 1, 3, 1))
    elif kind == "both":  # A factor for each input of each output.
        weights = draft.add("Mul", draft.normal(1, 3, 3, 3, 3), draft.style(9, 2, 3, 3, 1, 1))
    elif kind == "whole":
        weights = draft.style(81, 2, 3, 3, 3, 3)
    else:  # Each input has the style of the one beside it.
        styles = draft.add("Transpose", draft.style(6, 2, 3, 2, 1), perm=[0, 2, 1, 3])
        weights = draft.add("Mul", draft.normal(1, 3, 6, 3, 3), draft.shaped(styles, 2, 1, 6, 1, 1))
        draft.channels = 6
    assert rewrite(draft.convolve(weights), NAMES) is None
