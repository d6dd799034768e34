# SPDX-License-Identifier: Apache-2.0
"""Filters along rows and then along columns, as StyleGAN3 has them, proven equal to what its exporters make of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from export_graphs import close, kinds, make_graph, run
from filter_graphs import Filter
from gantk.export.rewrites import rewrite
from gantk.runtime.operators import OPERATORS
from native_build import onnxruntime_library
from wholly_native import turned

NAMES = ("filters-to-depthwise",)


class Separable(Filter):
    """Filters along rows and along columns, one after the other, as StyleGAN3 has them."""

    def __init__(self, pictures: int, channels: int, sides: tuple[int, int] = (5, 6)) -> None:
        super().__init__(pictures, channels, sides, "groups")

    def one(self, value: str, kernel: tuple[int, int], *, bias: bool = False, **how: list[int]) -> str:
        """A filter of another kernel for each channel."""
        weights = [self.normal(self.channels, 1, *kernel), *([self.normal(self.channels)] if bias else [])]
        return self.add("Conv", value, *weights, group=self.channels, **how)

    def framed(self, value: str, frame: tuple[int, ...], *, cut: bool) -> str:
        """Zeros around pictures; below 0 so many rows and columns go, by a padding or by cuts."""
        if not cut:
            return self.pad(value, frame) if any(frame) else value
        for axis, first, last in ((2, frame[0], frame[2]), (3, frame[1], frame[3])):
            value = self.cut(value, axis, 1, -first, last or 2**31 - 1)
        return value

    def cut(self, value: str, axis: int, step: int, start: int = 0, end: int = 2**31 - 1) -> str:
        return self.add("Slice", value, *(self.weight(np.array([n])) for n in (start, end, axis, step)))

    def graph(self, value: str) -> ir.Model:
        self.add("Identity", value)
        self.nodes[-1].output[0] = "y"
        return make_graph(self.nodes, self.weights, self.channels, self.channels, (5, 6), self.pictures)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    channels=st.integers(1, 3),
    times=st.integers(2, 4),
    taps=st.tuples(st.integers(2, 13), st.integers(2, 13)),
    pads=st.tuples(*[st.integers(0, 9)] * 4),
    more=st.tuples(*[st.integers(0, 3)] * 4),
    frame=st.tuples(*[st.integers(-3, 3)] * 4),
    cut=st.booleans(),
    rows_first=st.booleans(),
    bias=st.booleans(),
    after=st.sampled_from(["", "LeakyRelu", "Relu", "Tanh"]),
)
def test_filters_of_what_lies_between_zeros_are_those_of_its_phases(
    channels: int,
    times: int,
    taps: tuple[int, int],
    pads: tuple[int, int, int, int],
    more: tuple[int, int, int, int],
    frame: tuple[int, int, int, int],
    cut: bool,
    rows_first: bool,
    bias: bool,
    after: str,
) -> None:
    more = (more[0], 0, more[2], 0) if rows_first else (0, more[1], 0, more[3])
    if cut:
        frame = tuple(min(amount, 0) for amount in frame)
    frame = tuple(
        max(amount, 0) if any(own) else amount for amount, *own in zip(frame, pads, more, strict=True)
    )
    whole = [sum(amounts) for amounts in zip(pads, more, frame, strict=True)]
    sides = 5 * times + whole[0] + whole[2], 6 * times + whole[1] + whole[3]
    assume(sides[0] > taps[0] and sides[1] > taps[1])
    draft = Separable(2, channels)
    value = draft.framed(draft.enlarge("x", (times, times)), frame, cut=cut)
    kernels = [(1, taps[1]), (taps[0], 1)][:: 1 if rows_first else -1]
    value = draft.one(value, kernels[0], pads=list(pads))
    value = draft.one(value, kernels[1], bias=bias, pads=list(more))
    graph = draft.graph(draft.add(after, value) if after else value)
    other = rewrite(graph, NAMES)
    assert other is not None
    found = kinds(other)
    assert "Pad" not in found and found.count("Conv") == times + times**2
    assert found.count(after) == (times**2 if after in ("LeakyRelu", "Relu") else after == "Tanh")
    close(run(other, draft.features()), run(graph, draft.features()), 1e-5)


@pytest.mark.parametrize("kind", ["bias", "once", "shown", "same", "unequal", "framed", "refilled"])
def test_other_filters_of_what_lies_between_zeros_stay(kind: str) -> None:
    draft = Separable(1, 3)
    value = draft.enlarge("x", (2, 1) if kind == "unequal" else (2, 2))
    if kind == "refilled":  # With zeros, where pixels were.
        value = draft.pad(value, (0, -2, 0, 0))
    first = draft.one(value, (1, 4), bias=kind == "bias", pads=[3, 3, 3, 3])
    how = {"pads": [0, 0, 0, 1]} if kind == "framed" else {}
    value = first if kind == "once" else draft.one(first, (1, 4) if kind == "same" else (4, 1), **how)
    if kind == "shown":
        draft.add("Abs", first)
    graph = draft.graph(value)
    other = rewrite(graph, NAMES) or graph
    assert "DepthToSpace" not in kinds(other)
    close(run(other, draft.features()), run(graph, draft.features()), 1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    channels=st.integers(2, 17),
    times=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    taps=st.tuples(st.integers(4, 13), st.integers(4, 13)),
    frame=st.tuples(*[st.integers(-3, 0)] * 4),
    cut=st.booleans(),
    data=st.data(),
    rows_first=st.booleans(),
)
def test_natively_rows_and_columns_are_enlarged_one_after_the_other(
    channels: int,
    times: tuple[int, int],
    taps: tuple[int, int],
    frame: tuple[int, int, int, int],
    cut: bool,
    data: st.DataObject,
    rows_first: bool,
) -> None:
    assume(max(times) > 1)
    most = [taps[0] - 1, taps[1] - 1, taps[0] - times[0], taps[1] - times[1]]
    pads = [data.draw(st.integers(0, size)) for size in most]
    frame = tuple(0 if own else amount for amount, own in zip(frame, pads, strict=True))
    whole = [sum(amounts) for amounts in zip(pads, frame, strict=True)]
    sides = [
        size * by + whole[axis] + whole[axis + 2]
        for axis, (size, by) in enumerate(zip((5, 6), times, strict=True))
    ]
    assume(sides[0] > taps[0] + 1 and sides[1] > taps[1] + 1)
    draft = Separable(2, channels)
    kernels = [(1, taps[1]), (taps[0], 1)][:: 1 if rows_first else -1]
    value = draft.framed(draft.enlarge("x", times), frame, cut=cut)
    value = draft.one(value, kernels[0], pads=pads)
    value = draft.add("LeakyRelu", draft.one(value, kernels[1], bias=True), alpha=0.2)
    value = draft.one(draft.one(value, (1, 2)), (2, 1))
    graph = draft.graph(draft.cut(draft.cut(value, 2, 2), 3, 2))
    wanted = run(graph, draft.features())
    assume(np.abs(wanted).max() > 0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OPERATORS, "")
        other = turned(graph)
        close(run(other, draft.features()), wanted, 1e-5)
        patch.setenv(OPERATORS, str(onnxruntime_library()))
        close(run(other, draft.features()), wanted, 1e-5)
    found = kinds(other)
    assert found.count("NhwcDepthwiseTransposed") == found.count("NhwcDepthwiseTransposedPRelu") == 1
    assert found.count("NhwcDepthwiseConvolution") == 2
    assert not {"Pad", "Slice", "Concat"} & set(found)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    channels=st.integers(1, 3),
    steps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    taps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    form=st.sampled_from(["rows", "columns", "both"]),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
)
def test_what_keeps_every_so_many_pixels_has_strides(
    channels: int,
    steps: tuple[int, int],
    taps: tuple[int, int],
    form: str,
    pads: tuple[int, int, int, int],
) -> None:
    assume(max(steps) > 1)
    assume(form == "both" or min(taps) > 1)
    draft = Separable(2, channels)
    if form == "both":
        value = draft.one("x", taps, bias=True, pads=list(pads))
    else:
        pair = [(1, taps[1]), (taps[0], 1)][:: 1 if form == "rows" else -1]
        value = draft.one(draft.one("x", pair[0], pads=list(pads)), pair[1], bias=True)
    for axis, step in zip((2, 3), steps, strict=True):
        value = draft.cut(value, axis, step)
    graph = draft.graph(value)
    other = rewrite(graph, NAMES)
    assert other is not None
    assert kinds(other) == ["Conv"] * (1 if form == "both" else 2) + ["Identity"]
    close(run(other, draft.features()), run(graph, draft.features()), 1e-5)


@pytest.mark.parametrize("kind", ["start", "end", "backwards", "read", "pads"])
def test_other_cuts_stay(kind: str) -> None:
    draft = Separable(1, 4, (5, 6))
    pair = kind == "pads"
    value = draft.one("x", (1, 2) if pair else (2, 2))
    if pair:
        value = draft.one(value, (2, 1), pads=[0, 1, 0, 0])
    cut = {
        "start": {"axis": 2, "step": 2, "start": 1},
        "end": {"axis": 2, "step": 2, "end": 3},
        "backwards": {"axis": 2, "step": -1, "start": 2**31 - 1, "end": -(2**31)},
    }.get(kind, {"axis": 3, "step": 2})
    cropped = draft.cut(value, **cut)
    if kind == "read":
        draft.add("Abs", value)
    graph = draft.graph(cropped)
    other = rewrite(graph, NAMES) or graph
    assert "Slice" in kinds(other)
    close(run(other, draft.features()), run(graph, draft.features()), 1e-5)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("slopes", "factor", "left"),
    [
        ("LeakyRelu", 2**0.5, 0),
        ("Relu", 3.0, 0),
        ("LeakyRelu", -1.0, 1),
        ("LeakyRelu", [[[1.0]], [[2.0]], [[3.0]]], 1),
        ("Tanh", 2.0, 1),
    ],
    ids=str,
)
def test_a_positive_factor_of_what_is_active_is_one_of_the_filter(
    slopes: str, factor: float | list[list[list[float]]], left: int, turned: bool
) -> None:
    draft = Separable(1, 3)
    value = draft.one(draft.enlarge("x", (2, 2)), (1, 4), pads=[3, 3, 3, 3])
    value = draft.add(slopes, draft.one(value, (4, 1), bias=True))
    weight = draft.weight(np.array(factor, np.float32))
    graph = draft.graph(draft.add("Mul", *((weight, value) if turned else (value, weight))))
    other = rewrite(graph, NAMES)
    assert other is not None
    assert kinds(other).count("Mul") == left
    close(run(other, draft.features()), run(graph, draft.features()), 1e-5)
