# SPDX-License-Identifier: Apache-2.0
"""Operators of pictures as others that there are native ones of, or that either layout can compute."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    NO_END,
    Float64,
    Replacement,
    attribute,
    channels_of,
    constant,
    has_computed_bias,
    ints,
    is_explicit,
    of_any_size,
    only_user,
    optional,
    padding,
    text,
)
from gantk.export.rewrites.transposed import doubling_kernel, subpixel_kernel
from gantk.export.rewrites.transposes import transposed_shape


def averages_apart(graph: ir.Graph) -> None:
    """Let averages of windows be convolutions of each channel by itself."""
    for node in [node for node in graph if node.op_type == "AveragePool"]:
        channels, window = channels_of(node.inputs[0]), ints(node, "kernel_shape")
        edges = any(ints(node, "pads")) and not attribute(node, "count_include_pad", 0)
        if channels is None or len(window) != 2 or edges or attribute(node, "ceil_mode", 0):
            continue
        if not is_explicit(node) or ints(node, "dilations") not in ([], [1, 1]):
            continue
        new = Replacement(graph, node)
        weight = new.weight("weight", np.full((channels, 1, *window), 1 / np.prod(window)))
        how = {name: node.attributes[name] for name in ("strides", "pads") if name in node.attributes}
        new.finish(
            new.add("Conv", [node.inputs[0], weight], "average", kernel_shape=window, group=channels, **how)
        )


def crops_apart(graph: ir.Graph) -> None:
    """Let paddings by less than nothing be cuts, and what else they add a padding after that."""
    for node in [node for node in graph if node.op_type == "Pad"]:
        amounts, pictures = padding(node), node.inputs[0]
        if amounts is None or len(amounts) != 8 or min(amounts) >= 0 or pictures is None:
            continue
        more = [max(amount, 0) for amount in amounts]
        if any(amounts[:2] + amounts[4:6]) or (any(more) and text(node, "mode", "constant") != "constant"):
            continue
        new = Replacement(graph, node)
        starts = np.maximum(-np.array(amounts[2:4]), 0)
        ends = np.array([amount if amount < 0 else NO_END for amount in amounts[6:8]])
        bounds = {"starts": starts, "ends": ends, "axes": np.array([2, 3])}
        value = new.add(
            "Slice", [pictures, *(new.weight(name, array) for name, array in bounds.items())], "cut"
        )
        if any(more):
            value.type, value.shape = pictures.type, of_any_size(pictures.shape, 1)
            inputs = [value, new.weight("pads", np.array(more)), optional(node, 2)]
            value = new.add("Pad", inputs, "Pad", mode="constant")
        new.finish(value)


def groups_apart(graph: ir.Graph) -> None:
    """Let convolutions of groups of channels be one for each group, with the ReLU that follows."""
    for node in [node for node in graph if node.op_type == "Conv"]:
        kernel, groups = constant(node.inputs[1]), attribute(node, "group", 1)
        if (
            kernel is None
            or groups == 1
            or kernel.ndim != 4
            or kernel.shape[1] == 1
            or has_computed_bias(node)
        ):
            continue
        bias, relu = constant(optional(node, 2)), only_user(node.outputs[0])
        rectified = relu is not None and relu.op_type == "Relu"
        chain = (node, relu) if relu is not None and rectified else (node,)
        new = Replacement(graph, chain[-1])
        how = {name: value for name, value in node.attributes.items() if name != "group"}
        parts, inputs, outputs = [], kernel.shape[1], len(kernel) // groups
        for index in range(groups):
            features = _cut(new, node.inputs[0], index * inputs, inputs)
            made = slice(index * outputs, (index + 1) * outputs)
            weights = [new.weight(f"{index}.weight", kernel[made])]
            if bias is not None:
                weights.append(new.weight(f"{index}.bias", bias[made]))
            part = new.add("Conv", [features, *weights], f"group.{index}", **how)
            part.type, part.shape = node.outputs[0].type, _of_channels(node.outputs[0].shape, outputs)
            if rectified:
                sums = part
                part = new.add("Relu", [sums], f"relu.{index}")
                part.type, part.shape = sums.type, sums.shape
            parts.append(part)
        new.finish(new.add("Concat", parts, "groups", axis=1), chain)


def products_apart(graph: ir.Graph) -> None:
    """Let products of pixels that have channels last by a constant matrix be convolutions of single pixels."""
    for node in [node for node in graph if node.op_type == "MatMul"]:
        pixels, matrix = node.inputs[0], constant(node.inputs[1])
        if (
            matrix is None
            or matrix.ndim != 2
            or pixels is None
            or pixels.shape is None
            or len(pixels.shape) != 4
        ):
            continue
        new = Replacement(graph, node)
        planes = new.transposed(pixels, CHANNELS_FIRST)
        planes.type, planes.shape = pixels.type, transposed_shape(pixels.shape, CHANNELS_FIRST)
        made = new.add("Conv", [planes, new.weight("weight", matrix.T[:, :, None, None])], "Conv")
        made.type, made.shape = pixels.type, _of_channels(planes.shape, matrix.shape[1])
        new.finish(new.transposed(made, CHANNELS_LAST))


def quotients_apart(graph: ir.Graph) -> None:
    """Let quotients of pictures by constants be products, as residuals are divided by the root of two."""
    for node in [node for node in graph if node.op_type == "Div"]:
        pictures, divisor = node.inputs[0], constant(node.inputs[1])
        if divisor is None or not divisor.all() or channels_of(pictures) is None:
            continue
        if pictures is None or pictures.dtype != ir.DataType.FLOAT:
            continue
        new = Replacement(graph, node)
        new.finish(new.add("Mul", [pictures, new.weight("factor", 1 / divisor)], "Mul"))


def splits_apart(graph: ir.Graph) -> None:
    """Let parts of channels be cuts, which can be made in either layout."""
    for node in [node for node in graph if node.op_type == "Split"]:
        sizes = [channels_of(part) for part in node.outputs]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes) or sum(known) != channels_of(node.inputs[0]):
            continue
        new, start = Replacement(graph, node), 0
        for part, size in zip(node.outputs, known, strict=True):
            new.stand_for(part, _cut(new, node.inputs[0], start, size))
            start += size
        new.insert()
        graph.remove(node, safe=True)


def norms_apart(graph: ir.Graph) -> None:
    """Let batch normalisations that no convolution has taken in be a product and a sum of each channel."""
    for node in [node for node in graph if node.op_type == "BatchNormalization"]:
        pictures, found = node.inputs[0], [constant(value) for value in node.inputs[1:]]
        known = [array for array in found if array is not None]
        if (
            len(known) < 4
            or attribute(node, "training_mode", 0)
            or pictures is None
            or pictures.shape is None
        ):
            continue
        scale, offset, mean, variance = known
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        factor = scale / np.sqrt(variance + epsilon)
        new, by_channel = Replacement(graph, node), (-1, *[1] * (len(pictures.shape) - 2))
        product = new.add("Mul", [pictures, new.weight("factor", factor.reshape(by_channel))], "Mul")
        product.type, product.shape = pictures.type, pictures.shape
        shift = new.weight("shift", (offset - mean * factor).reshape(by_channel))
        new.finish(new.add("Add", [product, shift], "Add"))


def transposed_apart(graph: ir.Graph) -> None:
    """Let transposed convolutions that enlarge pictures by their stride be sub-pixel ones.

    All phases are one convolution, and a depth-to-space puts them in place (Shi et al., arXiv 1609.05158, section 2.2;
    `gantk.export.rewrites.transposed`). Those that are kernels of 4 with a stride of 2 stay, but for kernels of 2, of
    which these would be zeros; so do those of single pixels, which are dense layers.
    """
    for node in [node for node in graph if node.op_type == "ConvTranspose" and not _sees_a_pixel(node)]:
        weight, strides = constant(node.inputs[1]), ints(node, "strides")
        if weight is None or weight.ndim != 4 or len(set(strides)) != 1 or has_computed_bias(node):
            continue
        doubles = any(doubling_kernel(node, *pads) is not None for pads in ((1, 1), (1, 0), (3, 3)))
        plain = attribute(node, "group", 1) == 1 and is_explicit(node) and not ints(node, "output_shape")
        if (
            not plain
            or ints(node, "dilations") not in ([], [1, 1])
            or (doubles and weight.shape[2:] != (2, 2))
        ):
            continue
        stride, pads, more = strides[0], ints(node, "pads") or [0] * 4, ints(node, "output_padding") or [0, 0]
        grown = [
            size - pads[axis] - pads[axis + 2] + more[axis] for axis, size in enumerate(weight.shape[2:])
        ]
        if stride == 1 or grown != [stride, stride] or min(pads) < 0:
            continue
        _turn_transposed(graph, node, weight, stride, pads[:2])


def _sees_a_pixel(node: ir.Node) -> bool:
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    return shape is not None and list(shape[2:]) == [1, 1]


def _turn_transposed(graph: ir.Graph, node: ir.Node, weight: Float64, stride: int, pads: list[int]) -> None:
    kernel, around = subpixel_kernel(weight, stride, pads)
    new, bias = Replacement(graph, node), constant(optional(node, 2))
    weights = [new.weight("weight", kernel)]
    if bias is not None:
        weights.append(new.weight("bias", np.tile(bias, stride**2)))
    taps = list(kernel.shape[2:])
    phases = new.add("Conv", [node.inputs[0], *weights], "phases", kernel_shape=taps, pads=around)
    source = node.inputs[0]
    assert source is not None
    phases.type = node.outputs[0].type
    phases.shape = _of_channels(source.shape, len(kernel))
    new.finish(new.add("DepthToSpace", [phases], "DepthToSpace", blocksize=stride, mode="DCR"))


def _cut(new: Replacement, value: ir.Value | None, start: int, size: int) -> ir.Value:
    """Some of the channels of pictures."""
    assert value is not None
    bounds = {"start": start, "end": start + size, "axis": 1}
    numbers = [new.weight(f"{start}.{name}", np.array([number])) for name, number in bounds.items()]
    cut = new.add("Slice", [value, *numbers], f"part.{start}")
    cut.type, cut.shape = value.type, _of_channels(value.shape, size)
    return cut


def _of_channels(shape: ir.Shape | None, channels: int) -> ir.Shape | None:
    """The shape of the same pictures with another number of channels."""
    return None if shape is None or len(shape) != 4 else ir.Shape([shape[0], channels, *shape[2:]])
