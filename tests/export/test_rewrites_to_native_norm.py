# SPDX-License-Identifier: Apache-2.0
"""Normalisation as gantk's function: proven equal, by its body, to what it replaces."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from export_graphs import close, kinds, picture, run
from gantk.export.functions import DOMAIN
from gantk.export.precision import convert
from gantk.export.rewrites import rewrite
from gantk.export.rewrites.channels_last import CHANNELS_LAST
from norm_graphs import Draft, Layer, network

NATIVE = "normalization-to-native"
BLOCKS = "narrow-to-blocks"


def turned(graph: ir.Model, *names: str) -> ir.Model:
    other = rewrite(graph, [*names, NATIVE])
    assert other is not None
    assert "InstanceNormalization" not in kinds(other)
    return other


def assert_alike(
    other: ir.Model, graph: ir.Model, *, channels: int = 3, height: int = 6, width: int = 5
) -> None:
    x = picture(2, channels, height, width)
    close(run(other, x), run(graph, x), 2e-4)


def functions(graph: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph if node.domain == DOMAIN)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    layers=st.lists(
        st.builds(
            Layer,
            mode=st.sampled_from(["reflect", "edge", "constant", ""]),
            own=st.booleans(),
            end=st.sampled_from(["Relu", "Add", ""]),
            enlarge=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
    batch=st.integers(1, 2),
    channels=st.integers(1, 5),
    height=st.integers(4, 7),
    width=st.integers(4, 7),
    seed=st.integers(0, 9),
)
def test_it_equals_what_it_replaces(
    layers: list[Layer], batch: int, channels: int, height: int, width: int, seed: int
) -> None:
    graph = network(layers, channels, seed)
    other = turned(graph)
    assert sum(functions(other).values()) == len(layers)
    x = picture(batch, channels, height, width, seed)
    wanted = run(graph, x)
    assume(np.abs(wanted).max() > 0.01)
    close(run(other, x), wanted, 2e-4)


def test_borders_and_sums_are_computed_in_passing() -> None:
    """As in a style network: what a residual block adds is read from the pictures with the border."""
    graph = network([Layer(), Layer(), Layer(end="Add"), Layer(), Layer(end="Add"), Layer(mode="edge")])
    other = turned(graph)
    assert functions(other) == {"InstanceNormRelu": 4, "InstanceNormSum": 2}
    assert Counter(kinds(other))["Pad"] == 1, "only that of the network's own input stays"
    assert not {"Relu", "Add"} & set(kinds(other))
    sums = [node for node in other.graph if node.op_type == "InstanceNormSum"]
    assert {tuple(node.attributes["others_pads"].as_ints()) for node in sums} == {
        (0, 0, -1, -1, 0, 0, -1, -1)
    }


def test_phases_are_put_in_place_in_passing() -> None:
    other = turned(network([Layer(enlarge=True), Layer()]))
    assert not {"DepthToSpace", "Slice"} & set(kinds(other))
    assert (
        next(node for node in other.graph if node.domain == DOMAIN).attributes["from_blocksize"].as_int() == 2
    )


def test_scales_of_each_picture_are_applied_in_passing() -> None:
    other = turned(network([Layer(own=True), Layer(own=True, end="")]))
    assert functions(other) == {"InstanceNormRelu": 1, "InstanceNorm": 1}
    assert not {"Mul", "Add", "Unsqueeze"} & set(kinds(other))


def painted(kernel: int, enlarge: bool = True) -> ir.Model:
    """The end of a style network: pictures of a few channels from a wide convolution."""
    draft = Draft(9, 0)
    draft.layer(Layer(enlarge=enlarge))
    draft.value = draft.conv(draft.pad(draft.value, kernel // 2, "reflect"), 9, 3, kernel)
    return draft.graph()


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (6, 13)])
def test_blocks_are_made_in_passing(height: int, width: int, enlarge: bool) -> None:
    graph = painted(9 if enlarge else 5, enlarge)
    other = turned(graph, BLOCKS)
    assert "SpaceToDepth" not in kinds(other)
    native = next(node for node in other.graph if node.domain == DOMAIN)
    assert native.attributes["to_blocksize"].as_int() == 4
    assert native.outputs[0].shape is not None and native.outputs[0].shape[3] == 9 * 16
    assert_alike(other, graph, channels=9, height=height, width=width)


@pytest.mark.parametrize(
    ("cut", "around", "filling"),
    [
        (([1, 1], [5, -1]), [4, 4, 4, 4], 0.0),
        (([-9, 1], [-1, -1]), [4, 4, 4, 4], 0.0),
        (([1, 1], [-1, -1]), [4, 4, 4, 4], 0.5),
        (([1, 1], [-1, -1]), [4, 3, 2, 5], 0.0),
    ],
    ids=str,
)
def test_blocks_are_made_apart_where_their_number_is_not_told(
    cut: tuple[list[int], list[int]], around: list[int], filling: float
) -> None:
    """By a cut from the other side; or of a border that is one of another kind. Any amounts are told."""
    draft = Draft(9, 0)
    value = draft.add("DepthToSpace", draft.conv("x", 9, 36), blocksize=2, mode="DCR")
    bounds = [draft.weight(np.array(at)) for at in (*cut, [2, 3])]
    value = draft.norm(draft.add("Slice", value, *bounds), 9, own=False)
    amounts = draft.weight(np.array([0, 0, *around[:2], 0, 0, *around[2:]]))
    value = draft.add("Pad", value, amounts, draft.weight(np.float32(filling)), mode="constant")
    draft.value = draft.conv(value, 9, 3, 9)
    graph = draft.graph()
    other = turned(graph, BLOCKS)
    told = cut == ([1, 1], [-1, -1]) and not filling
    assert ("SpaceToDepth" in kinds(other)) != told
    for height, width in ((8, 8), (7, 9)):
        assert_alike(other, graph, channels=9, height=height, width=width)


def test_blocks_that_are_more_than_a_rounding_up_are_made_apart() -> None:
    graph = painted(7)
    other = turned(graph, BLOCKS)
    assert "SpaceToDepth" in kinds(other)
    for node in other.graph:
        if node.op_type == "Shape" and node.inputs[0] is not None:
            before = node.inputs[0].producer()
            assert before is None or before.op_type != "Transpose", "sizes are asked for before"
    assert_alike(other, graph, channels=9, height=7, width=9)


def test_pictures_that_come_in_are_bordered_and_turned_into_blocks_in_one() -> None:
    draft = Draft(3, 0)
    draft.value = draft.conv(draft.pad("x", 4, "reflect"), 3, 3, 9)
    draft.value = draft.add("Relu", draft.norm(draft.value, 3, own=False))
    graph = draft.graph()
    other = turned(graph, BLOCKS)
    assert functions(other) == {"BorderedBlocks": 1, "InstanceNormRelu": 1}
    assert not {"Pad", "SpaceToDepth", "DepthToSpace", "Mod", "Add"} & set(kinds(other))
    for height, width in ((8, 8), (7, 9), (6, 13)):
        assert_alike(other, graph, height=height, width=width)


def test_sizes_are_computed_by_the_function_for_them() -> None:
    """The picture's own, twice, less two for the cut, plus eight for the border, less eight for the convolution."""
    other = turned(painted(9), BLOCKS)
    (sizes,) = (node for node in other.graph if node.op_type == "Sizes")
    assert sizes.attributes["factor"].as_int() == 2
    assert list(sizes.attributes["growth"].as_ints()) == [-2, -2]
    assert not {"Add", "Mul", "Mod"} & set(kinds(other))


@pytest.mark.parametrize(
    ("steps", "native"),
    [
        ([("Add", [-2, -1])], {"growth": [-2, -1]}),
        ([("Mul", [2, 2])], {"factor": 2, "growth": [0, 0]}),
        ([("Add", [-4, -3]), ("Mul", [2, 2]), ("Add", [1, 1])], {"factor": 2, "growth": [-7, -5]}),
        ([("Add", [0, 0])], None),
        ([("Mul", [1, 2])], None),
        ([("Sub", [2, 2])], None),
        ([("Add", [-2])], None),
    ],
    ids=str,
)
def test_ends_of_a_cut_are_computed_as_before(
    steps: list[tuple[str, list[int]]], native: dict[str, object] | None
) -> None:
    draft = Draft(3, 0)
    draft.layer(Layer())
    ends = draft.add("Shape", "x", start=2, end=4)
    for kind, numbers in steps:
        ends = draft.add(kind, ends, draft.weight(np.array(numbers)))
    zero, axes = draft.weight(np.array([0, 0])), draft.weight(np.array([2, 3]))
    draft.value = draft.add("Slice", draft.value, zero, ends, axes)
    graph = draft.graph()
    other = turned(graph)
    found = [node for node in other.graph if node.op_type == "Sizes"]
    told = [{name: attribute.value for name, attribute in node.attributes.items()} for node in found]
    told = [{name: list(at) if name == "growth" else at for name, at in each.items()} for each in told]
    assert told == ([] if native is None else [{"factor": 1, **native}])
    for height, width in ((8, 8), (7, 9)):
        assert_alike(other, graph, height=height, width=width)


def test_a_graph_is_marked_to_be_computed_channels_last() -> None:
    """Where its operators do not say so themselves; nothing else of it changes."""
    graph = network([Layer()])
    marked = rewrite(graph, ["channels-last"])
    assert marked is not None
    assert kinds(marked) == kinds(graph)
    assert CHANNELS_LAST in marked.metadata_props and CHANNELS_LAST not in graph.metadata_props
    plain = Draft(3, 0)
    plain.value = plain.conv("x", 3, 3)
    assert rewrite(plain.graph(), ["channels-last"]) is None
    assert rewrite(turned(graph), ["channels-last"]) is not None, (
        "bodies count, which a library may be missing for"
    )


def test_two_that_pad_differently_pad_for_themselves() -> None:
    draft = Draft(3, 0)
    draft.layer(Layer())
    branches = [draft.conv(draft.pad(draft.value, by, "reflect"), 3, 3, 2 * by + 1) for by in (1, 2)]
    draft.value = draft.add("Sub", *branches)
    graph = draft.graph()
    other = turned(graph)
    pads = [node for node in other.graph if node.op_type == "Pad"]
    assert len(pads) == 3
    before = [node.inputs[0].producer() for node in pads if node.inputs[0] is not None]
    assert [node.op_type for node in before if node is not None] == ["InstanceNormRelu"] * 2, (
        "with channels last"
    )
    assert_alike(other, graph)


@pytest.mark.parametrize(
    ("amounts", "mode", "filling"),
    [
        ([0, 0, 1, 1, 0, 0, 1, -1], "edge", []),
        ([0, 0, 1, 1, 0, 1, 1, 1], "edge", []),
        ([0, 1, 0, 0, 0, 0, 0, 0], "edge", []),
        ([1, 0, 1, 1, 0, 0, 1, 1], "constant", []),
        ([0, 0, 1, 1, 0, 0, 1, 1], "wrap", []),
        ([0, 0, 1, 1, 0, 0, 1, 1], "constant", [0.5]),
    ],
    ids=str,
)
def test_borders_of_another_kind_are_put_around_apart(
    amounts: list[int], mode: str, filling: list[float]
) -> None:
    draft = Draft(3, 0)
    draft.layer(Layer())
    fill = [draft.weight(np.float32(number)) for number in filling]
    draft.value = draft.add("Pad", draft.value, draft.weight(np.array(amounts)), *fill, mode=mode)
    draft.add("Tanh", draft.value)
    graph = draft.graph()
    other = turned(graph)
    assert kinds(other).count("Pad") == 2
    assert_alike(other, graph)


def test_zeros_around_pictures_may_be_told() -> None:
    draft = Draft(3, 0)
    draft.layer(Layer())
    zeros = [draft.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1])), draft.weight(np.float32(0))]
    draft.value = draft.conv(draft.add("Pad", draft.value, *zeros, mode="constant"), 3, 3)
    graph = draft.graph()
    other = turned(graph)
    assert kinds(other).count("Pad") == 1
    assert_alike(other, graph)


def test_what_something_else_reads_stays_as_it_was() -> None:
    draft = Draft(3, 0)
    draft.layer(Layer())
    middle = draft.value
    draft.layer(Layer(end=""))
    draft.value = draft.add("Mul", draft.value, middle)
    graph = draft.graph()
    other = turned(graph)
    assert Counter(kinds(other))["Pad"] == 2
    assert_alike(other, graph)


def test_two_normalisations_may_be_added() -> None:
    draft = Draft(3, 0)
    branches = [draft.norm(draft.conv("x", 3, 3), 3, own=False) for _ in range(2)]
    draft.value = draft.add("Add", *branches)
    graph = draft.graph()
    other = rewrite(graph, [NATIVE])
    assert other is not None
    assert functions(other) == {"InstanceNormSum": 1, "InstanceNorm": 1}
    assert_alike(other, graph)


def test_what_is_normalised_may_be_added_to_it() -> None:
    draft = Draft(3, 0)
    before = draft.conv("x", 3, 3)
    draft.value = draft.add("Add", before, draft.norm(before, 3, own=False))
    graph = draft.graph()
    other = turned(graph)
    assert functions(other) == {"InstanceNormSum": 1}
    assert_alike(other, graph)


def test_sequences_are_no_pictures() -> None:
    """As [N, C, L]; the function has rows and columns."""
    draft = Draft(3, 0)
    flat = draft.add("Reshape", "x", draft.weight(np.array([0, 0, -1])))
    draft.value = draft.norm(flat, 3, own=False)
    graph = draft.graph()
    assert rewrite(graph, [NATIVE]) is None


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 1, 1), ()], ids=str)
@pytest.mark.parametrize("computed", [False, True])
def test_a_bias_that_is_added_is_no_picture(shape: tuple[int, ...], computed: bool) -> None:
    draft = Draft(3, 0)
    draft.layer(Layer(end=""))
    bias = draft.weight(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    draft.value = draft.add("Add", draft.value, draft.add("Neg", bias) if computed else bias)
    graph = draft.graph()
    other = turned(graph)
    assert functions(other) == {"InstanceNorm": 1}
    assert_alike(other, graph)


@pytest.mark.parametrize("scale", [(1, 3), (2, 1), (1, 1), (3,)], ids=str)
def test_a_scale_that_pictures_or_channels_share_is_applied_apart(scale: tuple[int, ...]) -> None:
    draft = Draft(3, 0)
    one, zero = draft.weight(np.ones(3, np.float32)), draft.weight(np.zeros(3, np.float32))
    value = draft.add("InstanceNormalization", draft.conv("x", 3, 3), one, zero)
    for kind in ("Mul", "Add"):
        flat = draft.add("Neg", draft.normal(*scale))
        value = draft.add(kind, value, draft.add("Unsqueeze", flat, draft.weight(np.array([-2, -1]))))
    graph = draft.graph()
    other = turned(graph)
    assert functions(other) == {"InstanceNorm": 1}
    assert kinds(other).count("Mul") == 1
    assert_alike(other, graph)


@pytest.mark.parametrize("steps", [("Mul", "Sub"), ("Mul", "Mul"), ("Div", "Add"), ("Add", "Add")], ids=str)
def test_what_is_no_scale_with_an_offset_is_computed_apart(steps: tuple[str, str]) -> None:
    draft = Draft(3, 0)
    one, zero = draft.weight(np.ones(3, np.float32)), draft.weight(np.zeros(3, np.float32))
    value = draft.add("InstanceNormalization", draft.conv("x", 3, 3), one, zero)
    for kind in steps:
        flat = draft.add("ReduceMax", "x", draft.weight(np.array([2, 3])), keepdims=0)
        value = draft.add(kind, value, draft.add("Unsqueeze", flat, draft.weight(np.array([2, 3]))))
    graph = draft.graph()
    other = turned(graph)
    assert [kind for kind in kinds(other) if kind in steps] == [*steps]
    assert_alike(other, graph)


@pytest.mark.parametrize("first", [True, False])
def test_one_picture_that_is_added_to_all_is_added_apart(first: bool) -> None:
    """Be it that which is normalised, or the other."""
    draft = Draft(3, 0)
    one = draft.add("ReduceMean", "x", draft.weight(np.array([0])))
    normal = draft.norm(draft.conv(one if first else "x", 3, 3, 1), 3, own=False)
    draft.value = draft.add("Add", normal, "x" if first else one)
    graph = draft.graph()
    other = turned(graph)
    assert functions(other) == {"InstanceNorm": 1}
    assert_alike(other, graph)


def test_borders_that_are_outputs_keep_their_names() -> None:
    draft = Draft(3, 0)
    draft.layer(Layer())
    framed = [draft.pad(draft.value, 1, "edge") for _ in range(2)]
    draft.value = draft.conv(framed[1], 3, 3)
    graph = draft.graph()
    graph.graph.outputs.append(graph.graph.node(framed[0].removesuffix(".out")).outputs[0])
    other = turned(graph)
    assert [value.name for value in other.graph.outputs] == ["y", framed[0]]
    assert_alike(other, graph)


def test_in_fp16_scales_stay_in_float32_and_features_do_not() -> None:
    graph = network([Layer(own=True), Layer(), Layer(end="Add")])
    half = convert(turned(graph), "fp16")
    for node in half.graph:
        if node.domain == DOMAIN:
            types = [value.dtype for value in node.inputs if value is not None]
            assert types[3:5] == [ir.DataType.FLOAT] * 2
            assert {*types[5:], node.outputs[0].dtype} == {ir.DataType.FLOAT16}
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    x = picture(2, 3, 9, 8)
    close(run(half, x), run(graph, x), 2e-2)


def test_no_sums_of_float16_overflow() -> None:
    """By the body, which any backend may run."""
    graph = network([Layer(), Layer(end="")])
    half = convert(turned(graph), "fp16")
    x = picture(1, 3, 64, 64) * 200
    close(run(half, x), run(graph, x), 2e-2)


def test_a_graph_without_normalisation_is_left_alone() -> None:
    draft = Draft(3, 0)
    draft.value = draft.conv(draft.pad("x", 1, "reflect"), 3, 3)
    assert rewrite(draft.graph(), [NATIVE]) is None
