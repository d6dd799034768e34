# SPDX-License-Identifier: Apache-2.0
"""What a bundle was made with."""

from __future__ import annotations

from gantk.runtime.backends.vendor import installed

_TOOLS = ("gantk", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy")
_TRACING = ("torch", "onnxscript")


def tool_versions(*, traced: bool = True) -> dict[str, str]:
    """The versions of what makes a bundle, of those packages that are installed.

    Args:
        traced: Whether its files were made of a network of PyTorch's.
    """
    return installed(*_TOOLS, *(_TRACING if traced else ()))
