# SPDX-License-Identifier: Apache-2.0
"""The operations, once for all front ends: checks, a plan, a workspace and launches.

A front end describes its arrays as `View`s, allocates what it returns, and is an `Executor`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from gantk.errors import GantkError
from gantk.kernels.arrays import View
from gantk.kernels.launch import Device, Launch
from gantk.kernels.variation_plan import Pictures, plan_variation

_PLANS = 256  # Kept of each kind: a training or a style transfer has few shapes.


class Executor(Protocol):
    """One GPU and one stream of a front end."""

    @property
    def device(self) -> Device: ...

    def workspace(self, size_bytes: int) -> int:
        """The address, a multiple of 16, of bytes that stay until what is launched with them is done; 0 for none."""
        ...

    def launch(self, launches: Sequence[Launch]) -> None:
        """Enqueue launches, one after the other."""
        ...


def total_variation(
    run: Executor, pictures: View, value: View, gradient: View | None, kind: str, eps: float
) -> None:
    """Enqueue the total variation of pictures.

    Args:
        run: Where.
        pictures: float[N, C, H, W].
        value: float32[N].
        gradient: The shape and type of the pictures; `None` for the value alone.
        kind: As `gantk.ops.total_variation` describes it.
        eps: Likewise.

    Raises:
        UsageError: Another kind, or an eps that is no number above 0.
        GantkError: Pictures that the kernels do not take, or a result that does not belong to them.
    """
    laid = pictures_of(pictures)
    check_result(value, (pictures.shape[0],), "float32", pictures)
    if gradient is not None:
        check_result(gradient, pictures.shape, pictures.dtype, pictures)
    plan = _plan_variation(laid, kind, eps, run.device, None if gradient is None else pictures_of(gradient))
    run.launch(
        plan.launches(
            pictures.address,
            value.address,
            0 if gradient is None else gradient.address,
            run.workspace(plan.workspace_bytes),
        )
    )


_plan_variation = lru_cache(_PLANS)(plan_variation)


def pictures_of(view: View) -> Pictures:
    """How pictures lie, for a plan.

    Raises:
        GantkError: They have another type, other axes, none of a kind, or lie so that no kernel takes them.
    """
    if len(view.shape) != 4:
        raise GantkError(f"{view.name} have shape {list(view.shape)}; N x C x H x W is wanted")
    (n, c, h, w), (by_n, by_c, by_h, by_w) = view.shape, view.strides
    return Pictures(view.dtype, (n, c, h, w), (by_n, by_c, by_h, by_w), view.alignment)


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


def check_workspace(workspace: View, size_bytes: int, ordinal: int) -> int:
    """The address of a caller's workspace, or a `GantkError` that says what it must be."""
    found_bytes = math.prod(workspace.shape) * workspace.item_bytes
    if found_bytes < size_bytes:
        raise GantkError(f"the workspace has {found_bytes} bytes; at least {size_bytes} are wanted")
    if workspace.alignment < 16 or not workspace.is_contiguous() or workspace.read_only:
        raise GantkError("the workspace must be contiguous, writable and at a multiple of 16 bytes")
    if workspace.ordinal != ordinal:
        raise GantkError(f"the workspace is on GPU {workspace.ordinal}; GPU {ordinal} does the work")
    return workspace.address
