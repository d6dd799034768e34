# SPDX-License-Identifier: Apache-2.0
"""gantk's native operators for ONNX Runtime.

gantk finds this package by itself. Any other application registers the library with its sessions:

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(gantk_onnxruntime.get_library_path())
"""

from pathlib import Path

from gantk_onnxruntime._built import DEVICES

__all__ = ["DEVICES", "get_library_path"]


def get_library_path() -> str:
    """The path of the library, for ``SessionOptions.register_custom_ops_library``.

    It has kernels for the devices in `DEVICES`: ``cpu``, and ``cuda`` where the CUDA toolkit was at hand.
    """
    return str(Path(__file__).with_name("libgantk_onnxruntime.so"))
