# SPDX-License-Identifier: Apache-2.0
"""Small ONNX files for TensorRT: quantised ones, ones that it refuses, and ones whose fp16 overflows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gantk.bundle import Interface, Profile
from gantk.export.engines.profiles import make_profiles
from gantk.runtime.model import from_bytes

CHANNELS = 16


def profiles_of(data: bytes) -> tuple[Profile, ...]:
    """One profile: of a file's inputs batches of up to 4 and sides of up to 32."""
    model = from_bytes(data)
    shapes = {
        end: [
            f"{spec.name}={'x'.join(str(size) for size in spec.concrete(dict.fromkeys('NHW', side) | {'N': batch}))}"
            for spec in model.inputs
            if spec.shape
        ]
        for end, side, batch in (("min", 16, 1), ("opt", 16, 1), ("max", 32, 4))
    }
    interface = Interface(model.inputs, model.outputs)
    return make_profiles(interface, None, shapes["min"], shapes["opt"], shapes["max"])


def save(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any],
    kind: int = TensorProto.FLOAT,
    opset: int = 21,
) -> bytes:
    """From ``x`` [N, 16, H, W] to ``y``, both of one type."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, ["N", CHANNELS, "H", "W"])],
        [helper.make_tensor_value_info("y", kind, ["N", "C", "P", "Q"])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("elsewhere", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def convolution(dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Weights (16, 16, 3, 3)."""
    values = np.random.default_rng(seed).standard_normal((CHANNELS, CHANNELS, 3, 3)) * 0.1
    return values.astype(dtype)


def quantised(kind: str, *, only_weights: bool = False) -> bytes:
    """A convolution between int8 or fp8 Q/DQ pairs, which TensorRT fuses with it."""
    zero = np.int8(0) if kind == "int8" else np.zeros((), ml_dtypes.float8_e4m3fn)
    weights = {"w": convolution(), "scale": np.float32(0.02), "zero": zero}
    nodes = []
    for tensor in ("w",) if only_weights else ("x", "w"):
        pair = (("QuantizeLinear", tensor, f"{tensor}q"), ("DequantizeLinear", f"{tensor}q", f"{tensor}dq"))
        nodes += [
            helper.make_node(op, [source, "scale", "zero"], [made], name=f"{made}/{op}")
            for op, source, made in pair
        ]
    source = "x" if only_weights else "xdq"
    nodes.append(helper.make_node("Conv", [source, "wdq"], ["y"], name="conv", pads=[1, 1, 1, 1]))
    return save(nodes, weights)


def mixed() -> bytes:
    """A fp16 file that has been left in fp32 where it matters."""
    nodes = [
        helper.make_node("Conv", ["x", "w16"], ["h"], name="narrow", pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["h"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["wide", "w32"], ["h2"], name="forgotten", pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["h2"], ["y"], to=TensorProto.FLOAT16),
    ]
    weights = {"w16": convolution(np.float16), "w32": convolution()[:4]}
    return save(nodes, weights, TensorProto.FLOAT16)


def refused(operator: str, domain: str = "", **attributes: Any) -> bytes:
    """A file with one node that the parser does not take."""
    inputs = ["x", "", "scales"] if operator == "Resize" else ["x"]
    node = helper.make_node(operator, inputs, ["y"], name="culprit", domain=domain, **attributes)
    return save([node], {"scales": np.array([1, 1, 0.5, 0.5], np.float32)})


def transposed(dtype: Any, kernel: int = 4, strides: tuple[int, int] = (2, 2)) -> bytes:
    """A transposed convolution, which doubles height and width where its kernel is 4."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = {"w": np.random.default_rng(0).standard_normal((CHANNELS, 8, kernel, kernel)).astype(dtype)}
    attributes = {"strides": list(strides), "pads": [1, 1, 1, 1]}
    if kind != TensorProto.BFLOAT16:
        nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="grow", **attributes)]
        return save(nodes, weights, kind, opset=22)
    nodes = [  # Inputs and outputs of bfloat16 are refused.
        helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        helper.make_node("ConvTranspose", ["narrow", "w"], ["grown"], name="grow", **attributes),
        helper.make_node("Cast", ["grown"], ["y"], to=TensorProto.FLOAT),
    ]
    return save(nodes, weights, opset=22)
