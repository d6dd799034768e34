# SPDX-License-Identifier: Apache-2.0
"""What a filter of single channels sees: pictures with zeros between their pixels, and around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    Float64,
    Replacement,
    alone_before,
    attribute,
    constant,
    has_computed_bias,
    ints,
    is_explicit,
    optional,
    padding,
    text,
)


def kernels_of(node: ir.Node) -> Float64 | None:
    """The kernels of a convolution that sees single channels one at a time, [channels, 1, rows, columns]."""
    kernels = constant(node.inputs[1]) if node.op_type == "Conv" and is_explicit(node) else None
    if kernels is None or kernels.ndim != 4 or kernels.shape[1] != 1 or has_computed_bias(node):
        return None
    whole = all(ints(node, name) in ([], [1, 1]) for name in ("strides", "dilations"))
    return kernels if whole and attribute(node, "group", 1) == len(kernels) else None


@dataclass(frozen=True)
class Spread:
    """Pictures between whose pixels zeros were put, by a padding of more axes.

    Args:
        nodes: In order.
        source: What the first one reads.
        sizes: Of the pictures before.
        times: By how many rows and columns each pixel is apart from the next.
        frame: Rows and columns of zeros around them then: above, left, below, right; of those below 0 so many are gone.
    """

    nodes: tuple[ir.Node, ...]
    source: ir.Value
    sizes: list[int]
    times: tuple[int, int]
    frame: list[int]


def spread_before(node: ir.Node) -> Spread | None:
    """What put zeros between the pixels that a node alone reads."""
    joined, frames = alone_before(node), []
    while joined is not None and (amounts := frame_of(joined)) is not None:
        frames.append((joined, amounts))
        joined = alone_before(joined)
    pad = None if joined is None or joined.op_type != "Reshape" else alone_before(joined)
    split = None if pad is None or pad.op_type != "Pad" else alone_before(pad)
    if joined is None or pad is None or split is None or split.op_type != "Reshape":
        return None
    apart, spread, picture = split.outputs[0], sizes_of(pad.outputs[0]), sizes_of(joined.outputs[0])
    source, sizes, amounts, value = split.inputs[0], sizes_of(apart), padding(pad), constant(optional(pad, 2))
    if source is None or sizes is None or spread is None or picture is None or amounts is None:
        return None
    height, by_rows, width, by_columns = spread[-4:]
    zeros = [0] * (2 * len(sizes) - 3) + [by_rows - 1, 0, by_columns - 1]
    if amounts != zeros or sizes[-3::2] != [1, 1] or picture[2:] != [height * by_rows, width * by_columns]:
        return None
    if text(pad, "mode", "constant") != "constant" or (value is not None and value.any()):
        return None
    frame = together([0] * 4, *(amounts for _, amounts in frames))
    if frame is None:
        return None
    nodes = split, pad, joined, *(frame for frame, _ in reversed(frames))
    return Spread(nodes, source, [*picture[:2], height, width], (by_rows, by_columns), frame)


def together(*frames: list[int]) -> list[int] | None:
    """What frames, one after the other, amount to; `None` where zeros are put where pixels were taken off."""
    sides = [*zip(*frames, strict=True)]
    return None if any(min(side) < 0 < max(side) for side in sides) else [*map(sum, sides)]


def frame_of(node: ir.Node) -> list[int] | None:
    """What a node puts around pictures in zeros, or takes off them below 0: above, left, below, right."""
    if node.op_type == "Slice":
        return _taken_off(node)
    amounts, value = padding(node), constant(optional(node, 2))
    zeros = text(node, "mode", "constant") == "constant" and (value is None or not value.any())
    if amounts is None or len(amounts) != 8 or not zeros or any((*amounts[:2], *amounts[4:6])):
        return None
    return [*amounts[2:4], *amounts[6:]]


def _taken_off(cut: ir.Node) -> list[int] | None:
    """The same of a cut, none of it above 0."""
    starts, ends, axes = (constant(optional(cut, index)) for index in (1, 2, 3))
    sizes = None if cut.inputs[0] is None else sizes_of(cut.inputs[0])
    if starts is None or ends is None or axes is None or sizes is None or len(sizes) != 4:
        return None
    steps = constant(optional(cut, 4))
    if optional(cut, 4) is not None and (steps is None or (steps != 1).any()):
        return None
    frame = [0] * 4
    for axis, *bounds in zip(axes, starts, ends, strict=True):
        place, size = int(axis) % 4 - 2, sizes[int(axis) % 4]
        first, last = (int(np.clip(at + size if at < 0 else at, 0, size)) for at in bounds)
        if place < 0 or last <= first:
            return None
        frame[place], frame[place + 2] = -first, last - size
    return frame


def transposed_pads(spread: Spread, frame: list[int], rows: int, columns: int) -> list[int] | None:
    """The pads of the transposed convolution that a filter is; `None` where it sees more zeros than that has.

    Args:
        spread: What put zeros between the pixels that it sees.
        frame: Zeros around these then.
        rows: Of its kernel.
        columns: The same.
    """
    above, left, below, right = frame
    by_rows, by_columns = spread.times
    pads = [rows - 1 - above, columns - 1 - left, rows - by_rows - below, columns - by_columns - right]
    return None if min(pads) < 0 else pads


def pads_of(node: ir.Node) -> list[int]:
    return ints(node, "pads") or [0] * 4


def sizes_of(value: ir.Value) -> list[int] | None:
    """A shape of at least four sizes that are all known."""
    known = value.shape is not None and len(value.shape) >= 4 and value.shape.is_static()
    return list(value.shape.numpy()) if known and value.shape is not None else None


def shaped(new: Replacement, value: ir.Value, sizes: list[int]) -> ir.Value:
    """A tensor in another shape."""
    if sizes_of(value) == sizes:
        return value
    pictures = new.add("Reshape", [value, new.weight("sizes", np.array(sizes))], "pictures")
    pictures.type, pictures.shape = value.type, ir.Shape(sizes)
    return pictures
