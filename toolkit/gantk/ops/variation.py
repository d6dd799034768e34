# SPDX-License-Identifier: Apache-2.0
"""`gantk::total_variation`, how rough pictures are, with its gradient in the same pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gantk.errors import GantkError, UsageError
from gantk.kernels.variation_plan import KINDS
from gantk.ops.layout import empty_dense_like, sum_dtype

_BLOCK = 2**18  # Elements of a block of rows: what is made of it stays in the cache.


def total_variation(pictures: Tensor, kind: str = "l1", eps: float = 1e-8) -> Tensor:
    """The total variation of each picture, a sum over its channels, rows and columns.

    With ``dx = x[i, j + 1] - x[i, j]`` and ``dy = x[i + 1, j] - x[i, j]``, which are 0 in the last column and the
    last row:

    - ``l1``: ``|dx| + |dy|``; its gradient takes 0 for the slope of ``|0|``.
    - ``l2``: ``dx^2 + dy^2``.
    - ``isotropic``: ``sqrt(dx^2 + dy^2 + eps)`` (Rudin, Osher and Fatemi 1992, made smooth by eps), at every pixel,
      so that a plain picture of P pixels has ``P * sqrt(eps)``.

    Args:
        pictures: float[N, C, H, W] of any strides.
        kind: One of `KINDS`.
        eps: Above 0; for ``isotropic`` alone.

    Returns:
        [N], float64 for float64 pictures, else float32. The gradient has the type of the pictures. Differences
        are taken in the former type, and blocks of rows are summed in float64.

    Raises:
        UsageError: Another kind.
        GantkError: The pictures have other axes, none of a kind, or another type.
    """
    wanted = torch.is_grad_enabled() and pictures.requires_grad
    value: Tensor = total_variation_op(pictures, kind, eps, wanted)[0]
    return value


def total_variation_reference(
    pictures: Tensor, kind: str = "l1", eps: float = 1e-8, with_gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """The values [N], and their gradient in the shape and type of the pictures, or without it an empty [0]."""
    check_pictures(pictures, kind, eps)
    count, channels, height, width = pictures.shape
    dtype = sum_dtype(pictures)
    value = pictures.new_zeros(count, dtype=torch.float64)
    gradient = empty_dense_like(pictures) if with_gradient else pictures.new_empty(0)
    above = None  # What the last row of the block above adds to the first row of this one.
    rows = max(1, _BLOCK // (count * channels * width))
    for top in range(0, height, rows):
        block = pictures[:, :, top : top + rows + 1].to(dtype)  # One row more, where there is one.
        taken = min(rows, height - top)
        dx = block[:, :, :taken, 1:] - block[:, :, :taken, :-1]
        dy = block[:, :, 1:] - block[:, :, :-1]
        value += _measure(dx, dy, kind, eps, taken)
        if with_gradient:
            above = _spread(dx, dy, above, gradient[:, :, top : top + taken])
    return value.to(dtype), gradient


total_variation_op = torch.library.custom_op(
    "gantk::total_variation", total_variation_reference, mutates_args=()
)


@total_variation_op.register_fake
def _(
    pictures: Tensor, kind: str = "l1", eps: float = 1e-8, with_gradient: bool = True
) -> tuple[Tensor, Tensor]:
    check_pictures(pictures, kind, eps)
    gradient = empty_dense_like(pictures) if with_gradient else pictures.new_empty(0)
    return pictures.new_empty(pictures.shape[0], dtype=sum_dtype(pictures)), gradient


def _measure(dx: Tensor, dy: Tensor, kind: str, eps: float, rows: int) -> Tensor:
    """The sums [N] of a block; `dx` and `dy` become the slopes of its terms."""
    every = (1, 2, 3)
    value: Tensor
    if kind == "l1":
        value = dx.abs().sum(every) + dy.abs().sum(every)  # vector_norm takes four times as long.
        dx.sign_()
        dy.sign_()
    elif kind == "l2":
        value = dx.square().sum(every) + dy.square().sum(every)
        dx.mul_(2)
        dy.mul_(2)
    else:
        length = torch.full((*dx.shape[:2], rows, dx.shape[3] + 1), eps, dtype=dx.dtype, device=dx.device)
        length[..., :-1].addcmul_(dx, dx)
        length[:, :, : dy.shape[2]].addcmul_(dy, dy)
        length.sqrt_()
        value = length.sum(every)
        dx.div_(length[..., :-1])
        dy.div_(length[:, :, : dy.shape[2]])
    return value


def _spread(dx: Tensor, dy: Tensor, above: Tensor | None, into: Tensor) -> Tensor | None:
    """Make the gradient of a block of rows of its terms' slopes; return what these add to the row below."""
    rows, below = into.shape[2], dy.shape[2]
    part = into if into.dtype == dx.dtype else torch.empty_like(into, dtype=dx.dtype)
    part[:, :, 0] = 0 if above is None else above
    # Each row gets the slope from above, less its own to the row below, which the last has not.
    if below > 0:
        part[:, :, 0] -= dy[:, :, 0]
        torch.sub(dy[:, :, :-1], dy[:, :, 1:], out=part[:, :, 1:below])
    if 0 < below < rows:
        part[:, :, below] = dy[:, :, -1]
    part[..., 1:] += dx
    part[..., :-1] -= dx
    if part is not into:
        into.copy_(part)
    return dy[:, :, -1] if below == rows else None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # Zeros for the second output would be a whole picture.
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _differentiate(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    (gradient,) = ctx.saved_tensors
    if grad is None:
        return None, None, None, None
    if gradient.ndim == 1:
        raise GantkError("the total variation was computed without its gradient", hint="with_gradient=True")
    return gradient * grad[:, None, None, None].to(gradient.dtype), None, None, None


total_variation_op.register_autograd(_differentiate, setup_context=_keep)


def check_pictures(pictures: Tensor, kind: str, eps: float) -> None:
    """Raise an error where a tensor is no pictures, or the kind or eps is not among those allowed."""
    if kind not in KINDS:
        raise UsageError(f"the kind of total variation is {kind!r}; allowed are {', '.join(KINDS)}")
    if pictures.ndim != 4 or any(size == 0 for size in pictures.shape):
        raise GantkError(f"pictures have shape {list(pictures.shape)}; N x C x H x W is wanted")
    if kind == "isotropic" and not (math.isfinite(eps) and eps > 0):
        raise UsageError(f"eps is {eps}; a number above 0 is wanted")
    sum_dtype(pictures)
