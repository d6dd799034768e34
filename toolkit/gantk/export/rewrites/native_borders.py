# SPDX-License-Identifier: Apache-2.0
"""Borders around pictures, and the blocks that bordered pictures are cut into, as gantk's own function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gantk.export.rewrites.blocks import ROUNDS_UP
from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Replacement,
    attribute,
    constant,
    only_user,
    optional,
    padding,
    text,
)
from gantk.export.rewrites.native_sizes import is_shape_of_sides


@dataclass(frozen=True)
class Border:
    """Rows and columns around pictures.

    Args:
        mode: As Pad has it; ``constant`` is of zeros.
        pads: As Pad has them for N x C x H x W: four amounts before, four after.
    """

    mode: str
    pads: tuple[int, ...]

    @property
    def growth(self) -> NDArray[np.int64]:
        """By how much it makes pictures higher and wider."""
        return np.array(self.pads[2:4], np.int64) + np.array(self.pads[6:8], np.int64)


NO_BORDER = Border("constant", (0,) * 8)


def border_of(node: ir.Node) -> Border | None:
    """The border that a node pads rows and columns with, of zeros or of their own values; `None` where it does not."""
    amounts = padding(node)
    if amounts is None:
        return None
    mode, value = text(node, "mode", "constant"), optional(node, 2)
    if mode == "constant" and value is not None:
        filling = constant(value)
        if filling is None or filling.any():
            return None
    pads = tuple(amounts)
    of_sides = len(pads) == 8 and min(pads) >= 0 and not any(pads[0:2] + pads[4:6])
    return Border(mode, pads) if of_sides and mode in ("constant", "reflect", "edge") else None


@dataclass(frozen=True)
class Blocks:
    """Where bordered pictures are turned into blocks.

    Args:
        to_depth: The node that does it.
        shapes: Those that ask how high and wide the bordered pictures are.
    """

    to_depth: ir.Node
    shapes: list[ir.Node]

    @property
    def size(self) -> int:
        """The pixels of a block, each way."""
        return attribute(self.to_depth, "blocksize", 1)


def blocks_of(value: ir.Value) -> Blocks | None:
    """Where pictures become blocks and nothing else but sizes is made of them."""
    users = [user for user, _ in value.uses()]
    shapes = [user for user in users if is_shape_of_sides(user)]
    fills = [user for user in users if ROUNDS_UP in user.metadata_props]
    if len(fills) != 1 or len(shapes) + 1 < len(users):
        return None
    to_depth = only_user(fills[0].outputs[0])
    return None if to_depth is None or to_depth.op_type != "SpaceToDepth" else Blocks(to_depth, shapes)


def blocks_to_native(graph: ir.Model) -> None:
    """Let `gantk::BorderedBlocks` give pictures a border, round them up and turn them into blocks."""
    for pad in list(graph.graph):
        border, pictures = border_of(pad), pad.inputs[0] if pad.inputs else None
        blocks = None if border is None else blocks_of(pad.outputs[0])
        if border is None or blocks is None or pictures is None:
            continue
        new = Replacement(graph.graph, blocks.to_depth)
        last = new.transposed(pictures, CHANNELS_LAST)
        result = border_to_native(graph, new, last, border, blocks.size)
        result.type = pictures.type
        for node in blocks.shapes:
            size = Replacement(graph.graph, node)
            sides = size.add("Shape", [pictures], "sides", start=2, end=4)
            size.finish(size.add("Add", [sides, size.weight("growth", border.growth)], "framed"))
        new.finish(new.transposed(result, CHANNELS_FIRST))


def border_to_native(
    graph: ir.Model, new: Replacement, last: ir.Value, border: Border, block: int = 1
) -> ir.Value:
    """Add a `gantk::BorderedBlocks` of pictures with channels last."""
    pads = [*border.pads]
    return new.call(graph, "BorderedBlocks", [last], to_blocksize=block, mode=border.mode, pads=pads)
