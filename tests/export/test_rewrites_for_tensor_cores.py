# SPDX-License-Identifier: Apache-2.0
"""Channels in eights, for tensor cores: proven equal, in float32 and in fp16, to what had fewer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export_graphs import close, kinds, make_graph, picture, run
from gantk.export import verify
from gantk.export.precision import convert
from gantk.export.rewrites import rewrite
from gantk.export.rewrites.graphs import constant
from traced_pictures import check_sizes, make_short_network, prepare

EIGHTS = "narrow-to-eights"
WEIGHT_AXES = {"Conv": (0, 1), "ConvTranspose": (1, 0)}


def narrow(
    operator: str = "Conv",
    inputs: int = 3,
    outputs: int = 3,
    *,
    kernel: int = 3,
    mode: str = "",
    around: tuple[int, ...] = (0, 0, 1, 1, 0, 0, 1, 1),
    bias: bool = True,
    after: str = "Tanh",
    seed: int = 0,
    **attributes: Any,
) -> ir.Model:
    """Maybe a padding (where `mode` says how), a convolution or a transposed one, and what follows it."""
    random = np.random.default_rng(seed)
    axes = (outputs, inputs) if operator == "Conv" else (inputs, outputs)
    weights = {
        "around": np.array(around),
        "fill": np.float32(0.7),
        "w": random.standard_normal((*axes, kernel, kernel)).astype(np.float32),
        "b": random.standard_normal(outputs).astype(np.float32),
    }
    padded = ["x", "around", *(["fill"] if mode == "constant" else [])]
    nodes = [helper.make_node("Pad", padded, ["padded"], name="pad", mode=mode)] if mode else []
    read = ["padded" if mode else "x", "w", *(["b"] if bias else [])]
    nodes.append(helper.make_node(operator, read, ["c"], name="conv", **attributes))
    nodes.append(helper.make_node(after, ["c"], ["y"], name="after"))
    used = {name for node in nodes for name in node.input}
    return make_graph(nodes, {name: a for name, a in weights.items() if name in used}, inputs, outputs)


def channels(graph: ir.Model) -> list[tuple[int, int]]:
    """Of each convolution, the numbers of channels before and after."""
    found = []
    for node in graph.graph:
        if node.op_type in WEIGHT_AXES:
            weight = constant(node.inputs[1])
            assert weight is not None
            after, before = WEIGHT_AXES[node.op_type]
            found.append((weight.shape[before], weight.shape[after]))
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    operator=st.sampled_from(["Conv", "ConvTranspose"]),
    batch=st.integers(1, 3),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 17),
    height=st.integers(3, 7),
    width=st.integers(3, 7),
    kernel=st.sampled_from([1, 3, 4]),
    stride=st.integers(1, 2),
    border=st.integers(0, 1),
    mode=st.sampled_from(["", "reflect", "edge", "constant"]),
    bias=st.booleans(),
    seed=st.integers(0, 100),
)
def test_channels_of_zeros_change_nothing(
    operator: str,
    batch: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    kernel: int,
    stride: int,
    border: int,
    mode: str,
    bias: bool,
    seed: int,
) -> None:
    graph = narrow(
        operator,
        inputs,
        outputs,
        kernel=kernel,
        mode=mode or ("edge" if kernel == 4 else ""),
        bias=bias,
        seed=seed,
        strides=[stride, stride],
        pads=[border if kernel > 1 else 0] * 4,
    )
    other = rewrite(graph, [EIGHTS])
    before = 8 if inputs < 8 and operator == "Conv" else inputs
    after = {True: 8, False: 16}[outputs <= 8] if outputs < 16 else outputs
    if (before, after) == (inputs, outputs):
        assert other is None
        return
    assert other is not None
    assert channels(other) == [(before, after)]
    x = picture(batch, inputs, height, width, seed)
    close(run(other, x), run(graph, x), 1e-5)
    close(run(convert(other, "fp16"), x), run(convert(graph, "fp16"), x), 2e-3)


@pytest.mark.parametrize("backend", verify.working_backends("fp32"))
def test_every_backend_computes_them_right(backend: str) -> None:
    graph = narrow(kernel=9, mode="reflect", around=(0, 0, 4, 4, 0, 0, 4, 4))
    other = rewrite(graph, [EIGHTS])
    assert other is not None
    x = picture(2, 3, 7, 10)
    close(run(other, x, backend), run(graph, x), 5e-5)


def test_channels_are_added_before_a_border_and_cut_before_all_else() -> None:
    other = rewrite(narrow(mode="reflect"), [EIGHTS])
    assert other is not None
    assert kinds(other) == ["Pad", "Pad", "Conv", "Slice", "Tanh"]
    found = [constant(node.inputs[1]) for node in list(other.graph)[:2]]
    assert [amounts.tolist() for amounts in found if amounts is not None] == [
        [0, 0, 0, 0, 0, 5, 0, 0],
        [0, 0, 1, 1, 0, 0, 1, 1],
    ]
    assert rewrite(other, [EIGHTS]) is None


def test_only_what_is_missing_is_added() -> None:
    reads, makes = rewrite(narrow(outputs=8), [EIGHTS]), rewrite(narrow(inputs=8), [EIGHTS])
    assert reads is not None and makes is not None
    assert kinds(reads) == ["Pad", "Conv", "Tanh"]
    assert kinds(makes) == ["Conv", "Slice", "Tanh"]


def test_a_border_that_something_else_needs_stays() -> None:
    graph = narrow(mode="edge")
    padded = graph.graph[0].outputs[0]
    extra = ir.node("ReduceMax", [padded], name="peak")
    peak = extra.outputs[0]
    peak.name, peak.type, peak.shape = "peak", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 1, 1, 1])
    graph.graph.append(extra)
    graph.graph.outputs.append(peak)
    other = rewrite(graph, [EIGHTS])
    assert other is not None
    assert kinds(other) == ["Pad", "Pad", "Conv", "Slice", "Tanh", "ReduceMax"]
    assert other.graph[0].name == "pad"
    x = picture(1, 3, 5, 4)
    close(run(other, x), run(graph, x), 1e-5)


@pytest.mark.parametrize(
    "around",
    [{"amounts": [0, 0, 1, 1, 0, 1, 1, 1]}, {"amounts": [0, 0, 0, 0, 0, 0, 0, 1], "axes": [2, 3, 0, 1]}],
    ids=["all axes", "in another order"],
)
def test_channels_that_a_padding_adds_itself_stay_where_they_are(around: dict[str, list[int]]) -> None:
    """Zeros before it would come between them and the picture's."""
    weights = {name: np.array(numbers) for name, numbers in around.items()}
    weights["w"] = np.random.default_rng(0).standard_normal((3, 4, 3, 3)).astype(np.float32)
    axes = ["", "axes"] if "axes" in around else []
    nodes = [
        helper.make_node("Pad", ["x", "amounts", *axes], ["padded"], name="pad", mode="edge"),
        helper.make_node("Conv", ["padded", "w"], ["y"], name="conv"),
    ]
    graph = make_graph(nodes, weights, 3, 3)
    other = rewrite(graph, [EIGHTS])
    assert other is not None
    assert other.graph[0].name == "pad"
    x = picture(2, 3, 5, 4)
    close(run(other, x), run(graph, x), 1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"dilations": [2, 2]},
        {"operator": "ConvTranspose", "dilations": [2, 2]},
        {"inputs": 8, "outputs": 8},
        {"inputs": 9, "outputs": 17},
        {"operator": "ConvTranspose", "inputs": 3, "outputs": 16},
    ],
    ids=str,
)
def test_others_are_left_alone(change: dict[str, Any]) -> None:
    assert rewrite(narrow(**change), [EIGHTS]) is None


def test_groups_lines_and_computed_weights_are_left_alone() -> None:
    grouped = narrow(inputs=1, outputs=4, group=4)
    grouped.graph.inputs[0].shape = ir.Shape(["N", 4, "H", "W"])
    assert run(grouped, picture(1, 4, 5, 5)).shape == (1, 4, 3, 3)
    assert rewrite(grouped, [EIGHTS]) is None
    for index in (1, 2):
        computed = narrow()
        value = computed.graph[0].inputs[index]
        assert value is not None
        double = ir.node("Add", [value, value], name="double")
        double.outputs[0].name, double.outputs[0].type = "doubled", value.type
        computed.graph.insert_before(computed.graph[0], double)
        computed.graph[1].replace_input_with(index, double.outputs[0])
        assert rewrite(computed, [EIGHTS]) is None
    weights = {"flat": np.array([0, 3, -1]), "w": np.ones((3, 3, 5), np.float32), "last": np.array([3])}
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["line"], name="flatten"),
        helper.make_node("Conv", ["line", "w"], ["c"], name="conv"),
        helper.make_node("Unsqueeze", ["c", "last"], ["y"], name="turn"),
    ]
    assert rewrite(make_graph(nodes, weights, 3, 3), [EIGHTS]) is None


@pytest.mark.parametrize("after", ["Tanh", "Neg"])
def test_the_phases_of_three_colours_are_sixteen_channels(after: str) -> None:
    graph = narrow("ConvTranspose", 24, 3, kernel=4, strides=[2, 2], pads=[1, 1, 1, 1], after=after)
    other = rewrite(graph, ["narrow-transposed-to-subpixel", EIGHTS])
    assert other is not None
    assert channels(other) == [(24, 16)]
    x = picture(2, 24, 5, 3)
    close(run(other, x), run(graph, x), 1e-5)
    close(run(convert(other, "fp16"), x), run(convert(graph, "fp16"), x), 2e-3)


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("phases", [(), ("narrow-to-phases",), ("narrow-to-blocks",)], ids=str)
@pytest.mark.parametrize("backend", verify.working_backends("fp32"))
def test_a_network_of_pictures_with_all_rewrites_for_gpus(backend: str, phases: tuple[str, ...]) -> None:
    eights = () if "narrow-to-blocks" in phases else (EIGHTS,)  # Blocks leave nothing narrow.
    names = ("normalized-bias", "enlarged-to-subpixel", *phases, *eights, "normalization-in-half")
    check_sizes(prepare(make_short_network()), backend, names)
