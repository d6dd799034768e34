# SPDX-License-Identifier: Apache-2.0
"""The operators that style is made of, for PyTorch: one a file, each `torch.ops.gantk.NAME` to the dispatcher.

The dispatcher is where a kernel comes in: an operator's default implementation serves every device, and
``gram.gram_matrix_op.register_kernel("cuda")(function)`` puts another in its place on that device, with the same
arguments and results. `gantk.ops.cuda` does so for CUDA tensors. Shape checks and fake tensors stay as they are.
Gradients are operators too (`gram_matrix_grad_op`, `style_loss_grad_op`), replaced likewise.

Autograd, `torch.compile`, `torch.export` and `make_fx` go through all of them; `torch.func.grad` does not go
through any operator of `torch.library.custom_op`.
"""

from gantk.ops import cuda as _cuda
from gantk.ops.gram import gram_matrix as gram_matrix
from gantk.ops.gram import gram_matrix_grad as gram_matrix_grad
from gantk.ops.style import style_loss as style_loss
from gantk.ops.variation import total_variation as total_variation

_cuda.register()
