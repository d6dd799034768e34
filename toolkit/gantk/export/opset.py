# SPDX-License-Identifier: Apache-2.0
"""The versions of ONNX's default domain that gantk writes."""

from __future__ import annotations

OPSET = 21
"""ONNX Runtime's CUDA provider has no InstanceNormalization of opset 22: it would run on the CPU, between copies."""

BF16_OPSET = 22
"""The first whose convolutions may be bfloat16; otherwise what gantk exports means the same in both."""


def opset_of(precision: str) -> int:
    """The version of the default domain that a file in a precision has."""
    return BF16_OPSET if precision == "bf16" else OPSET
