# SPDX-License-Identifier: Apache-2.0
"""The bodies of gantk's ONNX functions against float64, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, checker, helper

from gantk.export.functions import DOMAIN, KINDS, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model, status
from variations import variation

BACKENDS = [name for name in ("onnxruntime", "openvino") if status(name).works]
NARROW = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
# Of the largest value; what a narrow type gives is rounded to its mantissa.
TOLERANCE = {"float32": 1e-5, "float16": 1e-3}
SHAPES = [(1, 1, 1, 1), (2, 3, 1, 7), (2, 3, 9, 1), (3, 5, 7, 11), (1, 3, 33, 64)]

Shapes = dict[str, list[int | str]]


def model(
    function: str, inputs: Shapes, outputs: dict[str, tuple[int, list[int | str]]], dtype: str, **options: Any
) -> bytes:
    """A file of one node, whose inputs are float32 and narrowed inside."""
    nodes = [helper.make_node("Cast", [name], [f"{name}_in"], to=NARROW[dtype]) for name in inputs]
    if function == "GramMatrixGrad":
        nodes[0] = helper.make_node("Identity", ["gradient"], ["gradient_in"])
    nodes.append(
        helper.make_node(
            function,
            [f"{name}_in" for name in inputs],
            [f"{name}_out" for name in outputs],
            domain=DOMAIN,
            **options,
        )
    )
    nodes += [helper.make_node("Cast", [f"{name}_out"], [name], to=TensorProto.FLOAT) for name in outputs]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        for shapes in (inputs, {name: shape for name, (_, shape) in outputs.items()})
    ]
    inner = [
        helper.make_tensor_value_info(f"{name}_out", kind, shape) for name, (kind, shape) in outputs.items()
    ]
    graph = helper.make_graph(nodes, function, values[0], values[1], value_info=inner)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    functions = bodies(OPSET, options.get("kind", "l1"))
    proto = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    checker.check_model(proto, full_check=True)
    return proto.SerializeToString()


def run(data: bytes, backend: str, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    with open_model(from_bytes(data), backend, threads=1) as runner:
        return list(runner.run(feeds).values())


def assert_close(found: Any, wanted: Any, dtype: str) -> None:
    assert found.shape == wanted.shape
    scale = max(float(np.abs(wanted).max()), 1e-30)
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=TOLERANCE[dtype])


def narrowed(values: Any, dtype: str) -> Any:
    """What a tensor of a type holds of some values, in float64."""
    return values.astype(dtype).astype(np.float64)


@pytest.mark.parametrize("scale", [0.0, 0.25])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gram_matrix(backend: str, dtype: str, scale: float) -> None:
    grams = {"gram": (TensorProto.FLOAT, ["N", "C", "C"])}
    data = model("GramMatrix", {"features": ["N", "C", "H", "W"]}, grams, dtype, scale=scale)
    with open_model(from_bytes(data), backend, threads=1) as runner:
        for shape in SHAPES:
            features = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            rows = narrowed(features, dtype).reshape(*shape[:2], -1)
            wanted = rows @ rows.transpose(0, 2, 1) * (scale or 1 / rows.shape[2])
            # The result is float32 whatever goes in; only a backend that widens its inputs may round less.
            assert_close(
                runner.run({"features": features})["gram"], wanted, "float32" if dtype == "float32" else dtype
            )


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gram_matrix_grad(backend: str, dtype: str) -> None:
    inputs: Shapes = {"gradient": ["N", "C", "C"], "features": ["N", "C", "H", "W"]}
    outputs = {"slope": (NARROW[dtype], ["N", "C", "H", "W"])}
    data = model("GramMatrixGrad", inputs, outputs, dtype, scale=0.0)
    with open_model(from_bytes(data), backend, threads=1) as runner:
        for shape in SHAPES:
            rng = np.random.default_rng(1)
            features = rng.standard_normal(shape).astype(np.float32)
            # Not symmetric.
            gradient = rng.standard_normal((shape[0], shape[1], shape[1])).astype(np.float32)
            rows = narrowed(features, dtype).reshape(*shape[:2], -1)
            both = gradient.astype(np.float64) + gradient.transpose(0, 2, 1)
            wanted = (both @ rows / rows.shape[2]).reshape(shape)
            assert_close(runner.run({"gradient": gradient, "features": features})["slope"], wanted, dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("backend", BACKENDS)
def test_total_variation(backend: str, dtype: str, kind: str) -> None:
    sizes: list[int | str] = ["N", "C", "H", "W"]
    outputs = {"value": (TensorProto.FLOAT, ["N"]), "gradient": (NARROW[dtype], sizes)}
    data = model("TotalVariation", {"pictures": sizes}, outputs, dtype, kind=kind, epsilon=1e-3)
    with open_model(from_bytes(data), backend, threads=1) as runner:
        for shape in SHAPES:
            pictures = np.random.default_rng(2).random(shape).astype(np.float32)
            pictures[..., : shape[3] // 2] = 0.5  # Equal neighbours: the slope of |0| is 0.
            pictures = narrowed(pictures, dtype).astype(np.float32)  # OpenVINO leaves out narrowing casts.
            made = runner.run({"pictures": pictures})
            value, gradient = variation(pictures.astype(np.float64), kind, 1e-3)
            assert_close(made["value"], value, dtype)
            assert_close(made["gradient"], gradient, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_reference_is_the_slope_of_its_value(kind: str) -> None:
    pictures = np.random.default_rng(3).random((1, 2, 5, 4))
    _, gradient = variation(pictures, kind, 1e-3)
    for place in ((0, 0, 0, 0), (0, 1, 4, 3), (0, 0, 2, 1)):
        up, down = pictures.copy(), pictures.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        slope = (variation(up, kind, 1e-3)[0] - variation(down, kind, 1e-3)[0]) / 2e-6
        assert slope[0] == pytest.approx(gradient[place], abs=1e-4)


@pytest.mark.skipif("onnxruntime" not in BACKENDS, reason="wants onnxruntime")
@pytest.mark.parametrize("dtype", NARROW)
def test_halves_are_summed_in_float32(dtype: str) -> None:
    grams = {"gram": (TensorProto.FLOAT, ["N", "C", "C"])}
    data = model("GramMatrix", {"features": ["N", "C", "H", "W"]}, grams, dtype, scale=1.0)
    # The sum passes fp16's 65504, and fp16 would lose every term after the 2048th.
    (gram,) = run(data, "onnxruntime", {"features": np.full((1, 2, 100, 700), 10, np.float32)})
    np.testing.assert_allclose(gram, np.full((1, 2, 2), 7e6), rtol=1e-6)
    sizes: list[int | str] = ["N", "C", "H", "W"]
    outputs = {"value": (TensorProto.FLOAT, ["N"]), "gradient": (NARROW[dtype], sizes)}
    data = model("TotalVariation", {"pictures": sizes}, outputs, dtype, kind="l1", epsilon=1e-8)
    stripes = np.broadcast_to(np.arange(500) % 2, (1, 3, 400, 500)).astype(np.float32)
    value, gradient = run(data, "onnxruntime", {"pictures": np.ascontiguousarray(stripes)})
    assert value[0] == 3 * 400 * 499
    assert sorted(np.unique(gradient)) == [-2, -1, 1, 2]


def test_a_body_is_in_the_opset_of_its_model() -> None:
    for body in bodies(20, "l2"):
        assert [(entry.domain, entry.version) for entry in body.opset_import] == [("", 20)]
        assert body.domain == DOMAIN
    assert [body.name for body in bodies(OPSET)] == [
        "GramMatrix",
        "GramMatrixGrad",
        "TotalVariation",
        "Convolution3x3",
        "Convolution3x3Relu",
        "TransposedConvolution4x4",
        "TransposedConvolution4x4Relu",
        "ReflectedConvolution3x3",
        "Convolution3x3ReluGrad",
        "MaxPool2x2",
        "MaxPool2x2Grad",
        "NhwcConvolution",
        "NhwcConvolutionRelu",
        "NhwcConvolutionPRelu",
        "NhwcConvolutionSum",
        "NhwcTransposedConvolution4x4",
        "NhwcTransposedConvolution4x4Relu",
        "NhwcTransposedConvolution4x4PRelu",
        "NhwcTransposedConvolution4x4Sum",
        "NhwcDepthwiseConvolution",
        "NhwcDepthwiseConvolutionRelu",
        "NhwcDepthwiseConvolutionPRelu",
        "NhwcDepthwiseTransposed",
        "NhwcDepthwiseTransposedRelu",
        "NhwcDepthwiseTransposedPRelu",
        "NhwcPRelu",
        "NhwcClip",
        "NhwcMaxPool2x2",
        "NhwcAffine",
        "NhwcAffineSum",
        "NhwcAffinePRelu",
        "NhwcAffineSumPRelu",
        "NhwcAffineSilu",
        "NhwcAffineSumSilu",
        "NhwcGroupNorm",
        "NhwcGroupNormSilu",
        "NhwcLayerNorm",
        "NhwcRmsNorm",
        "NhwcGate",
        "NhwcGlu",
        "InstanceNorm",
        "InstanceNormRelu",
        "InstanceNormSum",
        "BorderedBlocks",
        "BiasRelu",
        "ToPicture",
        "Sizes",
    ]
