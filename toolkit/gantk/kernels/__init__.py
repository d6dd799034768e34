# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels for the Gram matrix, the style loss and total variation, without PyTorch.

The functions here take arrays of any library that shares GPU memory (``__dlpack__``, ``__cuda_array_interface__``) and
a stream, wait for nothing, and give back arrays that any of them takes::

    gram = gantk.kernels.gram_matrix(features, stream=stream)  # features of torch, CuPy, JAX, Numba ...
    torch.from_dlpack(gram)

A *plan* chooses kernels, tiles and grids from shapes and a device (`gram_plan`); it yields *launches* (`launch`),
whose one argument is a structure that the CUDA sources share (`parameters`). Plans need no GPU. The sources are
compiled by NVRTC when a kernel is first wanted (`compile`), once for a machine (`cache`). `pycuda` is the same for
GPUArrays, and `gantk.ops` for PyTorch with its autograd.
"""

from gantk.kernels.functions import gram_matrix as gram_matrix
from gantk.kernels.functions import gram_matrix_grad as gram_matrix_grad
from gantk.kernels.functions import style_loss as style_loss
from gantk.kernels.functions import total_variation as total_variation
from gantk.kernels.memory import DeviceArray as DeviceArray
from gantk.kernels.memory import to_device as to_device
