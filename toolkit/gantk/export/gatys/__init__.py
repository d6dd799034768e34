# SPDX-License-Identifier: Apache-2.0
"""The optimisation step of style transfer as ONNX graphs: its gradient, its update, and what it approaches."""
