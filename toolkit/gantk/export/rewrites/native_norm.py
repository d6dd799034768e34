# SPDX-License-Identifier: Apache-2.0
"""Instance normalisation and all that stands between it and the next convolution, as one of gantk's own functions.

On a GPU the convolutions of a style network take a fifth of its time; the rest are passes over their tensors: layouts
to and fro, normalisation, ReLU, sum, border, blocks. `gantk::InstanceNorm` (see `gantk.export.functions`) does all of
these at once. It reads and writes channels last: the transposes around it stand against those that ONNX Runtime puts
around convolutions when it is asked for that layout, and vanish with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    NO_END,
    Replacement,
    attribute,
    constant,
    drop_unused_weights,
    only_user,
)
from gantk.export.rewrites.native_borders import (
    NO_BORDER,
    Blocks,
    Border,
    blocks_of,
    blocks_to_native,
    border_of,
)
from gantk.export.rewrites.native_sizes import pad_channels_last, sizes_to_native
from gantk.export.rewrites.norm_chains import Chain, find_chains


def normalization_to_native(graph: ir.Model) -> int:
    """Turn instance normalisations into `gantk::InstanceNorm` (see `turn_normalizations`), for ONNX Runtime on a GPU.

    What blocks and borders do to the pictures that come in becomes `gantk::BorderedBlocks`, what is computed of their
    height and width `gantk::Sizes`.

    Returns:
        The number of normalisations turned.
    """
    turned = turn_normalizations(graph)
    if turned:
        blocks_to_native(graph)
        pad_channels_last(graph.graph)
        sizes_to_native(graph)
    RemoveUnusedNodesPass()(graph)
    drop_unused_weights(graph.graph)
    return turned


def turn_normalizations(graph: ir.Model) -> int:
    """Turn instance normalisations into `gantk::InstanceNorm`, with what can be computed in passing.

    That is what `find_chains` finds, the border where all that pad the result do it alike, and the space-to-depth of
    `gantk.export.rewrites.blocks`. The nodes that computed it stay in the graph, and nothing reads them.

    Returns:
        The number of normalisations turned.
    """
    chains = find_chains(graph.graph)
    sums = {chain.last: chain for chain in chains if chain.others is not None}
    framed: dict[ir.Value, _Framed] = {}
    for chain in chains:
        framed[chain.last] = _turn(graph, chain, sums, framed)
    return len(chains)


@dataclass(frozen=True)
class _Framed:
    """What a function yields: pictures with channels last and a border."""

    value: ir.Value
    border: Border


def _turn(
    graph: ir.Model, chain: Chain, sums: dict[ir.Value, Chain], framed: dict[ir.Value, _Framed]
) -> _Framed:
    """Put the function before a chain's last node, and let what follows read it; nothing reads the chain any more."""
    new = Replacement(graph.graph, chain.nodes[-1])
    paddings, border = _paddings(chain, sums)
    blocks = _blocks(chain, paddings)
    features = new.transposed(chain.source, CHANNELS_LAST)
    inputs = [features, *_bounds(new, chain), chain.scale, chain.offset]
    attributes = _attributes(chain, border, blocks)
    if chain.others is not None:
        others = framed.get(chain.others)
        if others is None:
            same = chain.others is chain.source
            others = _Framed(features if same else new.transposed(chain.others, CHANNELS_LAST), NO_BORDER)
        inputs.append(others.value)
        attributes["others_pads"] = [-amount for amount in others.border.pads]
    result = new.call(graph, f"InstanceNorm{chain.end}", inputs, **attributes)
    result.type, result.shape = chain.last.type, _result_shape(chain, blocks)
    planes = new.transposed(result, CHANNELS_FIRST)
    replaced = [pad.outputs[0] for pad in paddings] or [chain.last]
    if blocks is not None:
        size = _framed_size(new, chain, features, border)
        for node in blocks.shapes:
            new.stand_for(node.outputs[0], size)
        replaced = [blocks.to_depth.outputs[0]]
    for value in replaced:
        new.stand_for(value, planes)
    new.insert()
    return _Framed(result, border)


def _bounds(new: Replacement, chain: Chain) -> list[ir.Value | None]:
    """The first rows and columns that are normalised, and those after the last."""
    cut = chain.node("Slice")
    if cut is not None:
        return [*cut.inputs[1:3]]
    return [new.weight(name, np.full(2, at)) for name, at in (("start", 0), ("end", NO_END))]


def _attributes(
    chain: Chain, border: Border, blocks: Blocks | None
) -> dict[str, int | float | str | list[int]]:
    values: dict[str, int | float | str | list[int]] = {}
    if "epsilon" in chain.norm.attributes:
        values["epsilon"] = chain.norm.attributes["epsilon"].as_float()
    if (to_space := chain.node("DepthToSpace")) is not None:
        values["from_blocksize"] = attribute(to_space, "blocksize", 1)
    if border != NO_BORDER:
        values |= {"mode": border.mode, "pads": [*border.pads]}
    if blocks is not None:
        values["to_blocksize"] = blocks.size
    return values


def _result_shape(chain: Chain, blocks: Blocks | None) -> ir.Shape | None:
    """Of [N, H, W, C] what is known; ONNX Runtime wants to know that there are four axes."""
    if chain.last.shape is None or not isinstance(chain.last.shape[1], int):
        return None
    block = 1 if blocks is None else blocks.size
    return ir.Shape([chain.last.shape[0], None, None, chain.last.shape[1] * block**2])


def _paddings(chain: Chain, sums: dict[ir.Value, Chain]) -> tuple[list[ir.Node], Border]:
    """The paddings of what a chain yields, where they are all alike and nothing else reads it but sums to be turned."""
    value = chain.last
    users = [user for user, _ in value.uses()]
    borders = {user: border for user in users if (border := border_of(user)) is not None}
    turned = [user for user in users if user.outputs[0] in sums and sums[user.outputs[0]].others is value]
    all_known = len(borders) + len(turned) == len(users) and not value.is_graph_output()
    shown = any(pad.outputs[0].is_graph_output() for pad in borders)
    if not all_known or shown or len(set(borders.values())) != 1:
        return [], NO_BORDER
    return [*borders], next(iter(borders.values()))


def _blocks(chain: Chain, paddings: list[ir.Node]) -> Blocks | None:
    """Where the bordered pictures become blocks and nothing else, and their size can be told."""
    pad = only_user(chain.last)
    if pad is None or paddings != [pad] or not _has_told_size(chain):
        return None
    return blocks_of(pad.outputs[0])


def _has_told_size(chain: Chain) -> bool:
    """Whether rows and columns are cut by fixed numbers from both sides, or not at all."""
    cut = chain.node("Slice")
    if cut is None:
        return True
    starts, ends = constant(cut.inputs[1]), constant(cut.inputs[2])
    return starts is not None and ends is not None and bool((starts >= 0).all() and (ends < 0).all())


def _framed_size(new: Replacement, chain: Chain, features: ir.Value, border: Border) -> ir.Value:
    """The height and width of the bordered pictures."""
    to_space, cut = chain.node("DepthToSpace"), chain.node("Slice")
    size = new.add("Shape", [features], "sides", start=1, end=3)
    if to_space is not None:
        block = new.weight("block", np.full(2, attribute(to_space, "blocksize", 1)))
        size = new.add("Mul", [size, block], "pixels")
    growth = border.growth
    if cut is not None:
        starts, ends = constant(cut.inputs[1]), constant(cut.inputs[2])
        assert starts is not None and ends is not None
        growth = growth + (ends - starts).astype(np.int64)
    return new.add("Add", [size, new.weight("growth", growth)], "framed")
