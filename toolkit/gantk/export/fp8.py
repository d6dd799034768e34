# SPDX-License-Identifier: Apache-2.0
"""fp8 by static quantisation: an int8 file's scales, which are ranges, made into those of float8 (e4m3fn)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from gantk.export.qdq import bypass_outputs
from gantk.runtime.runner import Array

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""What the end of a symmetric range is stored as."""

_QUANTISED_WEIGHT = "_quantized"
"""What ONNX Runtime's quantiser puts behind the name of a weight that it has quantised."""


def from_int8(int8: onnx.ModelProto, full: onnx.ModelProto) -> onnx.ModelProto:
    """An int8 file with the same layers in fp8: the same ranges, with 448 in place of 127 at their ends.

    Weights are rounded from the float32 ones, not from int8's. The outputs of layers are left as they are, where int8
    rounds them for the sake of ONNX Runtime's kernels: GPUs compute fp8 products with wider sums.

    Args:
        int8: From ONNX Runtime's quantiser: symmetric, a scale for each output channel of a weight.
        full: The float32 file that it was made from.
    """
    model = onnx.ModelProto()
    model.CopyFrom(int8)
    bypass_outputs(model.graph)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {tensor.name: tensor for tensor in full.graph.initializer}
    changed: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        source, scale, zero = node.input
        changed[scale] = numpy_helper.to_array(stored[scale]) * np.float32(LARGEST["int8"] / LARGEST["fp8"])
        changed[zero] = np.zeros(tuple(stored[zero].dims), ml_dtypes.float8_e4m3fn)
        if source in stored:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            exact = numpy_helper.to_array(weights[source.removesuffix(_QUANTISED_WEIGHT)])
            changed[source] = _rounded(exact, changed[scale], axis)
    for name, array in changed.items():
        stored[name].CopyFrom(numpy_helper.from_array(array, name))
    narrow = [info for info in model.graph.value_info if info.type.tensor_type.elem_type == TensorProto.INT8]
    for info in narrow:
        model.graph.value_info.remove(info)
    return model


def _rounded(weights: Array, scale: Array, axis: int) -> Array:
    """Weights in units of their scales, which are one for all or one for each place of an axis, as float8."""
    if scale.ndim:
        scale = scale.reshape([-1 if index == axis else 1 for index in range(weights.ndim)])
    with np.errstate(invalid="ignore"):
        units = np.nan_to_num(weights / scale)  # A channel of zeros may have the scale 0.
    rounded: Array = np.clip(units, -LARGEST["fp8"], LARGEST["fp8"]).astype(ml_dtypes.float8_e4m3fn)
    return rounded
