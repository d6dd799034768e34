# SPDX-License-Identifier: Apache-2.0
"""From PyTorch to verified ONNX files in a bundle, and from these to engines, which needs no PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gantk.export.pipeline import PRECISIONS, export

__all__ = ["PRECISIONS", "export"]


def __getattr__(name: str) -> Any:
    # Late, for `gantk.export.engines` must not import torch.
    if name in __all__:
        return getattr(import_module("gantk.export.pipeline"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
