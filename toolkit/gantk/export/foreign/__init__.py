# SPDX-License-Identifier: Apache-2.0
"""From an ONNX file that something else exported to a bundle, without PyTorch."""
