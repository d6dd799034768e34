# SPDX-License-Identifier: Apache-2.0
"""Filters of rows and then of columns, as StyleGAN3 has them before and after each activation.

They have 12 taps and more (Karras et al., arXiv 2106.12423, section 3). Of pixels between zeros only every second tap
meets any: each pixel's phases are filters of their own, of half the taps, on the small picture. What keeps every second
pixel has strides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    NO_END,
    Float64,
    Replacement,
    alone_before,
    constant,
    only_user,
    optional,
)
from gantk.export.rewrites.spread import (
    Spread,
    kernels_of,
    pads_of,
    shaped,
    spread_before,
    together,
    transposed_pads,
)


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

    spread: Spread
    along_rows: ir.Node
    along_columns: ir.Node
    second: ir.Node
    pads: list[int]


def _enlarged_separately(node: ir.Node) -> _Separately | None:
    """The pair that begins with a node, if it is one."""
    spread, pair, second = spread_before(node), _separated(node), only_user(node.outputs[0])
    if spread is None or pair is None or second is None or spread.times == (1, 1):
        return None
    pads = together(spread.frame, pads_of(node), pads_of(second))
    if pads is None or _frames(second, 1 if pair[0] is node else 0):
        return None
    return _Separately(spread, *pair, second, pads)


def enlarging_one_by_one(graph: ir.Graph, node: ir.Node) -> bool:
    """Enlarge rows, then columns, each by a transposed convolution."""
    found = _enlarged_separately(node)
    if found is None:
        return False
    along_rows, along_columns = _taps(found.along_rows), _taps(found.along_columns)
    by_rows, by_columns = found.spread.times
    pads = transposed_pads(found.spread, found.pads, along_columns.shape[1], along_rows.shape[1])
    if pads is None:
        return False
    new, channels = Replacement(graph, found.second), found.spread.sizes[1]
    value = shaped(new, found.spread.source, found.spread.sizes)
    how = {"group": channels, "strides": [1, by_columns], "pads": [0, pads[1], 0, pads[3]]}
    weight = new.weight("rows", along_rows[:, None, None, ::-1])
    value = new.add("ConvTranspose", [value, weight], "rows", **how)
    how = {"group": channels, "strides": [by_rows, 1], "pads": [pads[0], 0, pads[2], 0]}
    inputs = [value, new.weight("columns", along_columns[:, None, ::-1, None]), *found.second.inputs[2:]]
    made = new.add("ConvTranspose", inputs, "columns", **how)
    new.finish(made, [*found.spread.nodes, node, found.second])
    return True


def enlarging_by_phases(graph: ir.Graph, node: ir.Node) -> bool:
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
    source = shaped(new, spread.source, spread.sizes)
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
        ends = [-made.extra or NO_END for made in (rows, columns)]
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
    second, kernels = only_user(node.outputs[0]), kernels_of(node)
    others = None if second is None else kernels_of(second)
    if second is None or kernels is None or others is None or optional(node, 2) is not None:
        return None
    for first_axis, pair in ((2, (node, second)), (3, (second, node))):
        if kernels.shape[first_axis] == others.shape[5 - first_axis] == 1:
            return pair
    return None


def _frames(second: ir.Node, axis: int) -> bool:
    """Whether a filter puts zeros beside what the one before it made along an axis, 0 for rows and 1 for columns."""
    pads = pads_of(second)
    return bool(pads[axis] or pads[axis + 2])


def _taps(node: ir.Node) -> Float64:
    """The taps of a filter along one axis, [channels, taps]."""
    kernels = kernels_of(node)
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


def with_strides(graph: ir.Graph, node: ir.Node) -> bool:
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
    return before is not None and kernels_of(before) is not None and _separated(before) is not None


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
            end >= NO_END // 2 or (isinstance(sizes[axis], int) and end >= sizes[axis])
            for axis, end in zip(places, ends, strict=True)
        )
        if starts.any() or not reached or min(strides) < 1 or not set(places) <= {2, 3}:
            break
        for axis, stride in zip(places, strides, strict=True):
            steps[axis] *= int(stride)
        cuts.append(cut)
    return cuts, (steps[2], steps[3])
