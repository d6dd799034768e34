# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels for the Gram matrix, the style loss and total variation, without PyTorch.

A *plan* chooses kernels, tiles and grids from shapes and a device (`gram_plan`); it yields *launches* (`launch`),
whose one argument is a structure that the CUDA sources share (`parameters`). Plans need no GPU.
"""
