# SPDX-License-Identifier: Apache-2.0
"""Instance normalisation and all that stands between it and the next convolution, as one of gantk's own functions.

On a GPU the convolutions of a style network take a fifth of its time; the rest are passes over their tensors: layouts
to and fro, normalisation, ReLU, sum, border, blocks. `gantk::InstanceNorm` (see `gantk.export.functions`) does all of
these at once. It reads and writes channels last: the transposes around it stand against those that ONNX Runtime puts
around convolutions when it is asked for that layout, and vanish with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gantk.export.functions import DOMAIN
from gantk.export.rewrites.blocks import ROUNDS_UP
from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Replacement,
    add_body,
    attribute,
    constant,
    drop_unused_weights,
    only_user,
    optional,
    text,
)
from gantk.export.rewrites.native_sizes import is_shape_of_sides, pad_channels_last, sizes_to_native

_NORM = "InstanceNormalization"
_NO_END = np.iinfo(np.int64).max


def normalization_to_native(graph: ir.Model) -> int:
    """Turn instance normalisations into `gantk::InstanceNorm` (see `turn_normalizations`), for ONNX Runtime on a GPU.

    What blocks and borders do to the pictures that come in becomes `gantk::BorderedBlocks`, what is computed of their
    height and width `gantk::Sizes`.

    Returns:
        The number of normalisations turned.
    """
    turned = turn_normalizations(graph)
    if turned:
        _blocks_to_native(graph)
        pad_channels_last(graph.graph)
        sizes_to_native(graph)
    RemoveUnusedNodesPass()(graph)
    drop_unused_weights(graph.graph)
    return turned


def turn_normalizations(graph: ir.Model) -> int:
    """Turn instance normalisations into `gantk::InstanceNorm`, with what can be computed in passing.

    Before one: depth-to-space and a cut of rows and columns. After it: scale and offset of each picture, a ReLU or a
    sum, the border where all that pad the result do it alike, and the space-to-depth of `gantk.export.rewrites.blocks`.
    What was computed so stays in the graph, and nothing reads it.

    Returns:
        The number of normalisations turned.
    """
    chains: list[_Chain] = []
    for node in graph.graph:
        if node.op_type == _NORM and _is_picture(node.inputs[0]):
            chains.append(_chain(node, [chain.nodes[-1] for chain in chains]))
    sums = {chain.last: chain for chain in chains if chain.others is not None}
    framed: dict[ir.Value, _Framed] = {}
    for chain in chains:
        framed[chain.last] = _turn(graph, chain, sums, framed)
    return len(chains)


@dataclass(frozen=True)
class _Chain:
    """A normalisation and what is computed with it.

    Args:
        nodes: In order, each the only user of the one before.
        norm: The normalisation among them.
        scale: float32[C], or [N, C].
        offset: The same.
        end: What comes last, before the border: ``Relu``, ``Sum`` or nothing.
        others: What is added, if anything is.
    """

    nodes: tuple[ir.Node, ...]
    norm: ir.Node
    scale: ir.Value | None
    offset: ir.Value | None
    end: str
    others: ir.Value | None

    @property
    def source(self) -> ir.Value:
        value = self.nodes[0].inputs[0]
        assert value is not None
        return value

    @property
    def last(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    def node(self, op_type: str) -> ir.Node | None:
        return next((node for node in self.nodes if node.op_type == op_type), None)


@dataclass(frozen=True)
class _Framed:
    """What a function yields: pictures with channels last and a border.

    Args:
        value: The tensor.
        pads: Its border, as Pad has it.
    """

    value: ir.Value
    pads: list[int]


@dataclass(frozen=True)
class _Blocks:
    """Where bordered pictures are turned into blocks.

    Args:
        to_depth: The node that does it.
        shapes: Those that ask how high and wide the bordered pictures are.
    """

    to_depth: ir.Node
    shapes: list[ir.Node]


def _chain(norm: ir.Node, taken: Sequence[ir.Node]) -> _Chain:
    """What is computed with a normalisation; of a sum of two, the first has taken the sum."""
    nodes, (scale, offset) = [*_cut(norm), norm], norm.inputs[1:]
    own = _of_each_picture(norm)
    if own is not None:
        scale, offset = own.scale, own.offset
        nodes += [own.product, own.total]
    user, end, others = only_user(nodes[-1].outputs[0]), "", None
    if user is not None and user.op_type == "Relu":
        end = "Relu"
    elif user is not None and user.op_type == "Add" and user not in taken:
        added = _other_input(user, nodes[-1].outputs[0])
        if _is_as_large(added, norm.outputs[0]):
            end, others = "Sum", added
    if end and user is not None:
        nodes.append(user)
    return _Chain(tuple(nodes), norm, scale, offset, end, others)


def _is_picture(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 4


def _is_as_large(value: ir.Value, pictures: ir.Value) -> bool:
    """Whether a tensor is one of pictures too, and not one value for each channel."""
    shape, known = value.shape, pictures.shape
    if value.const_value is not None or shape is None or known is None or len(shape) != 4:
        return False
    return shape[1] == known[1] and 1 not in (shape[2], shape[3])


def _cut(norm: ir.Node) -> list[ir.Node]:
    """The depth-to-space and the cut of rows and columns before a normalisation, which nothing else reads."""
    found: list[ir.Node] = []
    node = _only_producer(norm)
    if node is not None and node.op_type == "Slice" and _is_of_sides(node):
        found.insert(0, node)
        node = _only_producer(node)
    if node is not None and node.op_type == "DepthToSpace" and text(node, "mode", "DCR") == "DCR":
        found.insert(0, node)
    return found


def _only_producer(node: ir.Node) -> ir.Node | None:
    """The node that yields what this one alone reads."""
    value = node.inputs[0]
    return value.producer() if value is not None and only_user(value) is node else None


def _is_of_sides(cut: ir.Node) -> bool:
    """Whether rows and columns are cut, of which each is taken."""
    axes = constant(optional(cut, 3))
    return axes is not None and axes.tolist() == [2, 3] and optional(cut, 4) is None


@dataclass(frozen=True)
class _Own:
    """Scale and offset that are computed for each picture, [N, C], and the nodes that apply them."""

    scale: ir.Value
    offset: ir.Value
    product: ir.Node
    total: ir.Node


def _of_each_picture(norm: ir.Node) -> _Own | None:
    one, zero = constant(norm.inputs[1]), constant(norm.inputs[2])
    if one is None or zero is None or (one != 1).any() or zero.any():
        return None
    product = only_user(norm.outputs[0])
    total = None if product is None or product.op_type != "Mul" else only_user(product.outputs[0])
    if product is None or total is None or total.op_type != "Add":
        return None
    scale = _by_channel(_other_input(product, norm.outputs[0]))
    offset = _by_channel(_other_input(total, product.outputs[0]))
    return None if scale is None or offset is None else _Own(scale, offset, product, total)


def _by_channel(value: ir.Value) -> ir.Value | None:
    """The [N, C] that was made [N, C, 1, 1]."""
    node = value.producer()
    flat = None if node is None or node.op_type != "Unsqueeze" else node.inputs[0]
    if node is None or flat is None or flat.shape is None or len(flat.shape) != 2:
        return None
    axes = constant(node.inputs[1])
    return flat if axes is not None and axes.tolist() in ([2, 3], [-2, -1]) else None


def _other_input(node: ir.Node, value: ir.Value) -> ir.Value:
    first, second = node.inputs
    other = second if first is value else first
    assert other is not None
    return other


def _turn(
    graph: ir.Model, chain: _Chain, sums: dict[ir.Value, _Chain], framed: dict[ir.Value, _Framed]
) -> _Framed:
    """Put the function before a chain's last node, and let what follows read it; nothing reads the chain any more."""
    new = Replacement(graph.graph, chain.nodes[-1])
    bordered = _bordered(chain, sums)
    blocks = _blocks(bordered, chain)
    values: dict[str, int | float | str | list[int]] = {}
    if "epsilon" in chain.norm.attributes:
        values["epsilon"] = chain.norm.attributes["epsilon"].as_float()
    if (to_space := chain.node("DepthToSpace")) is not None:
        values["from_blocksize"] = attribute(to_space, "blocksize", 1)
    if (cut := chain.node("Slice")) is not None:
        starts, ends = cut.inputs[1:3]
    else:
        starts, ends = (new.weight(name, np.full(2, at)) for name, at in (("start", 0), ("end", _NO_END)))
    pads = border_amounts(bordered[0]) if bordered else [0] * 8
    if bordered:
        values |= {"mode": text(bordered[0], "mode", "constant"), "pads": pads}
    if blocks is not None:
        values["to_blocksize"] = attribute(blocks.to_depth, "blocksize", 1)
    features = new.transposed(chain.source, CHANNELS_LAST)
    inputs = [features, starts, ends, chain.scale, chain.offset]
    if chain.others is not None:
        others = framed.get(chain.others)
        values["others_pads"] = [-amount for amount in others.pads] if others is not None else [0] * 8
        inputs.append(others.value if others is not None else new.transposed(chain.others, CHANNELS_LAST))
    result = new.call(DOMAIN, f"InstanceNorm{chain.end}", inputs, **values)
    add_body(graph, f"InstanceNorm{chain.end}")
    result.type, result.shape = chain.last.type, _result_shape(chain, blocks)
    planes = new.transposed(result, CHANNELS_FIRST)
    if blocks is not None:
        size = _framed_size(new, chain, features, pads)
        for node in blocks.shapes:
            new.stand_for(node.outputs[0], size)
        new.stand_for(blocks.to_depth.outputs[0], planes)
    elif bordered:
        for pad in bordered:
            new.stand_for(pad.outputs[0], planes)
    else:
        new.stand_for(chain.last, planes)
    new.insert()
    return _Framed(result, pads)


def _result_shape(chain: _Chain, blocks: _Blocks | None) -> ir.Shape | None:
    """Of [N, H, W, C] what is known; ONNX Runtime wants to know that there are four axes."""
    if chain.last.shape is None or not isinstance(chain.last.shape[1], int):
        return None
    block = 1 if blocks is None else attribute(blocks.to_depth, "blocksize", 1)
    return ir.Shape([chain.last.shape[0], None, None, chain.last.shape[1] * block**2])


def _bordered(chain: _Chain, sums: dict[ir.Value, _Chain]) -> list[ir.Node]:
    """The paddings of what a chain yields, where they are all alike and nothing else reads it but sums to be turned."""
    value = chain.last
    users = [user for user, _ in value.uses()]
    pads = [user for user in users if is_border(user)]
    turned = [user for user in users if user.outputs[0] in sums and sums[user.outputs[0]].others is value]
    if not pads or len(pads) + len(turned) < len(users) or value.is_graph_output():
        return []
    alike = {(text(pad, "mode", "constant"), *border_amounts(pad)) for pad in pads}
    return pads if len(alike) == 1 else []


def is_border(node: ir.Node) -> bool:
    """Whether a node pads rows and columns, with zeros or of their own."""
    if node.op_type != "Pad" or optional(node, 3) is not None or constant(node.inputs[1]) is None:
        return False
    amounts, value = border_amounts(node), optional(node, 2)
    zero = value is None or ((found := constant(value)) is not None and not found.any())
    known = text(node, "mode", "constant") in ("reflect", "edge") or (
        text(node, "mode", "constant") == "constant" and zero
    )
    return known and len(amounts) == 8 and min(amounts) >= 0 and not any(amounts[0:2] + amounts[4:6])


def border_amounts(pad: ir.Node) -> list[int]:
    amounts = constant(pad.inputs[1])
    assert amounts is not None
    return [int(amount) for amount in amounts]


def _blocks(bordered: list[ir.Node], chain: _Chain) -> _Blocks | None:
    """Where the bordered pictures become blocks and nothing else, and their size can be told."""
    pad = only_user(chain.last)
    if pad is None or bordered != [pad] or not _has_told_size(chain):
        return None
    return _blocks_of(pad.outputs[0])


def _blocks_of(value: ir.Value) -> _Blocks | None:
    """Where pictures become blocks and nothing else but sizes is made of them."""
    users = [user for user, _ in value.uses()]
    shapes = [user for user in users if is_shape_of_sides(user)]
    fills = [user for user in users if ROUNDS_UP in user.metadata_props]
    if len(fills) != 1 or len(shapes) + 1 < len(users):
        return None
    to_depth = only_user(fills[0].outputs[0])
    return None if to_depth is None or to_depth.op_type != "SpaceToDepth" else _Blocks(to_depth, shapes)


def _has_told_size(chain: _Chain) -> bool:
    """Whether rows and columns are cut by fixed numbers from both sides, or not at all."""
    cut = chain.node("Slice")
    if cut is None:
        return True
    starts, ends = constant(cut.inputs[1]), constant(cut.inputs[2])
    return starts is not None and ends is not None and bool((starts >= 0).all() and (ends < 0).all())


def _framed_size(new: Replacement, chain: _Chain, features: ir.Value, pads: list[int]) -> ir.Value:
    """The height and width of the bordered pictures."""
    to_space, cut = chain.node("DepthToSpace"), chain.node("Slice")
    size = new.add("Shape", [features], "sides", start=1, end=3)
    if to_space is not None:
        size = new.add(
            "Mul", [size, new.weight("block", np.full(2, attribute(to_space, "blocksize", 1)))], "pixels"
        )
    growth = _growth(pads)
    if cut is not None:
        starts, ends = constant(cut.inputs[1]), constant(cut.inputs[2])
        assert starts is not None and ends is not None
        growth = growth + (ends - starts).astype(np.int64)
    return new.add("Add", [size, new.weight("growth", growth)], "framed")


def _blocks_to_native(graph: ir.Model) -> None:
    """Let one function give pictures a border, round them up and turn them into blocks."""
    for pad in [node for node in graph.graph if is_border(node)]:
        blocks = _blocks_of(pad.outputs[0])
        pictures = pad.inputs[0]
        if blocks is None or pictures is None:
            continue
        new = Replacement(graph.graph, blocks.to_depth)
        last = new.transposed(pictures, CHANNELS_LAST)
        result = new.call(
            DOMAIN,
            "BorderedBlocks",
            [last],
            to_blocksize=attribute(blocks.to_depth, "blocksize", 1),
            mode=text(pad, "mode", "constant"),
            pads=border_amounts(pad),
        )
        add_body(graph, "BorderedBlocks")
        result.type = pictures.type
        for node in blocks.shapes:
            size = Replacement(graph.graph, node)
            sides = size.add("Shape", [pictures], "sides", start=2, end=4)
            size.finish(
                size.add("Add", [sides, size.weight("growth", _growth(border_amounts(pad)))], "framed")
            )
        new.finish(new.transposed(result, CHANNELS_FIRST))


def _growth(pads: list[int]) -> NDArray[np.int64]:
    """By how much a border makes pictures higher and wider."""
    return np.array(pads[2:4], np.int64) + np.array(pads[6:8], np.int64)
