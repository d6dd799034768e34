# SPDX-License-Identifier: Apache-2.0
"""What the operators share: in which type they sum, and how what they return lies in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from gantk.errors import GantkError

_SUMMED_IN = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, else float32: squares of halves leave their range, and sums of them their precision.

    Raises:
        GantkError: The tensor is not of one of the four types.
    """
    if tensor.dtype not in _SUMMED_IN:
        raise GantkError(f"a tensor is {tensor.dtype}; float64, float32, float16 and bfloat16 are allowed")
    return _SUMMED_IN[tensor.dtype]


def empty_dense_like(tensor: Tensor) -> Tensor:
    """A new tensor of the same shape and type: channels last where `tensor` is, else contiguous."""
    last = (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return torch.empty_like(
        tensor, memory_format=torch.channels_last if last else torch.contiguous_format, requires_grad=False
    )
