# SPDX-License-Identifier: Apache-2.0
"""What native convolutions do themselves of what follows them, and what their weights take in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export_graphs import close, kinds, picture, run
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.rewrites import rewrite
from gantk.export.rewrites.folded import fold_factors, order_blocks
from gantk.export.rewrites.graphs import by_channel
from gantk.runtime.operators import OPERATORS
from norm_graphs import Draft
from wholly_native import generator, outputs, turned

Step = Callable[[Draft, str], str]
OF_PICTURES = {"Transpose"}


@pytest.fixture(autouse=True)
def _bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proven are the bodies."""
    monkeypatch.setenv(OPERATORS, "")


def own_kinds(graph: ir.Model) -> list[str]:
    return [kind for kind in kinds(graph) if kind not in OF_PICTURES]


def check(graph: ir.Model, wanted: list[str], channels: int = 3) -> None:
    other = turned(graph)
    assert own_kinds(other) == wanted
    x = picture(2, channels, 8, 7)
    close(run(other, x), run(graph, x), 3e-6)


def prelu(*shape: int) -> Step:
    return lambda draft, value: draft.add("PRelu", value, draft.normal(*shape))


def leaky(**how: float) -> Step:
    return lambda draft, value: draft.add("LeakyRelu", value, **how)


TAKEN_IN: dict[str, Step] = {
    "slopes": prelu(4, 1, 1),
    "slopes of four axes": prelu(1, 4, 1, 1),
    "one slope": prelu(1),
    "one slope of three axes": prelu(1, 1, 1),
    "a number": leaky(alpha=0.2),
    "the default": leaky(),
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", TAKEN_IN)
def test_slopes_are_taken_in(name: str, transposed: bool) -> None:
    draft = Draft(3, 0)
    if transposed:
        how = {"strides": [2, 2], "pads": [1] * 4}
        value = draft.add("ConvTranspose", "x", draft.normal(3, 4, 4, 4), draft.normal(4), **how)
    else:
        value = draft.conv("x", 3, 4)
    TAKEN_IN[name](draft, value)
    function = "NhwcTransposedConvolution4x4" if transposed else "NhwcConvolution"
    check(draft.graph(), [f"{function}PRelu"])


@pytest.mark.parametrize("channels", [4, 5, 6])  # As many as there are columns and rows, too.
@pytest.mark.parametrize("shape", [(6, 1), (6, 5), (5,)], ids=str)
@pytest.mark.parametrize("kind", ["PRelu", "Mul"])
def test_slopes_and_factors_of_rows_and_columns_are_not(
    kind: str, shape: tuple[int, ...], channels: int
) -> None:
    draft = Draft(3, 0)
    draft.add(kind, draft.conv("x", 3, channels), draft.normal(*shape))
    check(draft.graph(), ["NhwcConvolution", kind])


def test_slopes_that_are_computed_are_not() -> None:
    draft = Draft(3, 0)
    draft.add("PRelu", draft.conv("x", 3, 4), draft.add("Neg", draft.normal(4, 1, 1)))
    other = rewrite(draft.graph(), [WHOLLY_NATIVE])
    assert other is not None
    assert "NhwcConvolution" in kinds(other)


@pytest.mark.parametrize("step", [prelu(4, 1, 1), leaky(alpha=0.2)])
def test_what_others_read_too_is_a_pass_of_its_own(step: Step) -> None:
    """As the skipped connections of a U-Net (Isola et al., arXiv 1611.07004)."""
    draft = Draft(3, 0)
    skipped = draft.conv("x", 3, 4, pads=[1] * 4)
    value = draft.conv(step(draft, skipped), 4, 4, pads=[1] * 4)
    draft.conv(draft.add("Concat", value, skipped, axis=1), 8, 3)
    first = ["NhwcConvolution", "NhwcPRelu", "NhwcConvolution"]
    check(draft.graph(), [*first, "Concat", "NhwcConvolution"])


@pytest.mark.parametrize("first", [False, True])
def test_a_residual_is_added_by_the_convolution(first: bool) -> None:
    draft = Draft(3, 0)
    trunk = draft.add("Relu", draft.conv("x", 3, 4))
    residual = draft.conv(leaky(alpha=0.1)(draft, draft.conv(trunk, 4, 4, pads=[1] * 4)), 4, 4, 1)
    value = draft.add("Add", *((residual, trunk) if first else (trunk, residual)))
    draft.conv(value, 4, 3)
    names = ["Relu", "PRelu", "Sum", ""]
    check(draft.graph(), [f"NhwcConvolution{name}" for name in names])


def test_what_is_added_may_be_computed_after_the_convolution() -> None:
    draft = Draft(3, 0)
    convolved = draft.conv("x", 3, 4)
    other = draft.add("Tanh", draft.conv("x", 3, 4))
    draft.conv(draft.add("Add", convolved, other), 4, 3)
    check(draft.graph(), ["NhwcConvolution", "Tanh", "NhwcConvolutionSum", "NhwcConvolution"])


def test_of_two_convolutions_that_are_added_one_adds() -> None:
    draft = Draft(3, 0)
    draft.conv(draft.add("Add", draft.conv("x", 3, 4), draft.conv("x", 3, 4)), 4, 3)
    check(draft.graph(), ["NhwcConvolution", "NhwcConvolutionSum", "NhwcConvolution"])


NOT_ADDED: dict[str, Step] = {
    "a value by channel": lambda d, v: d.add("Add", v, d.normal(4, 1, 1)),
    "a picture for all": lambda d, v: d.add("Add", v, d.normal(1, 4, 6, 5)),
    "values by column, computed": lambda d, v: d.add("Add", v, d.add("Neg", d.normal(1, 4, 1, 5))),
    "itself": lambda d, v: d.add("Add", v, v),
}


@pytest.mark.parametrize("name", NOT_ADDED)
def test_what_is_no_other_pictures_is_added_apart(name: str) -> None:
    draft = Draft(3, 0)
    draft.conv(NOT_ADDED[name](draft, draft.conv("x", 3, 4)), 4, 3)
    graph = draft.graph()
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert "NhwcConvolutionSum" not in kinds(other)
    x = picture(2, 3, 8, 7)
    close(run(other, x), run(graph, x), 3e-6)


FACTORS: dict[str, Step] = {
    "a number": lambda d, v: d.add("Mul", v, d.weight(np.float32(0.2))),
    "a number before": lambda d, v: d.add("Mul", d.weight(np.float32([0.2])), v),
    "by channel": lambda d, v: d.add("Mul", v, d.normal(4, 1, 1)),
    "by channel of four axes": lambda d, v: d.add("Mul", d.normal(1, 4, 1, 1), v),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", FACTORS)
def test_a_scaled_residual_is_one_convolution(name: str, bias: bool) -> None:
    """As those of Wang et al., arXiv 1809.00219, section 3.1."""
    draft = Draft(3, 0)
    trunk = draft.conv("x", 3, 4)
    value = draft.add("Conv", trunk, draft.normal(4, 4, 1, 1), *([draft.normal(4)] if bias else []))
    draft.add("Add", FACTORS[name](draft, value), trunk)
    check(draft.graph(), ["NhwcConvolution", "NhwcConvolutionSum"])


def test_a_scaled_transposed_convolution_is_one() -> None:
    draft = Draft(3, 0)
    how = {"strides": [2, 2], "pads": [1] * 4}
    value = draft.add("ConvTranspose", "x", draft.normal(3, 4, 4, 4), draft.normal(4), **how)
    draft.add("Relu", draft.add("Mul", value, draft.normal(4, 1, 1)))
    check(draft.graph(), ["NhwcTransposedConvolution4x4Relu"])


AFTER_BLOCKS: dict[str, tuple[list[Step], str]] = {
    "nothing": ([], ""),
    "ReLU": ([lambda d, v: d.add("Relu", v)], "Relu"),
    "slopes": ([prelu(2, 1, 1)], "PRelu"),
    "a slope": ([leaky(alpha=0.3)], "PRelu"),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize("name", AFTER_BLOCKS)
def test_a_pixel_shuffle_moves_whole_pixels(name: str, mode: str, bias: bool) -> None:
    draft = Draft(3, 0)
    value = draft.add("Conv", "x", draft.normal(8, 3, 3, 3), *([draft.normal(8)] if bias else []))
    value = draft.add("DepthToSpace", value, blocksize=2, mode=mode)
    steps, ending = AFTER_BLOCKS[name]
    for step in steps:
        value = step(draft, value)
    draft.conv(value, 2, 3)
    graph = draft.graph()
    other = turned(graph)
    found = own_kinds(other)
    assert (found[0], found[-1]) == (f"NhwcConvolution{ending}", "NhwcConvolution")
    assert not set(found) & {"Relu", "PRelu", "NhwcPRelu", "LeakyRelu"}
    turns = [list(node.attributes["perm"].as_ints()) for node in other.graph if node.op_type == "Transpose"]
    assert [0, 1, 3, 2, 4, 5] in turns  # Of one axis alone, which is a copy of runs.
    x = picture(2, 3, 8, 7)
    close(run(other, x), run(graph, x), 3e-6)


def test_blocks_that_others_read_too_keep_their_order() -> None:
    draft = Draft(3, 0)
    blocks = draft.conv("x", 3, 8)
    shuffled = draft.add("DepthToSpace", blocks, blocksize=2, mode="CRD")
    value = draft.add("Resize", shuffled, "", draft.weight(np.float32([1, 1, 0.5, 0.5])), mode="nearest")
    draft.conv(draft.add("Concat", blocks, value, axis=1), 10, 3)
    graph = draft.graph()
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    x = picture(2, 3, 8, 7)
    close(run(other, x), run(graph, x), 3e-6)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["", "Relu", "LeakyRelu", "PRelu"]),
            st.booleans(),
            st.sampled_from([None, 0.2]),
            st.sampled_from(["", "CRD", "DCR"]),
        ),
        min_size=1,
        max_size=3,
    ),
    batch=st.integers(1, 2),
    height=st.integers(3, 6),
    width=st.integers(3, 6),
)
def test_residual_networks_equal_what_they_replace(
    steps: list[tuple[str, bool, float | None, str]], batch: int, height: int, width: int
) -> None:
    draft = Draft(3, 0)
    trunk = draft.conv("x", 3, 4, pads=[1] * 4)
    for activation, sums, factor, shuffle in steps:
        value = draft.conv(trunk, 4, 4, pads=[1] * 4)
        if activation:
            slopes = [draft.normal(4, 1, 1)] if activation == "PRelu" else []
            value = draft.add(activation, value, *slopes)
        value = draft.conv(value, 4, 4, pads=[1] * 4)
        if factor is not None:
            value = draft.add("Mul", value, draft.weight(np.float32(factor)))
        trunk = draft.add("Add", trunk, value) if sums else value
        if shuffle:
            value = draft.add(
                "DepthToSpace", draft.conv(trunk, 4, 16, pads=[1] * 4), blocksize=2, mode=shuffle
            )
            trunk = draft.add("PRelu", value, draft.normal(4, 1, 1))
    draft.conv(trunk, 4, 3)
    graph = draft.graph()
    other = turned(graph)
    assert not set(kinds(other)) & {"Relu", "LeakyRelu", "PRelu"}
    x = picture(batch, 3, height, width)
    close(run(other, x), run(graph, x), 1e-5)


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "how", "own"),
    [
        (32, 16, 3, {"pads": [1] * 4}, True),  # By Winograd's method.
        (5, 8, 3, {"pads": [2] * 4}, True),  # By lanes of pixels.
        (16, 3, 9, {"pads": [4] * 4}, True),
        (5, 9, 3, {"pads": [1] * 4}, False),
        (5, 16, 3, {"pads": [1] * 4}, False),
        (16, 16, 5, {"pads": [2] * 4}, False),
        (16, 16, 3, {"pads": [1] * 4, "strides": [2, 2]}, False),
        (16, 16, 3, {"pads": [1, 1, 0, 1]}, False),
        (16, 3, 3, {"pads": [0, 1, 0, 1]}, False),
    ],
)
def test_zeros_around_pictures_are_copied_only_where_they_have_to_be(
    inputs: int, outputs: int, kernel: int, how: dict[str, list[int]], own: bool
) -> None:
    draft = Draft(3, 0)
    draft.conv(draft.conv("x", 3, inputs), inputs, outputs, kernel, **how)
    graph = draft.graph()
    other = turned(graph)
    assert ("BorderedBlocks" not in kinds(other)) == own
    x = picture(2, 3, 8, 7)
    close(run(other, x), run(graph, x), 3e-6)


REDUCED: dict[str, Step] = {
    "a mean": lambda d, v: d.add("GlobalAveragePool", v),
    "a maximum": lambda d, v: d.add("GlobalMaxPool", v),
    "a mean of rows and columns": lambda d, v: d.add("ReduceMean", v, d.weight(np.array([2, 3]))),
    "a sum from the last": lambda d, v: d.add("ReduceSum", v, d.weight(np.array([-1, -2]))),
    "a maximum of columns and rows": lambda d, v: d.add("ReduceMax", v, d.weight(np.array([3, 2]))),
}


@pytest.mark.parametrize("name", REDUCED)
def test_attention_to_channels_is_computed_in_the_layout_of_its_features(name: str) -> None:
    """As of Zhang et al., arXiv 1807.02758, section 3.3."""
    draft = Draft(3, 0)
    features = draft.conv("x", 3, 4)
    value = draft.add("Relu", draft.conv(REDUCED[name](draft, features), 4, 2, 1))
    gate = draft.add("Sigmoid", draft.conv(value, 2, 4, 1))
    draft.conv(draft.add("Mul", features, gate), 4, 3)
    graph = draft.graph()
    other = turned(graph)
    assert kinds(other).count("Transpose") == 2
    x = picture(2, 3, 8, 7)
    close(run(other, x), run(graph, x), 3e-6)


@pytest.mark.parametrize("how", [{"axes": [3]}, {"axes": [1]}, {"axes": [2, 3], "keepdims": 0}])
def test_other_reductions_are_computed_as_they_are(how: dict[str, object]) -> None:
    draft = Draft(3, 0)
    features = draft.conv("x", 3, 4)
    axes = draft.weight(np.array(how["axes"]))
    keeps = {name: value for name, value in how.items() if name != "axes"}
    value = draft.add("ReduceMean", features, axes, **keeps)
    draft.add("Tanh", draft.add("Unsqueeze", value, axes) if keeps else value)
    graph = draft.graph()
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    x = picture(2, 3, 8, 7)
    close(run(other, x), run(graph, x), 3e-6)


@pytest.mark.parametrize("ceil", [0, 1])
def test_maxima_of_windows_are_native(ceil: int) -> None:
    draft = Draft(3, 0)
    how = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": ceil}
    value = draft.add("MaxPool", draft.add("Relu", draft.conv("x", 3, 4)), **how)
    draft.conv(value, 4, 3, 1)
    check(draft.graph(), ["NhwcConvolutionRelu", "NhwcMaxPool2x2", "NhwcConvolution"])


@pytest.mark.parametrize(
    "how",
    [
        {"kernel_shape": [3, 3]},
        {"kernel_shape": [2, 3]},
        {"strides": [1, 1]},
        {"strides": [2, 1]},
        {"pads": [1, 0, 1, 0]},
        {"dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER"},
    ],
)
def test_other_maxima_are_not(how: dict[str, object]) -> None:
    draft = Draft(3, 0)
    windows = {"kernel_shape": [2, 2], "strides": [2, 2], **how}
    draft.conv(draft.add("MaxPool", draft.conv("x", 3, 4), **windows), 4, 3, 1)
    assert rewrite(draft.graph(), [WHOLLY_NATIVE]) is None


def test_slopes_of_vectors_stay_what_they_are() -> None:
    graph = generator(16, 4, 3, after="LeakyRelu")
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert "LeakyRelu" in kinds(other)
    feeds = {"latent": np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)}
    close(outputs(other, feeds), outputs(graph, feeds), 1e-5)


def test_pictures_of_unknown_channels_stay_what_they_are() -> None:
    draft = Draft(3, 0)
    draft.conv(leaky(alpha=0.2)(draft, "x"), 3, 4)
    graph = draft.graph()
    for value in (graph.graph.inputs[0], next(iter(graph.graph)).outputs[0]):
        value.shape = ir.Shape(["N", "C", "H", "W"])
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert "LeakyRelu" in kinds(other)


@pytest.mark.parametrize("name", ["groups", "a computed bias"])
def test_what_weights_cannot_take_in_stays(name: str) -> None:
    """Where a whole network is not native for another reason, it is not for this one either."""
    draft = Draft(4, 0)
    bias = draft.add("Neg", draft.normal(8))
    if name == "groups":
        value = draft.add("Conv", "x", draft.normal(8, 2, 3, 3), group=2)
    else:
        value = draft.add("Conv", "x", draft.normal(8, 4, 3, 3), bias)
    value = draft.add("DepthToSpace", value, blocksize=2, mode="CRD")
    draft.add("Mul", value, draft.weight(np.float32(0.5)))
    graph = draft.graph()
    other = ir.from_proto(ir.to_proto(graph))
    fold_factors(other.graph)
    order_blocks(other.graph)
    x = picture(2, 4, 8, 7)
    close(run(other, x), run(graph, x), 3e-6)
    assert kinds(other) == kinds(graph)


def test_a_constant_of_more_axes_is_not_one_by_channel() -> None:
    def value(*shape: int) -> ir.Value:
        tensor = ir.Tensor(np.ones(shape, np.float32), name="w")
        return ir.Value(name="w", const_value=tensor)

    assert by_channel(value(1, 1, 1, 1), 4) is not None
    assert by_channel(value(1, 1, 1, 1, 1), 4) is None
    assert by_channel(None, 4) is None
