# SPDX-License-Identifier: Apache-2.0
"""Wide depthwise convolutions in bf16 and int8, which OpenVINO's CPU plug-in compiles without an end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

openvino = pytest.importorskip("openvino")
onnxruntime = pytest.importorskip("onnxruntime")

from gantk.runtime.backends.openvino_depthwise import WIDEST, mend_depthwise  # noqa: E402

CHANNELS = 3


def blur(
    kernel: tuple[int, int],
    *,
    size: tuple[int, int] | None = None,
    kind: int = TensorProto.FLOAT,
    **how: object,
) -> onnx.ModelProto:
    """A depthwise convolution; of pictures of any size where none is given."""
    weights = np.random.default_rng(0).standard_normal((CHANNELS, 1, *kernel)).astype("float32")
    shape = ["N", CHANNELS, *(size or ("H", "W"))]
    nodes = [
        helper.make_node("Cast", ["x"], ["in"], to=kind),
        helper.make_node("Cast", ["weights"], ["w"], to=kind),
        helper.make_node("Conv", ["in", "w"], ["out"], "blur", group=CHANNELS, **how),
        helper.make_node("Cast", ["out"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "blur",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CHANNELS, "h", "w"])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@st.composite
def paddings(draw: st.DrawFn) -> dict[str, object]:
    """Zeros around, told or to be found out."""
    rows = draw(st.integers(1, 3))
    told = draw(st.lists(st.integers(0, 9), min_size=4, max_size=4))
    ways: list[dict[str, object]] = [{"pads": told, "strides": [rows, 1]}, {"auto_pad": "VALID"}]
    ways += [{"auto_pad": f"SAME_{where}"} for where in ("UPPER", "LOWER")]
    return draw(st.sampled_from(ways))


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(WIDEST + 1, 3 * WIDEST + 2)),
    size=st.tuples(st.integers(5, 12), st.integers(3 * WIDEST + 2, 60)),
    how=paddings(),
    fixed=st.booleans(),
)
def test_a_sum_of_narrow_ones_computes_the_same(
    *, kernel: tuple[int, int], size: tuple[int, int], how: dict[str, object], fixed: bool
) -> None:
    model = blur(kernel, size=size if fixed else None, **how)
    x = np.random.default_rng(1).standard_normal((2, CHANNELS, *size)).astype("float32")
    (right,) = ReferenceEvaluator(model).run(None, {"x": x})
    source = openvino.Core().read_model(model.SerializeToString())
    assert mend_depthwise(source, lowered=True) == ["blur"]
    kernels = [n.get_input_shape(1)[-1] for n in source.get_ops() if n.get_type_name() == "GroupConvolution"]
    assert max(kernels) <= WIDEST
    assert sum(kernels) == kernel[1]
    compiled = openvino.compile_model(source, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled({"x": x})["y"], right, atol=1e-5 * np.abs(right).max())


def test_quantised_weights_of_what_runs_in_bf16_are_narrow_too() -> None:
    source = openvino.Core().read_model(quantised().SerializeToString())
    assert mend_depthwise(source, lowered=True) == ["blur"]
    kernels = [n.get_input_shape(1)[-1] for n in source.get_ops() if n.get_type_name() == "GroupConvolution"]
    assert sorted(kernels) == [10, 11]


@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        ((3, WIDEST), {}),
        ((31, 3), {}),
        ((3, 21), {"strides": [1, 2]}),
        ((3, 21), {"dilations": [1, 2]}),
        ((3, 21), {"auto_pad": "SAME_UPPER", "strides": [2, 1]}),  # Where its pixels are depends on the size.
    ],
)
def test_what_it_compiles_is_left_alone(kernel: tuple[int, int], how: dict[str, object]) -> None:
    source = openvino.Core().read_model(blur(kernel, **how).SerializeToString())
    assert mend_depthwise(source, lowered=True) == []


def quantised() -> onnx.ModelProto:
    """A blur in int8."""
    numbers = np.random.default_rng(0).integers(-127, 127, (CHANNELS, 1, 21, 21)).astype("int8")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["made"], "blur", group=CHANNELS, pads=[10] * 4),
        helper.make_node("QuantizeLinear", ["made", "wide", "zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "wide", "zero"], ["y"]),
    ]
    constants = {
        "scale": np.float32(0.02),
        "wide": np.float32(0.5),
        "zero": np.int8(0),
        "w": numbers,
        "scales": np.full(CHANNELS, 0.01, "float32"),
        "zeros": np.zeros(CHANNELS, "int8"),
    }
    graph = helper.make_graph(
        nodes,
        "blur",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 40, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS, 40, 64])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def of_integers(kind: int) -> onnx.ModelProto:
    """A blur whose weights are int8, and nothing else."""
    proto = quantised()
    nodes = {node.output[0]: node for node in proto.graph.node}
    del proto.graph.node[:]
    low = {name: f"{name}/low" for name in ("x", "wd")}
    nodes["made"].input[:] = low.values()
    nodes["made"].output[:] = ["made"]
    casts = [helper.make_node("Cast", [name], [to], to=kind) for name, to in low.items()]
    last = helper.make_node("Cast", ["made"], ["y"], to=TensorProto.FLOAT)
    proto.graph.node.extend([nodes["wd"], *casts, nodes["made"], last])
    return proto


def wide(size: tuple[int, int] | None, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    return blur((21, 21), size=size, kind=kind, pads=[10] * 4)


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (wide((40, 64), TensorProto.BFLOAT16), wide((40, 64))),
        (wide(None, TensorProto.BFLOAT16), wide(None)),
        (quantised(), quantised()),
        (of_integers(TensorProto.BFLOAT16), of_integers(TensorProto.FLOAT)),
    ],
    ids=["bf16", "bf16, any size", "int8", "int8 weights in bf16"],
)
def test_a_wide_blur_runs(tmp_path: Path, given: onnx.ModelProto, exact: onnx.ModelProto) -> None:
    """In a process of its own, for what does not end cannot be ended otherwise."""
    onnx.save(given, tmp_path / "blur.onnx")
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, 40, 64)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    code = (
        "import gantk, numpy\n"
        "with gantk.open('blur.onnx', 'openvino') as runner:\n"
        "    numpy.save('y.npy', runner.run({'x': numpy.load('x.npy')})['y'])\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    (right,) = onnxruntime.InferenceSession(exact.SerializeToString()).run(None, {"x": x})
    error = np.abs(np.load(tmp_path / "y.npy") - right)
    assert error.max() < 0.02 * np.abs(right).max()
