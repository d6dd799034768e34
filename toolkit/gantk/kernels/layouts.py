# SPDX-License-Identifier: Apache-2.0
"""How arrays lie, as plans want to know it, and whether they go together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gantk.errors import GantkError
from gantk.kernels.launch import Features
from gantk.kernels.variation_plan import Pictures
from gantk.runtime.views import View

WORKSPACE_ALIGNMENT = 256


def gram_shape(features: View) -> tuple[int, ...]:
    """The shape of the Gram matrices of features."""
    return (features.shape[0], features.shape[1], features.shape[1])


def features_of(view: View) -> Features:
    """How features lie, for a plan, with height and width as one axis.

    Raises:
        GantkError: They have another type, other axes, none of a kind, or lie so that no kernel takes them.
    """
    if len(view.shape) not in (3, 4):
        raise GantkError(f"{view.name} have shape {list(view.shape)}; N x C x H x W or N x C x K is wanted")
    count, channels, *places = view.shape
    by_picture, by_channel, *by_place = view.strides
    step = by_place[-1]
    if len(places) == 2:
        height, width = places
        step = by_place[0] if width == 1 else by_place[1]
        if height > 1 and width > 1 and by_place[0] != width * step:
            raise GantkError(
                f"{view.name} have strides {list(view.strides)}; rows must follow each other without gaps",
                hint="make a contiguous copy first",
            )
    shape = (count, channels, math.prod(places))
    return Features(view.dtype, shape, (by_picture, by_channel, step), view.alignment)


def pictures_of(view: View) -> Pictures:
    """How pictures lie, for a plan.

    Raises:
        GantkError: They have another type, other axes, none of a kind, or lie so that no kernel takes them.
    """
    if len(view.shape) != 4:
        raise GantkError(f"{view.name} have shape {list(view.shape)}; N x C x H x W is wanted")
    (n, c, h, w), (by_n, by_c, by_h, by_w) = view.shape, view.strides
    return Pictures(view.dtype, (n, c, h, w), (by_n, by_c, by_h, by_w), view.alignment)


def check_layers(features: Sequence[View], others: Sequence[View], weights: Sequence[float]) -> None:
    """Raise a `GantkError` where there are not as many features as targets, or gradients, and weights, or none."""
    if not features or not len(features) == len(others) == len(weights):
        raise GantkError(
            f"{len(features)} layers, {len(others)} targets or results and {len(weights)} weights; as many of each "
            "are wanted, and at least one"
        )


def check_result(result: View, shape: tuple[int, ...], dtype: str, *given: View) -> None:
    """Refuse to write an array that is not what is computed, or whose writing would change what is still read."""
    if (result.shape, result.dtype) != (shape, dtype):
        raise GantkError(
            f"{result.name} is {result.dtype}{list(result.shape)}; {dtype}{list(shape)} is written there"
        )
    if not result.is_contiguous() and not result.is_channels_last():
        raise GantkError(
            f"{result.name} has strides {list(result.strides)}; a contiguous array is wanted, or channels last"
        )
    if result.read_only:
        raise GantkError(f"{result.name} is read-only")
    for other in given:
        if other.ordinal != result.ordinal:
            raise GantkError(
                f"{result.name} is on GPU {result.ordinal}, {other.name} on GPU {other.ordinal}; all arrays must be "
                "on one"
            )
        if result.overlaps(other):
            raise GantkError(f"{result.name} and {other.name} share memory")


def target_stride(target: View, layer: Features) -> int:
    """How far the targets of two pictures are apart: 0 where all have the same."""
    count, channels, _ = layer.shape
    one, each = (channels, channels), (count, channels, channels)
    if target.dtype != "float32" or target.shape not in (one, (1, *one), each) or not target.is_contiguous():
        raise GantkError(
            f"{target} with strides {list(target.strides)}; a contiguous float32{list(one)} or float32{list(each)} "
            "belongs to its features"
        )
    return channels**2 if len(target.shape) == 3 and target.shape[0] > 1 else 0


def check_workspace(workspace: View, size_bytes: int, ordinal: int) -> int:
    """The address of a caller's workspace, or a `GantkError` that says what it must be."""
    found_bytes = math.prod(workspace.shape) * workspace.item_bytes
    if found_bytes < size_bytes:
        raise GantkError(f"the workspace has {found_bytes} bytes; at least {size_bytes} are wanted")
    if workspace.address % WORKSPACE_ALIGNMENT or not workspace.is_contiguous() or workspace.read_only:
        raise GantkError(
            f"the workspace must be contiguous, writable and begin at a multiple of {WORKSPACE_ALIGNMENT} bytes"
        )
    if workspace.ordinal != ordinal:
        raise GantkError(f"the workspace is on GPU {workspace.ordinal}; GPU {ordinal} does the work")
    return workspace.address
