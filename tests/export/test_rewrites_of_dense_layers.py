# SPDX-License-Identifier: Apache-2.0
"""Dense layers as native convolutions, in generators that are wholly native: proven equal, by their bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from export_graphs import close, kinds, make_graph, picture
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.rewrites import rewrite
from gantk.runtime.operators import OPERATORS
from wholly_native import generator, outputs, turned


@pytest.fixture(autouse=True)
def _bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proven are the bodies."""
    monkeypatch.setenv(OPERATORS, "")


def test_a_dense_layer_may_go_without_a_relu() -> None:
    graph = generator(32, 2, 3, after="")
    other = turned(graph)
    assert kinds(other)[:3] == ["Reshape", "NhwcConvolution", "Reshape"]
    feeds = {"latent": np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)}
    close(outputs(other, feeds), outputs(graph, feeds), 1e-5)


def with_computed_bias() -> ir.Model:
    graph = generator(32, 2, 3)
    dense = graph.graph[0]
    made = ir.node("Neg", [dense.inputs[2]], name="made")
    made.outputs[0].name, made.outputs[0].type = "computed", ir.TensorType(ir.DataType.FLOAT)
    made.outputs[0].shape = dense.inputs[2].shape if dense.inputs[2] is not None else None
    graph.graph.insert_before(dense, made)
    dense.replace_input_with(2, made.outputs[0])
    return graph


@pytest.mark.parametrize(
    "graph",
    [
        generator(32, 2, 3, after="Tanh"),
        generator(32, 2, 3, alpha=0.5),
        generator(32, 2, 3, beta=0.5),
        generator(32, 2, 3, transB=0),
        with_computed_bias(),
    ],
    ids=["another activation", "a factor", "a factor of the bias", "other weights", "a computed bias"],
)
def test_a_dense_layer_of_another_kind_stays_what_it_is(graph: ir.Model) -> None:
    """It is no sum over pictures, and may be computed in float32."""
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert "Gemm" in kinds(other)
    feeds = {"latent": np.random.default_rng(1).standard_normal((2, 6)).astype(np.float32)}
    close(outputs(other, feeds), outputs(graph, feeds), 1e-5)


def with_bias(*shape: int) -> ir.Model:
    """A dense layer of eight vectors, whose bias has another shape."""
    graph = generator(32, 1, 3)
    (bias,) = (value for name, value in graph.graph.initializers.items() if name == "b")
    array = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    bias.const_value, bias.shape = ir.Tensor(array, name="b"), ir.Shape(shape)
    return graph


@pytest.mark.parametrize("shape", [(), (1,), (64,), (1, 1), (1, 64)], ids=str)
def test_a_bias_is_that_of_every_vector(shape: tuple[int, ...]) -> None:
    graph = with_bias(*shape)
    other = turned(graph)
    feeds = {"latent": np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)}
    close(outputs(other, feeds), outputs(graph, feeds), 1e-5)


@pytest.mark.parametrize("shape", [(3, 1), (64, 1), (3, 64)], ids=str)
def test_a_dense_layer_with_a_bias_for_each_vector_stays_what_it_is(shape: tuple[int, ...]) -> None:
    other = rewrite(with_bias(*shape), [WHOLLY_NATIVE])
    assert other is not None
    assert kinds(other)[0] == "Gemm"


def of_pixels(
    latent: int = 6, *, after: str = "Relu", bias: bool = True, height: int = 1, **attributes: object
) -> ir.Model:
    """A classic DCGAN's beginning: a transposed convolution of one pixel, and one that doubles what it makes."""
    random = np.random.default_rng(3)
    weights = {
        "w": random.standard_normal((latent, 8, 4, 3)),
        "k": random.standard_normal((8, 3, 4, 4)),
        **({"b": random.standard_normal(8)} if bias else {}),
    }
    inputs = ["x", "w", *(["b"] if bias else [])]
    nodes = [
        helper.make_node("ConvTranspose", inputs, ["t"], name="project", **attributes),
        *([helper.make_node(after, ["t"], ["u"], name="active")] if after else []),
        helper.make_node(
            "ConvTranspose", ["u" if after else "t", "k"], ["y"], name="enlarge", strides=[2, 2], pads=[1] * 4
        ),
    ]
    floats = {name: array.astype(np.float32) for name, array in weights.items()}
    return make_graph(nodes, floats, latent, 3, (height, 1))


@pytest.mark.parametrize("after", ["Relu", "Tanh", ""])
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_of_one_pixel_is_a_dense_layer(after: str, bias: bool) -> None:
    graph = of_pixels(after=after, bias=bias, strides=[3, 2])
    other = turned(graph)
    assert kinds(other)[:3] == ["Reshape", f"NhwcConvolution{'Relu' if after == 'Relu' else ''}", "Reshape"]
    feeds = {"x": picture(3, 6, 1, 1)}
    close(outputs(other, feeds), outputs(graph, feeds), 1e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"height": 2},
        {"pads": [1, 0, 0, 0]},
        {"output_padding": [1, 0], "strides": [2, 1]},
        {"output_shape": [4, 3]},
        {"dilations": [2, 1]},
        {"auto_pad": "SAME_UPPER"},
    ],
    ids=str,
)
def test_one_that_is_another_sum_stays_what_it_is(attributes: dict[str, Any]) -> None:
    graph = of_pixels(**attributes)
    assert rewrite(graph, [WHOLLY_NATIVE]) is None
