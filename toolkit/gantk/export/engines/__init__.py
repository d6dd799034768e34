# SPDX-License-Identifier: Apache-2.0
"""From ONNX files to TensorRT engines in a bundle."""
