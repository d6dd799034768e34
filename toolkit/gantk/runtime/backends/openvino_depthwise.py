# SPDX-License-Identifier: Apache-2.0
"""Wide depthwise convolutions, of whose kernels in bf16 and int8 OpenVINO's oneDNN never finishes writing some.

For rows of 15 and more taps it leaves no register to its weights where there are as many results to a row as it has
registers, and its loop over them makes no progress. What is narrower, or in float32, it finishes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

WIDEST = 14
"""The taps of a row up to which it counts its registers as it uses them."""


def mend_depthwise(model: Any, *, lowered: bool) -> list[str]:
    """Make wide depthwise convolutions ones that OpenVINO compiles, in place: those in bf16 sums of narrow ones.

    Those in int8 become ones in float32, or, where that runs in bf16, sums of narrow ones too.

    Args:
        model: An ``openvino.Model``.
        lowered: What is in float32 runs in bf16.

    Returns:
        The names of those that were.
    """
    mended = []
    for node in filter(_is_wide_depthwise, model.get_ordered_ops()):
        is_bf16 = lowered or node.get_output_element_type(0).get_type_name() == "bf16"
        is_quantised = _is_quantised(node)
        if is_quantised:
            node.input(1).replace_source_output(_computed(node.input_value(1)))
        if is_bf16:
            node.output(0).replace(_narrowed(node).output(0))
        if is_bf16 or is_quantised:
            mended.append(node.get_friendly_name())
    return mended


def _is_wide_depthwise(node: Any) -> bool:
    if node.get_type_name() != "GroupConvolution":
        return False
    # [G, out / G, in / G, ..., width]
    weights = node.input(1).get_partial_shape()
    if weights.is_dynamic or len(weights) < 5:  # Of one axis it has other kernels.
        return False
    attributes = node.get_attributes()
    return bool(
        weights[1].get_length() == weights[2].get_length() == 1
        and weights[len(weights) - 1].get_length() > WIDEST
        and attributes["strides"][-1] == 1
        and all(dilation == 1 for dilation in attributes["dilations"])
        and _pads(node) is not None
    )


def _is_quantised(convolution: Any) -> bool:
    """Whether its weights are made of integers."""
    node = convolution.input_value(1).get_node()
    while node.get_type_name() in ("Reshape", "Multiply", "Subtract", "Convert"):
        node = node.input_value(0).get_node()
    return node.get_output_element_type(0).get_type_name() in ("i8", "u8")


def _computed(weights: Any) -> Any:
    """The output of a constant, in the same type, with what is computed of constants."""
    import openvino

    opset, kind = openvino.opset15, weights.get_element_type().get_type_name()
    wide = opset.convert(weights, "f32").output(0)  # NumPy has no bf16.
    values = openvino.compile_model(openvino.Model([wide], []), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
        []
    )
    return opset.convert(opset.constant(values[0]), kind).output(0)


def _pads(node: Any) -> tuple[list[int], list[int]] | None:
    """The pixels of zeros before and behind, of each axis; `None` where they depend on a size that is not known."""
    attributes = node.get_attributes()
    if attributes["auto_pad"] in ("explicit", "valid") or node.get_input_partial_shape(0).is_static:
        return attributes["pads_begin"], attributes["pads_end"]
    if any(stride != 1 for stride in attributes["strides"]):
        return None
    more = [size - 1 for size in node.get_input_shape(1)[3:]]
    less, rest = [pad // 2 for pad in more], [pad - pad // 2 for pad in more]
    return (less, rest) if attributes["auto_pad"] == "same_upper" else (rest, less)


def _narrowed(node: Any) -> Any:
    """The sum of convolutions with a part of each row of taps, of the pixels that those see."""
    from openvino import opset15 as opset

    x, weights = node.input_value(0), node.input_value(1)
    attributes = node.get_attributes()
    pads = _pads(node)
    assert pads is not None
    if any(map(any, pads)):
        begins, ends = ([0, 0, *pad] for pad in pads)
        x = opset.pad(x, begins, ends, "constant", opset.constant(0, node.get_input_element_type(0)))
    taps = node.get_input_shape(1)[-1]
    pieces = -(-taps // WIDEST)
    edges = [taps * piece // pieces for piece in range(pieces + 1)]
    none = [0] * len(attributes["strides"])
    total: Any = None
    for start, stop in pairwise(edges):
        seen = opset.slice(x, [start], [_before(taps - stop)], [1], [-1])
        part = opset.slice(weights, [start], [stop], [1], [-1])
        made = opset.group_convolution(seen, part, attributes["strides"], none, none, attributes["dilations"])
        total = made if total is None else opset.add(total, made)
    total.set_friendly_name(node.get_friendly_name())
    return total


def _before(last: int) -> int:
    """Where a slice stops that leaves out so many at the end."""
    return -last if last else 2**31 - 1
