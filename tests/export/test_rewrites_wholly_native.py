# SPDX-License-Identifier: Apache-2.0
"""A whole network as native operators with channels last: proven equal, by their bodies, to what it replaces."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export_graphs import close, kinds, make_graph, picture, run
from gantk.bundle import WHOLLY_NATIVE
from gantk.errors import GantkError
from gantk.export.functions import DOMAIN
from gantk.export.precision import IN_FLOAT, convert
from gantk.export.rewrites import rewrite
from gantk.export.rewrites.graphs import add_body
from gantk.runtime.model import from_bytes
from gantk.runtime.operators import OPERATORS
from gantk.runtime.registry import open_model
from norm_graphs import Draft, Layer, network
from style_networks import adain_encoder_network, style_network
from wholly_native import generator, outputs, turned


@pytest.fixture(autouse=True)
def _bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proven are the bodies."""
    monkeypatch.setenv(OPERATORS, "")


def of_style(styles: int = 1, *, pixels: bool = True, width: int = 3, blocks: int = 1) -> ir.Model:
    proto = onnx.load_from_string(style_network(styles, pixels=pixels, width=width, blocks=blocks))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def of_sizes(styles: int, batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(height)
    feeds: dict[str, np.ndarray] = {"picture": random.integers(0, 256, (batch, height, width, 3), np.uint8)}
    if styles > 1:
        feeds["style_weights"] = random.random((batch, styles), np.float32)
    return feeds


# --- whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("styles", [1, 3])
@pytest.mark.parametrize("size", [(1, 8, 8), (2, 13, 9), (1, 31, 22)], ids=str)
def test_a_style_network_has_no_transpose_left(styles: int, size: tuple[int, int, int]) -> None:
    graph = of_style(styles, width=5, blocks=2)
    other = turned(graph)
    native = Counter(node.op_type for node in other.graph if node.domain == DOMAIN)
    assert native == {
        "BorderedBlocks": 1,
        "NhwcConvolution": 8,
        "NhwcTransposedConvolution4x4": 2,
        "InstanceNormRelu": 7,
        "InstanceNormSum": 2,
    }
    assert "Transpose" not in kinds(other)
    feeds = of_sizes(styles, *size)
    found, wanted = outputs(other, feeds), outputs(graph, feeds)
    assert np.ptp(wanted) > 50
    assert np.abs(found.astype(int) - wanted).max() <= 1  # Where rounding falls otherwise.
    assert (found != wanted).mean() < 0.01


def test_pictures_with_channels_first_are_transposed_once_each_way() -> None:
    graph = of_style(pixels=False)
    other = turned(graph)
    assert kinds(other).count("Transpose") == 2
    feeds = {"picture": picture(2, 3, 13, 10)}
    close(outputs(other, feeds), outputs(graph, feeds), 1e-5)


@pytest.mark.parametrize(("size", "width", "channels"), [(28, 5, 1), (32, 3, 3), (64, 2, 3)])
def test_a_generator_has_one_transpose_left(size: int, width: int, channels: int) -> None:
    graph = generator(size, width, channels)
    other = turned(graph)
    doublings = kinds(graph).count("ConvTranspose")
    enlarge = "NhwcTransposedConvolution4x4"
    assert kinds(other) == [
        "Reshape",
        "NhwcConvolutionRelu",
        "Reshape",
        *[f"{enlarge}Relu"] * (doublings - 1),
        enlarge,
        "Tanh",
        "Transpose",
    ]
    assert other.graph.outputs[0].name == "picture"
    feeds = {"latent": np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)}
    close(outputs(other, feeds), outputs(graph, feeds), 1e-5)


# --- layers -----------------------------------------------------------------------------------------------------------

LAYERS = st.builds(
    Layer,
    mode=st.sampled_from(["reflect", "edge", "constant", ""]),
    end=st.sampled_from(["Relu", "Add", ""]),
)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    layers=st.lists(LAYERS, min_size=1, max_size=3),
    channels=st.integers(1, 5),
    batch=st.integers(1, 2),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
)
def test_layers_with_normalisation_equal_what_they_replace(
    layers: list[Layer], channels: int, batch: int, height: int, width: int
) -> None:
    graph = network(layers, channels)
    other = turned(graph)
    assert kinds(other).count("Transpose") <= 2
    x = picture(batch, channels, height, width)
    close(run(other, x), run(graph, x), 1e-4)


def test_what_is_cut_and_computed_value_by_value_has_channels_last_too() -> None:
    draft = Draft(3, 0)
    value = draft.conv("x", 3, 3)
    cut = [draft.weight(np.array(at)) for at in ([1, 0], [-1, 2], [-1, 1])]
    value = draft.add("Slice", value, *cut)  # Columns, then channels.
    value = draft.add("Mul", draft.weight(np.float32(0.5)), value)
    value = draft.add("Clip", value, "", draft.weight(np.float32(0.4)))
    value = draft.add("Add", value, value)
    draft.add("Round", value)
    graph = draft.graph()
    other = turned(graph)
    assert kinds(other) == [
        "Transpose",
        "NhwcConvolution",
        "Slice",
        "Mul",
        "Clip",
        "Add",
        "Round",
        "Transpose",
    ]
    x = 3 * picture(2, 3, 6, 7)
    close(run(other, x), run(graph, x), 1e-6)


@pytest.mark.parametrize("moved", [True, False])
def test_what_is_cut_may_leave_its_axes_to_their_order(moved: bool) -> None:
    """But not to what is computed."""
    draft = Draft(3, 0)
    cut = [draft.weight(np.array(at)) for at in ([0, 0, 1, 2], [9, 2, -1, 9])]
    axes = [] if moved else [draft.add("Neg", draft.weight(np.array([0, -1, -2, -3])))]
    value = draft.add("Slice", draft.conv("x", 3, 3), *cut, *axes)
    draft.add("Tanh", value)
    graph = draft.graph()
    other = turned(graph)
    order = ["Slice", "Tanh", "Transpose"] if moved else ["Transpose", "Slice", "Tanh"]
    assert [kind for kind in kinds(other) if kind != "Neg"] == ["Transpose", "NhwcConvolution", *order]
    x = picture(2, 3, 6, 7)
    close(run(other, x), run(graph, x), 1e-6)


@pytest.mark.parametrize("times", [1, 2])
def test_pictures_with_channels_last_come_out_as_they_are(times: int) -> None:
    """A second time, under another name, by a transpose."""
    draft = Draft(3, 0)
    value = draft.conv("x", 3, 3)
    for _ in range(times):
        draft.add("Transpose", value, perm=[0, 2, 3, 1])
    graph = draft.graph()
    wanted = [node.outputs[0] for node in graph.graph if node.op_type == "Transpose"]
    graph.graph.outputs.extend(wanted[:-1])
    other = turned(graph)
    assert kinds(other)[:2] == ["Transpose", "NhwcConvolution"]
    assert kinds(other).count("Transpose") <= 1 + 2 * (times - 1)
    assert [value.name for value in other.graph.outputs] == [value.name for value in graph.graph.outputs]
    x = picture(2, 3, 6, 7)
    close(run(other, x), run(graph, x), 1e-5)


def test_other_transposes_and_borders_of_pixels_stay() -> None:
    draft = Draft(3, 0)
    pixels = draft.add("Cast", "x", to=onnx.TensorProto.UINT8)
    value = draft.add("Cast", draft.pad(pixels, 1, "edge"), to=onnx.TensorProto.FLOAT)
    value = draft.add("Transpose", draft.conv(value, 3, 3), perm=[3, 2, 1, 0])
    draft.add("Transpose", draft.add("Transpose", value))  # The axes reversed, and so once more.
    graph = draft.graph()
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert kinds(other).count("Pad") == 1
    x = np.round(30 * np.abs(picture(2, 3, 6, 7)))
    close(run(other, x), run(graph, x), 1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("relu", ["", "Relu"])
@pytest.mark.parametrize(
    ("function", "attributes", "standard", "how"),
    [
        ("NhwcConvolution", {}, "Conv", {}),
        ("NhwcConvolution", {"strides": [2, 1]}, "Conv", {"strides": [2, 1]}),
        ("NhwcConvolution", {"dilations": [1, 2]}, "Conv", {"dilations": [1, 2]}),
        ("NhwcTransposedConvolution4x4", {}, "ConvTranspose", {"strides": [2, 2], "pads": [1] * 4}),
        (
            "NhwcTransposedConvolution4x4",
            {"pads": [3] * 4},
            "ConvTranspose",
            {"strides": [2, 2], "pads": [3] * 4},
        ),
        (
            "NhwcTransposedConvolution4x4",
            {"pads": [1, 1, 0, 0]},
            "ConvTranspose",
            {"strides": [2, 2], "pads": [1, 1, 0, 0]},
        ),
    ],
)
def test_bodies_have_defaults_and_do_without_a_bias(
    function: str, attributes: dict[str, Any], standard: str, how: dict[str, Any], relu: str, bias: bool
) -> None:
    random = np.random.default_rng(0)
    axes = (5, 3) if standard == "Conv" else (3, 5)
    weights = {"w": random.standard_normal((*axes, 4, 4)).astype(np.float32)}
    if bias:
        weights["b"] = random.standard_normal(5).astype(np.float32)
    plain = [helper.make_node(standard, ["x", *weights], ["t"], **how)]
    plain.append(helper.make_node(relu or "Identity", ["t"], ["y"]))
    native = [
        helper.make_node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node(function + relu, ["last", *weights], ["t"], domain=DOMAIN, **attributes),
        helper.make_node("Transpose", ["t"], ["y"], perm=[0, 3, 1, 2]),
    ]
    wanted = make_graph(plain, weights, 3, 5)
    proto = ir.to_proto(wanted)
    del proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend(native)
    other = ir.from_proto(proto)
    add_body(other, function + relu)
    x = picture(2, 3, 6, 7)
    close(run(other, x), run(wanted, x), 1e-5)


# --- what stays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("Conv", {"dilations": [1, 2]}),
        ("Conv", {"strides": [1, 2]}),
        ("Conv", {"strides": [3, 3]}),
        ("Conv", {"auto_pad": "SAME_UPPER"}),
        ("ConvTranspose", {"strides": [2, 2], "pads": [2, 2, 2, 2]}),
        ("ConvTranspose", {"strides": [2, 2]}),
        ("ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 0, 1]}),
        ("ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [2, 2]}),
        ("ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 1, 1], "auto_pad": "SAME_UPPER"}),
        ("ConvTranspose", {"pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2]}),
        ("LRN", {"size": 3}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_network_with_anything_else_of_pictures_is_left_alone(
    kind: str, attributes: dict[str, object]
) -> None:
    draft = Draft(4, 0)
    value = draft.add("Relu", draft.conv("x", 4, 4))
    kernel = {"Conv": (4, 4, 3, 3), "ConvTranspose": (4, 4, 4, 4)}
    weights = [draft.normal(*kernel[kind])] if kind in kernel else []
    draft.add(kind, value, *weights, **attributes)
    assert rewrite(draft.graph(), [WHOLLY_NATIVE]) is None


def test_a_network_without_convolutions_is_left_alone() -> None:
    draft = Draft(3, 0)
    draft.add("Relu", "x")
    assert rewrite(draft.graph(), [WHOLLY_NATIVE]) is None


def test_the_statistics_of_a_style_are_computed_in_the_layout_of_its_features() -> None:
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(adain_encoder_network()), data_prop=True)
    graph = ir.from_proto(proto)
    other = turned(graph)
    assert kinds(other).count("NhwcMaxPool2x2") == 2
    assert not {"MaxPool", "GlobalAveragePool"} & set(kinds(other))
    random = np.random.default_rng(0)
    feeds = {
        "picture": random.integers(0, 256, (2, 13, 10, 3), np.uint8),
        "style": random.integers(0, 256, (2, 9, 12, 3), np.uint8),
        "alpha": np.array([0.3, 1], np.float32),
    }
    wanted = outputs(graph, feeds).astype(int)
    assert np.abs(outputs(other, feeds) - wanted).max() <= 1


# --- in bfloat16 ------------------------------------------------------------------------------------------------------


def in_bf16(graph: ir.Model) -> onnx.ModelProto:
    """Checked, with the types of all results."""
    proto = ir.to_proto(convert(turned(graph), "bf16"))
    onnx.checker.check_model(proto, full_check=True)
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def types(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Of each node, by its name, of what type its inputs and its first output are."""
    known = {v.name: v.type.tensor_type.elem_type for v in [*proto.graph.value_info, *proto.graph.input]}
    known |= {v.name: v.type.tensor_type.elem_type for v in proto.graph.output}
    known |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    return {
        f"{node.op_type} {index}": [known[name] for name in (*node.input, node.output[0]) if name]
        for index, node in enumerate(proto.graph.node)
    }


FLOAT, HALF, WHOLE = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16, onnx.TensorProto.INT64


@pytest.mark.parametrize("styles", [1, 2])
def test_of_a_style_network_its_ends_are_in_float32(styles: int) -> None:
    proto = in_bf16(of_style(styles))
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == 22
    assert all(
        entry.version == 22 for body in proto.functions for entry in body.opset_import if not entry.domain
    )
    for name, found in types(proto).items():
        kind = name.split()[0]
        if kind.startswith("InstanceNorm"):
            assert found[:5] == [HALF, WHOLE, WHOLE, FLOAT, FLOAT]
            assert set(found[5:]) == {HALF}
        elif kind.startswith(("Nhwc", "BorderedBlocks")):
            assert set(found) == {HALF}
        elif kind in ("Add", "Mul", "Round", "Clip", "MatMul"):
            assert set(found) == {FLOAT}
        else:
            assert kind in ("Cast", "Shape", "Slice")
    floats = [node.op_type for node in proto.graph.node if IN_FLOAT in {e.key for e in node.metadata_props}]
    assert Counter(floats)["Round"] == 1


def test_of_a_generator_pictures_are_float32_from_their_last_value_on() -> None:
    proto = in_bf16(generator(32, 2, 3))
    found = types(proto)
    assert [(name.split()[0], set(of)) for name, of in found.items()][-3:] == [
        ("Cast", {HALF, FLOAT}),
        ("Tanh", {FLOAT}),
        ("Transpose", {FLOAT}),
    ]
    assert [name.split()[0] for name in found][:3] == ["Cast", "Reshape", "NhwcConvolutionRelu"]
    assert found["NhwcConvolutionRelu 2"] == [HALF] * 4


def test_a_file_says_that_it_is_for_native_operators_and_does_not_run_without() -> None:
    model = from_bytes(in_bf16(of_style()).SerializeToString())
    assert (model.precision, model.is_wholly_native) == ("bf16", True)
    with pytest.raises(GantkError, match="cannot compute bf16 on this machine's cpu") as caught:
        open_model(model, "onnxruntime", "cpu")
    assert OPERATORS in (caught.value.hint or "")
