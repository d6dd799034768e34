# SPDX-License-Identifier: Apache-2.0
"""From PyTorch to verified ONNX files in a bundle."""

from gantk.export.pipeline import PRECISIONS, export

__all__ = ["PRECISIONS", "export"]
