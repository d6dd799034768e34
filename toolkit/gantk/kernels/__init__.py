# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels for the Gram matrix, the style loss and total variation, without PyTorch.

A *plan* chooses kernels, tiles and grids from shapes and a device (`gram_plan`); it yields *launches* (`launch`),
whose one argument is a structure that the CUDA sources share (`parameters`). Plans need no GPU.
"""

from gantk.kernels.functions import gram_matrix as gram_matrix
from gantk.kernels.functions import gram_matrix_grad as gram_matrix_grad
from gantk.kernels.functions import style_loss as style_loss
from gantk.kernels.functions import total_variation as total_variation
from gantk.kernels.memory import DeviceArray as DeviceArray
from gantk.kernels.memory import to_device as to_device
