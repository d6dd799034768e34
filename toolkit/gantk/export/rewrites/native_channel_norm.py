# SPDX-License-Identifier: Apache-2.0
"""Normalisations over channels as native operators: of groups of them, and of all of a pixel; and products of halves.

Group normalisation (Wu and He, arXiv 1803.08494) is what exporters write as an instance normalisation of tensors of
three axes; with the SiLU that follows in decoders and U-Nets of latent diffusion it is one operator. Layer
normalisation of pictures (as in NAFNet, Chen et al., arXiv 2204.04676) is nine, and that of progressive GANs, which
does without the mean (Karras et al., arXiv 1710.10196), five. Halves are multiplied there, and in gated linear units
(Dauphin et al., arXiv 1612.08083), as FastGAN has them (Liu et al., arXiv 2101.04775).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Float64,
    Replacement,
    attribute,
    axes_of,
    by_channel,
    channels_of,
    constant,
    only_user,
    optional,
    other_input,
    silu_after,
    squared,
)
from gantk.export.rewrites.transposes import last_of, transposed_shape


def channel_norms_to_native(graph: ir.Model) -> None:
    """Turn them into `gantk::NhwcGroupNorm`, `NhwcLayerNorm`, `NhwcRmsNorm`, `NhwcGate` and `NhwcGlu`."""
    for node in list(graph.graph):
        if node.op_type == "InstanceNormalization":
            _group_norm_to_native(graph, node)
        elif node.op_type in ("Div", "Mul"):
            _layer_norm_to_native(graph, node)
    for node in list(graph.graph):
        if node.op_type == "Mul":
            _gate_to_native(graph, node)


def _group_norm_to_native(graph: ir.Model, norm: ir.Node) -> None:
    """Turn a normalisation of tensors [N, groups, -1], which were pictures, and become them again."""
    split, joined = norm.inputs[0], only_user(norm.outputs[0])
    before = None if split is None else split.producer()
    if before is None or joined is None or before.op_type != "Reshape" or joined.op_type != "Reshape":
        return
    pictures = before.inputs[0]
    channels, groups = channels_of(pictures), _groups(before)
    scale, offset = constant(norm.inputs[1]), constant(norm.inputs[2])
    if pictures is None or channels is None or groups is None or scale is None or offset is None:
        return
    if channels % groups or not _restores(joined, pictures):
        return
    chain = [joined]
    repeated = (np.repeat(numbers, channels // groups) for numbers in (scale, offset))
    weights = _with_affine(chain, channels, *repeated)
    end, silu = "", silu_after(chain[-1].outputs[0])
    if silu is not None:
        end, chain = "Silu", [*chain, *silu]
    new = Replacement(graph.graph, chain[-1])
    inputs = [last_of(new, pictures), new.weight("scale", weights[0]), new.weight("offset", weights[1])]
    result = new.call(graph, f"NhwcGroupNorm{end}", inputs, groups=groups, epsilon=_epsilon(norm))
    _finish(new, result, inputs[0], chain)


def _groups(split: ir.Node) -> int | None:
    """How many groups the pictures are reshaped to, a tensor [N, groups, -1]."""
    sizes, made, pictures = constant(optional(split, 1)), split.outputs[0].shape, split.inputs[0]
    if sizes is None or len(sizes) != 3 or sizes[1] < 1 or pictures is None or pictures.shape is None:
        return None
    kept = sizes[0] == 0 or (made is not None and isinstance(made[0], int) and made[0] == pictures.shape[0])
    return int(sizes[1]) if kept and not attribute(split, "allowzero", 0) else None


def _restores(joined: ir.Node, pictures: ir.Value) -> bool:
    """Whether a tensor is reshaped to the shape that pictures have."""
    wanted, made = joined.inputs[1], joined.outputs[0].shape
    asked = None if wanted is None else wanted.producer()
    if asked is not None and asked.op_type == "Shape" and not asked.attributes:
        return asked.inputs[0] is pictures
    return made is not None and made.is_static() and made == pictures.shape


def _layer_norm_to_native(graph: ir.Model, last: ir.Node) -> None:
    """Turn a quotient of pixels, or of what each differs from its mean by, and the root of their mean square."""
    given, epsilon = _normalised(last)
    if given is None or epsilon is None:
        return
    difference = given.producer()
    centred = (
        difference is not None
        and difference.op_type == "Sub"
        and _mean_of(difference.inputs[1]) is difference.inputs[0]
    )
    pictures = difference.inputs[0] if difference is not None and centred else given
    channels = channels_of(pictures)
    if pictures is None or channels is None:
        return
    chain = [last]
    scale, offset = _with_affine(chain, channels, np.ones(channels), np.zeros(channels))
    new = Replacement(graph.graph, chain[-1])
    inputs = [last_of(new, pictures), new.weight("scale", scale), new.weight("offset", offset)]
    operator = "NhwcLayerNorm" if centred else "NhwcRmsNorm"
    _finish(new, new.call(graph, operator, inputs, epsilon=epsilon), inputs[0], chain)


def _normalised(last: ir.Node) -> tuple[ir.Value | None, float | None]:
    """What a node divides by the root of the mean of its squares, and what is added to that mean."""
    for centred, other in (last.inputs[:2], last.inputs[1::-1]):
        node = None if other is None else other.producer()
        if last.op_type == "Mul":
            inverse = None if node is None or node.op_type != "Reciprocal" else node.inputs[0]
            node = None if inverse is None else inverse.producer()
        sums = (
            None
            if node is None or node.op_type != "Sqrt" or node.inputs[0] is None
            else node.inputs[0].producer()
        )
        if sums is None or sums.op_type != "Add":
            continue
        for mean, more in (sums.inputs, sums.inputs[::-1]):
            squares, epsilon = _mean_of(mean), constant(more)
            if squares is None or epsilon is None or epsilon.size != 1 or squared(squares) is not centred:
                continue
            return centred, float(epsilon.ravel()[0])
    return None, None


def _mean_of(value: ir.Value | None) -> ir.Value | None:
    """What a value is the mean of, over channels."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "ReduceMean" or not attribute(node, "keepdims", 1):
        return None
    return node.inputs[0] if axes_of(node) in ([1], [-3]) else None


def _gate_to_native(graph: ir.Model, product: ir.Node) -> None:
    """Turn the product of the first half of pictures' channels with the second, or with its sigmoid."""
    for value, other in (product.inputs, product.inputs[::-1]):
        sigmoid = _sigmoid_before(product, other)
        first, second = _half(value), _half(other if sigmoid is None else sigmoid.inputs[0])
        if first is None or second is None or first[0] is not second[0] or (first[1], second[1]) != (0, 1):
            continue
        new = Replacement(graph.graph, product)
        last = last_of(new, first[0])
        result = new.call(graph, "NhwcGate" if sigmoid is None else "NhwcGlu", [last])
        made = product.outputs[0]
        result.type, result.shape = made.type, transposed_shape(made.shape, CHANNELS_LAST)
        chain = [product] if sigmoid is None else [sigmoid, product]
        new.finish(new.transposed(result, CHANNELS_FIRST), chain)
        return


def _sigmoid_before(product: ir.Node, value: ir.Value | None) -> ir.Node | None:
    """The node whose result, a sigmoid, a product alone reads."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Sigmoid" or only_user(node.outputs[0]) is not product:
        return None
    return node


def _half(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """The pictures of whose channels a value is the first or second half, and which."""
    node = None if value is None else value.producer()
    pictures = None if node is None else node.inputs[0]
    channels = channels_of(pictures)
    if node is None or value is None or pictures is None or channels is None:
        return None
    if node.op_type == "Split":
        halved = [channels_of(output) for output in node.outputs] == [channels / 2] * 2
        return (pictures, node.outputs.index(value)) if halved else None
    bounds = [constant(optional(node, index)) for index in (1, 2, 3)] if node.op_type == "Slice" else []
    known = [int(bound[0]) for bound in bounds if bound is not None and bound.size == 1]
    steps = optional(node, 4)
    if len(known) < 3 or known[2] != 1 or (steps is not None and constant(steps) != 1) or channels % 2:
        return None
    halves = [(0, channels // 2), (channels // 2, channels)]
    half = (known[0], min(known[1], channels))
    return (pictures, halves.index(half)) if half in halves else None


def _with_affine(
    chain: list[ir.Node], channels: int, scale: Float64, offset: Float64
) -> tuple[Float64, Float64]:
    """Scale and offset, with the product and the sum by constants that alone read the last of a chain, and join it."""
    for kind in ("Mul", "Add"):
        value = chain[-1].outputs[0]
        user = only_user(value)
        numbers = (
            by_channel(other_input(user, value), channels)
            if user is not None and user.op_type == kind
            else None
        )
        if numbers is None or user is None:
            continue
        scale, offset = (scale * numbers, offset * numbers) if kind == "Mul" else (scale, offset + numbers)
        chain.append(user)
    return scale, offset


def _epsilon(norm: ir.Node) -> float:
    return norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5


def _finish(new: Replacement, result: ir.Value, last: ir.Value, chain: list[ir.Node]) -> None:
    result.type, result.shape = last.type, last.shape
    new.finish(new.transposed(result, CHANNELS_FIRST), chain)
