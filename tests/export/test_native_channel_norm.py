# SPDX-License-Identifier: Apache-2.0
"""Normalisations over channels and products of halves as native operators, proven equal to what exporters write."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export_graphs import close, kinds, make_graph, picture, run
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.rewrites import rewrite
from norm_graphs import Draft

CHANNELS, SIDES = 8, (5, 6)


class Normalised(Draft):
    """Two convolutions, and what lies between."""

    def __init__(self, batch: int | str = "N") -> None:
        super().__init__(CHANNELS, 0)
        self.batch = batch
        self.value = self.conv("x", CHANNELS, CHANNELS, 3, pads=[1, 1, 1, 1])

    def vector(self, size: int = CHANNELS) -> str:
        return self.weight(self._random.uniform(0.5, 1.5, (size, 1, 1)).astype(np.float32))

    def affine(self) -> None:
        self.value = self.add("Mul", self.vector(), self.value)
        self.value = self.add("Add", self.value, self.vector())

    def silu(self) -> None:
        self.value = self.add("Mul", self.value, self.add("Sigmoid", self.value))

    def group_norm(self, groups: int, *, asks: bool = False, shape: tuple[int, ...] | None = None) -> None:
        """With scales of groups, which few have, and the shape of pictures asked for or known."""
        known = shape or (0, CHANNELS, *SIDES)
        back = self.add("Shape", self.value) if asks else self.weight(np.array(known))
        split = self.add("Reshape", self.value, self.weight(np.array([0, groups, -1])))
        weights = [self.weight(self._random.uniform(0.5, 1.5, groups).astype(np.float32)) for _ in range(2)]
        norm = self.add("InstanceNormalization", split, *weights, epsilon=0.01)
        self.value = self.add("Reshape", norm, back)

    def layer_norm(self, *, power: bool, inverse: bool, axis: int = 1, centre: bool = True) -> None:
        axes = self.weight(np.array([axis]))
        centred = self.value
        if centre:
            centred = self.add("Sub", self.value, self.add("ReduceMean", self.value, axes, keepdims=1))
        other = self.weight(np.array(2, np.float32)) if power else centred
        squares = self.add("Pow" if power else "Mul", centred, other)
        sums = self.add("ReduceMean", squares, axes, keepdims=1)
        root = self.add("Sqrt", self.add("Add", self.weight(np.array(0.01, np.float32)), sums))
        if inverse:
            self.value = self.add("Mul", self.add("Reciprocal", root), centred)
        else:
            self.value = self.add("Div", centred, root)

    def halves(
        self,
        *,
        split: bool,
        bounds: tuple[tuple[int, int], ...] = ((0, 4), (4, 2**62)),
        steps: tuple[int, ...] = (),
    ) -> list[str]:
        """As one node, or as two cuts, which may be told their steps."""
        if split:
            first = self.add("Split", self.value, axis=1, num_outputs=2)
            self.nodes[-1].output.append(f"{first}.second")
            return [first, f"{first}.second"]
        return [
            self.add("Slice", self.value, *(self.weight(np.array([at])) for at in (*ends, 1, *steps)))
            for ends in bounds
        ]

    def gate(self, halves: list[str]) -> None:
        self.value = self.conv(self.add("Mul", *halves), CHANNELS // 2, CHANNELS, 1)

    def graph(self) -> ir.Model:
        self.conv(self.value, CHANNELS, CHANNELS, 3, pads=[1, 1, 1, 1])
        self.nodes[-1].output[0] = "y"
        return make_graph(self.nodes, self.weights, CHANNELS, CHANNELS, SIDES, self.batch)


def turned(draft: Normalised, yielded: str = "") -> list[str]:
    """The operators that are left, once they have been seen to compute the same.

    Args:
        draft: The network.
        yielded: A value that it yields, too.
    """
    graph = draft.graph()
    graph.graph.outputs.extend(v for node in graph.graph for v in node.outputs if v.name == yielded)
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    x = picture(2, CHANNELS, *SIDES)
    close(run(other, x), run(graph, x), 1e-5)
    return kinds(other)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([2, "N"]), *[st.booleans()] * 3)
def test_group_norm_is_one_operator(
    groups: int, batch: int | str, asks: bool, affine: bool, silu: bool
) -> None:
    draft = Normalised(batch)
    draft.group_norm(groups, asks=asks or batch == "N")
    if affine:
        draft.affine()
    if silu:
        draft.silu()
    end = "Silu" if silu else ""
    assert turned(draft) == [
        "Transpose",
        "NhwcConvolution",
        f"NhwcGroupNorm{end}",
        "NhwcConvolution",
        "Transpose",
    ]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(*[st.booleans()] * 4)
def test_layer_norm_is_one_operator(power: bool, inverse: bool, affine: bool, centre: bool) -> None:
    """So is the pixel normalisation of progressive GANs, which does without the mean."""
    draft = Normalised()
    draft.layer_norm(power=power, inverse=inverse, centre=centre)
    if affine:
        draft.affine()
    operator = "NhwcLayerNorm" if centre else "NhwcRmsNorm"
    assert turned(draft) == ["Transpose", "NhwcConvolution", operator, "NhwcConvolution", "Transpose"]


CUTS = pytest.mark.parametrize(
    "cuts",
    [{"split": True}, {"split": False}, {"split": False, "steps": (1,)}],
    ids=["split", "cuts", "cuts with steps"],
)


@CUTS
@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("function", ["NhwcGate", "NhwcGlu"])
def test_a_product_of_halves_is_one_operator(function: str, turn: bool, cuts: dict[str, Any]) -> None:
    """Of the first with the second, or with its sigmoid."""
    draft = Normalised()
    first, second = draft.halves(**cuts)
    factors = [first, second if function == "NhwcGate" else draft.add("Sigmoid", second)]
    draft.gate(factors[::-1] if turn else factors)
    convolution = "NhwcConvolution"
    assert turned(draft) == ["Transpose", convolution, function, convolution, convolution, "Transpose"]


@CUTS
@pytest.mark.parametrize(
    "kind", ["the first", "both", "another", "another function", "read twice", "read as well", "yielded"]
)
def test_what_is_no_gated_linear_unit_stays(kind: str, cuts: dict[str, Any]) -> None:
    draft = Normalised()
    first, second = draft.halves(**cuts)
    sigmoid = draft.add("Tanh" if kind == "another function" else "Sigmoid", second)
    factors = [first, sigmoid]
    if kind == "the first":
        factors = [draft.add("Sigmoid", first), second]
    elif kind == "both":
        factors = [draft.add("Sigmoid", first), sigmoid]
    elif kind == "another":  # Half of other pictures.
        draft.value = draft.add("Tanh", draft.value)
        factors = [draft.halves(**cuts)[0], sigmoid]
    elif kind == "read twice":
        factors = [sigmoid, sigmoid]
    draft.gate(factors)
    if kind == "read as well":
        draft.value = draft.add("Add", draft.value, draft.conv(sigmoid, CHANNELS // 2, CHANNELS, 1))
    assert not {"NhwcGate", "NhwcGlu"} & set(turned(draft, sigmoid if kind == "yielded" else ""))


def test_every_other_channel_is_no_half() -> None:
    draft = Normalised()
    first, second = draft.halves(split=False, steps=(2,))
    product = draft.add("Mul", first, draft.add("Sigmoid", second))
    draft.value = draft.conv(product, CHANNELS // 4, CHANNELS, 1)
    assert "NhwcGlu" not in turned(draft)


@pytest.mark.parametrize(
    "bounds", [((0, 4), (0, 4)), ((0, 4), (3, 7)), ((4, 8), (0, 4)), ((0, -4), (4, 8))], ids=str
)
def test_other_sigmoids_stay(bounds: tuple[tuple[int, int], ...]) -> None:
    draft = Normalised()
    first, second = draft.halves(split=False, bounds=bounds)
    draft.gate([first, draft.add("Sigmoid", second)])
    assert "NhwcGlu" not in turned(draft)


@pytest.mark.parametrize(
    "bounds", [((0, 4), (0, 4)), ((0, 4), (3, 7)), ((4, 8), (4, 2**62)), ((0, -4), (4, 8))], ids=str
)
def test_other_products_stay(bounds: tuple[tuple[int, int], ...]) -> None:
    draft = Normalised()
    draft.gate(draft.halves(split=False, bounds=bounds))
    assert "NhwcGate" not in turned(draft)


def test_silu_alone_is_one_operator() -> None:
    draft = Normalised()
    draft.silu()
    assert "NhwcAffineSilu" in turned(draft)


def test_silu_ends_a_pass() -> None:
    draft = Normalised()
    draft.value = draft.add("Tanh", draft.value)
    draft.affine()
    draft.value = draft.add("Add", draft.value, "x")
    draft.silu()
    draft.affine()
    left = turned(draft)
    assert [kind for kind in left if "Affine" in kind] == ["NhwcAffineSumSilu", "NhwcAffine"]


def test_parts_of_channels_have_channels_last_too() -> None:
    """With an activation on each, as the gated convolutions of Yu et al. have it (arXiv 1806.03589)."""
    draft = Normalised()
    first, second = draft.halves(split=True)
    draft.gate([draft.add("Elu", first), draft.add("Sigmoid", second)])
    left = turned(draft)
    assert left.count("Slice") == 2
    assert left.count("Transpose") == 2


def test_halves_of_different_pictures_are_no_gate() -> None:
    draft = Normalised()
    first = draft.halves(split=True)[0]
    draft.value = draft.add("Tanh", draft.value)
    draft.gate([first, draft.halves(split=True)[1]])
    assert "NhwcGate" not in turned(draft)


@pytest.mark.parametrize(
    "kind", ["rows", "other mean", "other squares", "another shape", "a shape asked for"]
)
def test_what_is_no_such_norm_stays(kind: str) -> None:
    draft = Normalised(2)
    whole, channels = draft.weight(np.array([2, CHANNELS, *SIDES])), draft.weight(np.array([1]))
    if kind == "rows":
        draft.layer_norm(power=True, inverse=False, axis=2)
    elif kind.startswith("other "):  # The mean or the deviation is that of something else.
        means, squares = (draft.value, "x") if kind == "other squares" else ("x", None)
        centred = draft.add("Sub", draft.value, draft.add("ReduceMean", means, channels, keepdims=1))
        squared = draft.add("Mul", squares or centred, squares or centred)
        sums = draft.add("ReduceMean", squared, channels, keepdims=1)
        root = draft.add("Sqrt", draft.add("Add", sums, draft.weight(np.array(0.01, np.float32))))
        draft.value = draft.add("Div", centred, root)
    elif kind == "another shape":
        draft.group_norm(2, shape=(2, CHANNELS, SIDES[1], SIDES[0]))
        draft.value = draft.add("Reshape", draft.value, whole)
    elif kind == "a shape asked for":
        turned_shape = draft.add("Shape", draft.add("Transpose", draft.value, perm=[0, 1, 3, 2]))
        draft.group_norm(2)
        draft.nodes[-1].input[1] = turned_shape
        draft.value = draft.add("Reshape", draft.value, whole)
    graph = draft.graph()
    other = rewrite(graph, [WHOLLY_NATIVE]) or graph
    x = picture(2, CHANNELS, *SIDES)
    close(run(other, x), run(graph, x), 1e-5)
    assert not {"NhwcLayerNorm", "NhwcGroupNorm"} & set(kinds(other))


def test_parts_of_pictures_are_no_groups() -> None:
    draft = Normalised(2)
    draft.group_norm(2, shape=(2, CHANNELS, *SIDES))
    split = next(node for node in draft.nodes if node.op_type == "Reshape")
    split.input[1] = draft.weight(np.array([4, 2, -1]))
    graph = draft.graph()
    other = rewrite(graph, [WHOLLY_NATIVE]) or graph
    x = picture(2, CHANNELS, *SIDES)
    close(run(other, x), run(graph, x), 1e-5)
    assert "NhwcGroupNorm" not in kinds(other)
