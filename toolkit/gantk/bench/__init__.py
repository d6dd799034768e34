# SPDX-License-Identifier: Apache-2.0
"""Latency, memory and parity of every way to run a network here. Torch-free: PyTorch runs in worker processes."""
