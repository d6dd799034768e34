# SPDX-License-Identifier: Apache-2.0
"""Filters that see one channel at a time, as depthwise convolutions: the blurs and enlargements of StyleGAN2.

Its ``upfirdn2d`` (Karras et al., arXiv 1912.04958, after Zhang, arXiv 1904.11486) puts zeros between pixels and around
them, and filters each channel as a picture of its own; exporters write tensors of five or six axes and copies of whole
pictures for it. Zeros between pixels are a transposed convolution, and zeros around them its pads.

StyleGAN3 (Karras et al., arXiv 2106.12423, section 3) filters rows and columns one after the other, with 12 taps and
more, before and after each activation. Of pixels between zeros only every second tap meets any: each pixel's phases are
filters of their own, of half the taps, on the small picture. What keeps every second pixel has strides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from gantk.export.rewrites.folded import factors_before_slopes, fold_factors
from gantk.export.rewrites.graphs import (
    Float64,
    Replacement,
    alone_before,
    attribute,
    constant,
    drop_unused_weights,
    has_computed_bias,
    ints,
    is_explicit,
    only_user,
    optional,
    padding,
    text,
)

_NO_END = np.iinfo(np.int64).max

FEW_CHANNELS = 8
"""Filters of so few are transposed convolutions of all channels, most of whose weights are 0: backends are slow at
transposed depthwise ones, and natively those of 4 x 4 are the faster."""


def filters_to_depthwise(graph: ir.Model, *, phases: bool = True) -> int:
    """Turn filters of single channels into depthwise convolutions of pictures, transposed ones where they enlarge.

    Args:
        graph: That holds them.
        phases: Whether filters of rows and then of columns become those of their phases, for backends that are slow at
            transposed depthwise convolutions.

    Returns:
        The number of changes.
    """
    filters = [node for node in graph.graph if _kernels(node) is not None]
    if filters:
        factors_before_slopes(graph.graph)
        fold_factors(graph.graph)
        filters = [node for node in graph.graph if _kernels(node) is not None]
    turned = 0
    for found in filters:
        node = found
        for turn in (_with_padding, _of_channels, _with_padding):
            made = turn(graph.graph, node)
            turned, node = turned + (made is not None), made or node
    turns = (
        _enlarging_by_phases if phases else _enlarging_one_by_one,
        partial(_enlarging, phases=phases),
        _with_strides,
    )
    for node in [node for node in graph.graph if _kernels(node) is not None]:
        if node.graph is not None:  # As the second of a pair it may be gone.
            turned += any(turn(graph.graph, node) for turn in turns)
    if turned:
        RemoveUnusedNodesPass()(graph)
        drop_unused_weights(graph.graph)
        ShapeInferencePass()(graph)
    return turned


def _kernels(node: ir.Node) -> Float64 | None:
    """The kernels of a convolution that sees single channels one at a time, [channels, 1, rows, columns]."""
    kernels = constant(node.inputs[1]) if node.op_type == "Conv" and is_explicit(node) else None
    if kernels is None or kernels.ndim != 4 or kernels.shape[1] != 1 or has_computed_bias(node):
        return None
    whole = all(ints(node, name) in ([], [1, 1]) for name in ("strides", "dilations"))
    return kernels if whole and attribute(node, "group", 1) == len(kernels) else None


def _with_padding(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """A filter that adds the zeros around pictures, which a node before it did."""
    before = alone_before(node)
    amounts = None if before is None else padding(before)
    if before is None or before.inputs[0] is None or amounts is None or len(amounts) != 8:
        return None
    value = constant(optional(before, 2))
    zeros = text(before, "mode", "constant") == "constant" and (value is None or not value.any())
    if not zeros or min(amounts) < 0 or any((*amounts[:2], *amounts[4:6])):
        return None
    more = (*amounts[2:4], *amounts[6:])
    pads = [own + other for own, other in zip(_pads(node), more, strict=True)]
    new = Replacement(graph, node)
    attributes = {**node.attributes, "pads": pads}
    return _finished(
        new, new.add("Conv", [before.inputs[0], *node.inputs[1:]], "padding", **attributes), [before, node]
    )


def _of_channels(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """A filter of pictures, in place of one that has channels for pictures."""
    kernels, before, after = _kernels(node), alone_before(node), only_user(node.outputs[0])
    if kernels is None or len(kernels) != 1 or before is None or after is None or before.inputs[0] is None:
        return None
    if before.op_type != "Reshape" or after.op_type != "Reshape":
        return None
    single, filtered, made = (
        _sizes(value) for value in (before.outputs[0], node.outputs[0], after.outputs[0])
    )
    if single is None or filtered is None or made is None or len(made) != 4 or made[2:] != filtered[2:]:
        return None
    new, channels = Replacement(graph, node), made[1]
    pictures = _shaped(new, before.inputs[0], [*made[:2], *single[2:]])
    inputs = [pictures, new.weight("kernels", np.repeat(kernels, channels, 0))]
    bias = constant(optional(node, 2))
    if bias is not None:
        inputs.append(new.weight("bias", np.repeat(bias, channels)))
    return _finished(
        new,
        new.add("Conv", inputs, "depthwise", **{**node.attributes, "group": channels}),
        [before, node, after],
    )


def _enlarging(graph: ir.Graph, node: ir.Node, *, phases: bool) -> bool:
    """Put a transposed convolution in the place of a filter of pixels with zeros between them."""
    kernels, spread = _kernels(node), _spread_before(node)
    if kernels is None or spread is None:
        return False
    by_rows, by_columns = spread.times
    rows, columns = kernels.shape[2:]
    frame = _together(spread.frame, _pads(node))
    if frame is None:
        return False
    above, left, below, right = frame
    pads = [rows - 1 - above, columns - 1 - left, rows - by_rows - below, columns - by_columns - right]
    if min(pads) < 0:
        return False
    new = Replacement(graph, node)
    pictures = _shaped(new, spread.source, spread.sizes)
    flipped, groups = kernels[:, :, ::-1, ::-1], len(kernels)
    if groups <= FEW_CHANNELS and (phases or (spread.times == (2, 2) and max(rows, columns) <= 4)):
        flipped, groups = flipped * np.eye(groups)[:, :, None, None], 1
    inputs = [pictures, new.weight("kernels", flipped), *node.inputs[2:]]
    attributes = {**node.attributes, "group": groups, "pads": pads, "strides": [by_rows, by_columns]}
    new.finish(new.add("ConvTranspose", inputs, "enlarging", **attributes), [*spread.nodes, node])
    return True


@dataclass(frozen=True)
class _Spread:
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


def _spread_before(node: ir.Node) -> _Spread | None:
    """What put zeros between the pixels that a node alone reads."""
    joined, frames = alone_before(node), []
    while joined is not None and (amounts := _frame_of(joined)) is not None:
        frames.append((joined, amounts))
        joined = alone_before(joined)
    pad = None if joined is None or joined.op_type != "Reshape" else alone_before(joined)
    split = None if pad is None or pad.op_type != "Pad" else alone_before(pad)
    if joined is None or pad is None or split is None or split.op_type != "Reshape":
        return None
    apart, spread, picture = split.outputs[0], _sizes(pad.outputs[0]), _sizes(joined.outputs[0])
    source, sizes, amounts, value = split.inputs[0], _sizes(apart), padding(pad), constant(optional(pad, 2))
    if source is None or sizes is None or spread is None or picture is None or amounts is None:
        return None
    height, by_rows, width, by_columns = spread[-4:]
    zeros = [0] * (2 * len(sizes) - 3) + [by_rows - 1, 0, by_columns - 1]
    if amounts != zeros or sizes[-3::2] != [1, 1] or picture[2:] != [height * by_rows, width * by_columns]:
        return None
    if text(pad, "mode", "constant") != "constant" or (value is not None and value.any()):
        return None
    frame = _together([0] * 4, *(amounts for _, amounts in frames))
    if frame is None:
        return None
    nodes = split, pad, joined, *(frame for frame, _ in reversed(frames))
    return _Spread(nodes, source, [*picture[:2], height, width], (by_rows, by_columns), frame)


def _together(*frames: list[int]) -> list[int] | None:
    """What frames, one after the other, amount to; `None` where zeros are put where pixels were taken off."""
    sides = [*zip(*frames, strict=True)]
    return None if any(min(side) < 0 < max(side) for side in sides) else [*map(sum, sides)]


def _frame_of(node: ir.Node) -> list[int] | None:
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
    sizes = None if cut.inputs[0] is None else _sizes(cut.inputs[0])
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


@dataclass(frozen=True)
class _Separately:
    """Filters of the pixels between which zeros were put, along rows and along columns.

    Args:
        spread: What put them there.
        along_rows: The one whose kernel has one row.
        along_columns: The other.
        second: The one of the two that comes after the other, and alone reads it.
        pads: Zeros around the pixels, of both.
    """

    spread: _Spread
    along_rows: ir.Node
    along_columns: ir.Node
    second: ir.Node
    pads: list[int]


def _enlarged_separately(node: ir.Node) -> _Separately | None:
    """The pair that begins with a node, if it is one."""
    spread, pair, second = _spread_before(node), _separated(node), only_user(node.outputs[0])
    if spread is None or pair is None or second is None or spread.times == (1, 1):
        return None
    pads = _together(spread.frame, _pads(node), _pads(second))
    if pads is None or _frames(second, 1 if pair[0] is node else 0):
        return None
    return _Separately(spread, *pair, second, pads)


def _enlarging_one_by_one(graph: ir.Graph, node: ir.Node) -> bool:
    """Enlarge rows, then columns, each by a transposed convolution."""
    found = _enlarged_separately(node)
    if found is None:
        return False
    along_rows, along_columns = _taps(found.along_rows), _taps(found.along_columns)
    above, left, below, right = found.pads
    by_rows, by_columns = found.spread.times
    rows, columns = along_columns.shape[1], along_rows.shape[1]
    pads = [rows - 1 - above, columns - 1 - left, rows - by_rows - below, columns - by_columns - right]
    if min(pads) < 0:
        return False
    new, channels = Replacement(graph, found.second), found.spread.sizes[1]
    value = _shaped(new, found.spread.source, found.spread.sizes)
    how = {"group": channels, "strides": [1, by_columns], "pads": [0, pads[1], 0, pads[3]]}
    weight = new.weight("rows", along_rows[:, None, None, ::-1])
    value = new.add("ConvTranspose", [value, weight], "rows", **how)
    how = {"group": channels, "strides": [by_rows, 1], "pads": [pads[0], 0, pads[2], 0]}
    inputs = [value, new.weight("columns", along_columns[:, None, ::-1, None]), *found.second.inputs[2:]]
    made = new.add("ConvTranspose", inputs, "columns", **how)
    new.finish(made, [*found.spread.nodes, node, found.second])
    return True


def _enlarging_by_phases(graph: ir.Graph, node: ir.Node) -> bool:
    """Filter rows, then columns, of pictures without zeros between their pixels: for each phase of these by itself."""
    found = _enlarged_separately(node)
    if found is None or len(set(found.spread.times)) > 1:
        return False
    spread, second, pads, times = found.spread, found.second, found.pads, found.spread.times[0]
    rows = _phases(_taps(found.along_columns), times, pads[0], pads[2])
    columns = _phases(_taps(found.along_rows), times, pads[1], pads[3])
    slopes = only_user(second.outputs[0])
    last = slopes if slopes is not None and slopes.op_type in ("LeakyRelu", "Relu") else second
    new, channels = Replacement(graph, last), spread.sizes[1]
    source = _shaped(new, spread.source, spread.sizes)
    parts = []
    for row in range(times):
        weight = new.weight(f"row.{row}", rows.kernels[row][:, None, :, None])
        how = {"group": channels, "pads": [rows.before, 0, rows.after, 0]}
        filtered = new.add("Conv", [source, weight], f"rows.{row}", **how)
        for column in range(times):
            weight = new.weight(f"column.{row}.{column}", columns.kernels[column][:, None, None, :])
            how = {"group": channels, "pads": [0, columns.before, 0, columns.after]}
            inputs = [filtered, weight, *second.inputs[2:]]
            part = new.add("Conv", inputs, f"phase.{row}.{column}", **how)
            if last is not second:
                part = new.add(last.op_type, [part], f"active.{row}.{column}", **last.attributes)
            parts.append(part)
    joined = new.add("Concat", parts, "phases", axis=1)
    value = new.add("DepthToSpace", [joined], "DepthToSpace", blocksize=times, mode="DCR")
    if rows.extra or columns.extra:
        ends = [-made.extra or _NO_END for made in (rows, columns)]
        bounds = {"starts": [0, 0], "ends": ends, "axes": [2, 3]}
        value = new.add(
            "Slice",
            [value, *(new.weight(name, np.array(numbers)) for name, numbers in bounds.items())],
            "cut",
        )
    chain = [*spread.nodes, node, second]
    new.finish(value, chain if last is second else [*chain, last])
    return True


def _separated(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """A filter along rows of pixels and one along columns: the given one, and what alone reads it.

    The one along rows, which comes first here, has a kernel of one row.
    """
    second, kernels = only_user(node.outputs[0]), _kernels(node)
    others = None if second is None else _kernels(second)
    if second is None or kernels is None or others is None or optional(node, 2) is not None:
        return None
    for first_axis, pair in ((2, (node, second)), (3, (second, node))):
        if kernels.shape[first_axis] == others.shape[5 - first_axis] == 1:
            return pair
    return None


def _frames(second: ir.Node, axis: int) -> bool:
    """Whether a filter puts zeros beside what the one before it made along an axis, 0 for rows and 1 for columns."""
    pads = _pads(second)
    return bool(pads[axis] or pads[axis + 2])


def _taps(node: ir.Node) -> Float64:
    """The taps of a filter along one axis, [channels, taps]."""
    kernels = _kernels(node)
    assert kernels is not None
    return kernels.reshape(len(kernels), -1)


@dataclass(frozen=True)
class _Phases:
    """Filters of pixels without zeros between them, one for each place between two of these.

    Args:
        kernels: Each float64[channels, taps].
        before: Zeros before the pixels.
        after: Zeros behind them.
        extra: How many more than wanted all of them make.
    """

    kernels: list[Float64]
    before: int
    after: int
    extra: int


def _phases(taps: Float64, times: int, before: int, after: int) -> _Phases:
    """The phases of a filter, which the pixel at `times` i + r meets at tap `times` j + `before` - r as pixel i + j."""
    count = taps.shape[1]
    first, last = min(-(before // times), 0), (count - 2 - before + times) // times
    kernels = []
    for phase in range(times):
        places = times * np.arange(first, last + 1) + before - phase
        inside = (places >= 0) & (places < count)
        kernels.append(np.where(inside, taps[:, np.clip(places, 0, count - 1)], 0.0))
    growth = before + after - count + 1  # How many more the filter makes than there are pixels and zeros.
    behind = max(last - -growth // times, 0)
    return _Phases(kernels, -first, behind, times * (behind - last) - growth)


def _with_strides(graph: ir.Graph, node: ir.Node) -> bool:
    """Filter only what cuts after a filter, or after two along one axis each, keep of each so many rows and columns."""
    pair = _separated(node)
    last = node if pair is None else only_user(node.outputs[0])
    assert last is not None
    cuts, steps = _steps_after(last)
    if steps == (1, 1) or (pair is None and _is_second(node)):
        return False
    new = Replacement(graph, last)
    if pair is None:
        made = new.add("Conv", node.inputs, "strides", **{**node.attributes, "strides": [*steps]})
        new.finish(made, [node, *cuts])
        return True
    along_rows = pair[0]
    axis = 1 if along_rows is node else 0  # The one that the first filters along, whose step it can have.
    if _frames(last, axis):
        return False
    strides = [steps[0], 1], [1, steps[1]]
    first = new.add("Conv", node.inputs, "strides", **{**node.attributes, "strides": strides[axis]})
    inputs = [first, *last.inputs[1:]]
    made = new.add("Conv", inputs, "strides.last", **{**last.attributes, "strides": strides[1 - axis]})
    new.finish(made, [node, last, *cuts])
    return True


def _is_second(node: ir.Node) -> bool:
    """Whether a filter comes after one that it is separated from."""
    before = alone_before(node)
    return before is not None and _kernels(before) is not None and _separated(before) is not None


def _steps_after(node: ir.Node) -> tuple[list[ir.Node], tuple[int, int]]:
    """The cuts that alone read a node and each other, and keep every so many rows and columns from the first on."""
    cuts: list[ir.Node] = []
    steps = {2: 1, 3: 1}
    while (cut := only_user((cuts or [node])[-1].outputs[0])) is not None and cut.op_type == "Slice":
        starts, ends, axes, strides = (constant(optional(cut, index)) for index in (1, 2, 3, 4))
        sizes = None if cut.inputs[0] is None else cut.inputs[0].shape
        if starts is None or ends is None or axes is None or strides is None or sizes is None:
            break
        places = [int(axis) % 4 for axis in axes]
        reached = all(
            end >= _NO_END // 2 or (isinstance(sizes[axis], int) and end >= sizes[axis])
            for axis, end in zip(places, ends, strict=True)
        )
        if starts.any() or not reached or min(strides) < 1 or not set(places) <= {2, 3}:
            break
        for axis, stride in zip(places, strides, strict=True):
            steps[axis] *= int(stride)
        cuts.append(cut)
    return cuts, (steps[2], steps[3])


def _pads(node: ir.Node) -> list[int]:
    return ints(node, "pads") or [0] * 4


def _sizes(value: ir.Value) -> list[int] | None:
    """A shape of at least four sizes that are all known."""
    known = value.shape is not None and len(value.shape) >= 4 and value.shape.is_static()
    return list(value.shape.numpy()) if known and value.shape is not None else None


def _shaped(new: Replacement, value: ir.Value, sizes: list[int]) -> ir.Value:
    """A tensor in another shape."""
    if _sizes(value) == sizes:
        return value
    pictures = new.add("Reshape", [value, new.weight("sizes", np.array(sizes))], "pictures")
    pictures.type, pictures.shape = value.type, ir.Shape(sizes)
    return pictures


def _finished(new: Replacement, value: ir.Value, chain: list[ir.Node]) -> ir.Node:
    """The node that yields a value, in the place of a chain."""
    new.finish(value, chain)
    made = value.producer()
    assert made is not None
    return made
