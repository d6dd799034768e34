# SPDX-License-Identifier: Apache-2.0
"""The operators' kernels for CUDA tensors, in the place of their reference implementations.

They run on torch's current stream and wait for nothing; beside their results they allocate one workspace, by torch's
allocator, and so may be captured into a CUDA graph. float32 features are multiplied exactly unless torch's own
products may round them to TF32 (`torch.backends.cuda.matmul.fp32_precision`, `torch.set_float32_matmul_precision`).
The reference does what no kernel takes: float64, more than eight layers of a style loss at once, sizes beyond a grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from gantk.errors import GantkError
from gantk.kernels import operations
from gantk.kernels.device import GPU, gpu
from gantk.kernels.launch import Device
from gantk.kernels.launcher import launch
from gantk.kernels.operations import Work
from gantk.ops.gram import (
    check_features,
    check_grad,
    gram_matrix_grad_op,
    gram_matrix_grad_reference,
    gram_matrix_op,
    gram_matrix_reference,
)
from gantk.ops.layout import empty_dense_like, sum_dtype
from gantk.ops.style import (
    check_layers,
    empty_differences,
    style_loss_grad_op,
    style_loss_grad_reference,
    style_loss_op,
    style_loss_reference,
)
from gantk.ops.variation import check_pictures, total_variation_op, total_variation_reference
from gantk.runtime.views import View


def register() -> None:
    """Put the kernels in their places. What they need is looked for when the first CUDA tensor comes."""
    gram_matrix_op.register_kernel("cuda")(gram_matrix)
    gram_matrix_grad_op.register_kernel("cuda")(gram_matrix_grad)
    style_loss_op.register_kernel("cuda")(style_loss)
    style_loss_grad_op.register_kernel("cuda")(style_loss_grad)
    total_variation_op.register_kernel("cuda")(total_variation)


def gram_matrix(features: Tensor, scale: float | None = None) -> Tensor:
    check_features(features)
    if not _is_taken(features):
        return gram_matrix_reference(features, scale)
    count, channels = features.shape[:2]
    gram = features.new_empty(count, channels, channels, dtype=sum_dtype(features))
    flat = features.flatten(2)  # A copy only where rows have gaps between them.

    def plan(device: Device) -> Work:
        return operations.gram_matrix(device, _view(flat), _view(gram), scale, _precision())

    return gram if _enqueue(plan, features) else gram_matrix_reference(features, scale)


def gram_matrix_grad(grad: Tensor, features: Tensor, scale: float | None = None) -> Tensor:
    check_grad(grad, features)
    if not _is_taken(features):
        return gram_matrix_grad_reference(grad, features, scale)
    gradient = empty_dense_like(features)
    flat, into = features.flatten(2), gradient.flatten(2)

    def plan(device: Device) -> Work:
        return operations.gram_matrix_grad(device, _view(grad), _view(flat), _view(into), scale, _precision())

    return gradient if _enqueue(plan, features) else gram_matrix_grad_reference(grad, features, scale)


def style_loss(features: list[Tensor], targets: list[Tensor], weights: list[float]) -> tuple[Tensor, Tensor]:
    check_layers(features, targets, weights)
    if not _is_taken(features[0]):
        return style_loss_reference(features, targets, weights)
    differences = empty_differences(features)
    loss = differences.new_empty(len(differences))
    layers = [layer.flatten(2) for layer in features]
    wanted = [target.to(differences.dtype).contiguous() for target in targets]

    def plan(device: Device) -> Work:
        return operations.style_loss(
            device, _views(layers), _views(wanted), weights, _view(loss), _view(differences), _precision()
        )

    if _enqueue(plan, features[0]):
        return loss, differences
    return style_loss_reference(features, targets, weights)


def style_loss_grad(
    grad: Tensor, features: list[Tensor], differences: Tensor, weights: list[float]
) -> list[Tensor]:
    if not _is_taken(features[0]):
        return style_loss_grad_reference(grad, features, differences, weights)
    gradients = [empty_dense_like(layer) for layer in features]
    layers, into = [layer.flatten(2) for layer in features], [each.flatten(2) for each in gradients]

    def plan(device: Device) -> Work:
        return operations.style_loss_grad(
            device, _view(grad), _views(layers), _view(differences), weights, _views(into), _precision()
        )

    if _enqueue(plan, features[0]):
        return gradients
    return style_loss_grad_reference(grad, features, differences, weights)


def total_variation(
    pictures: Tensor, kind: str = "l1", eps: float = 1e-8, with_gradient: bool = True
) -> tuple[Tensor, Tensor]:
    check_pictures(pictures, kind, eps)
    if not _is_taken(pictures):
        return total_variation_reference(pictures, kind, eps, with_gradient)
    value = pictures.new_empty(len(pictures), dtype=sum_dtype(pictures))
    gradient = empty_dense_like(pictures) if with_gradient else pictures.new_empty(0)

    def plan(device: Device) -> Work:
        into = _view(gradient) if with_gradient else None
        return operations.total_variation(device, _view(pictures), _view(value), into, kind, eps)

    if _enqueue(plan, pictures):
        return value, gradient
    return total_variation_reference(pictures, kind, eps, with_gradient)


def _is_taken(tensor: Tensor) -> bool:
    """Whether there are kernels for a tensor's type, and they run on its GPU."""
    return tensor.dtype != torch.float64 and _gpu(tensor.get_device()) is not None


def _enqueue(plan: Callable[[Device], Work], tensor: Tensor) -> bool:
    """Launch what is planned on the current stream of a tensor's GPU; False where the reference has to do it."""
    found = _gpu(tensor.get_device())
    assert found is not None  # `_is_taken` saw to it.
    try:
        work = plan(found.device)
    except GantkError:  # The arguments are right, so it is the kernels that do not go so far.
        return False
    workspace = torch.empty(work.workspace_bytes, dtype=torch.uint8, device=tensor.device)
    launch(found, work.launches(workspace.data_ptr()), torch.cuda.current_stream(tensor.device).cuda_stream)
    return True


@cache
def _gpu(ordinal: int) -> GPU | None:
    """A GPU that the kernels run on, or `None` after one warning that says why they do not."""
    try:
        return gpu(ordinal)
    except GantkError as error:
        hint = f" ({error.hint})" if error.hint else ""
        warnings.warn(
            f"the CUDA kernels do not run on GPU {ordinal}, torch does their work, slower: {error.what}{hint}; "
            "gantk doctor says more",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "exact"


def _view(tensor: Tensor) -> View:
    return View(
        name="a tensor",
        address=tensor.data_ptr(),
        shape=tuple(tensor.shape),
        strides=tensor.stride(),
        dtype=str(tensor.dtype).removeprefix("torch."),
        item_bytes=tensor.element_size(),
        ordinal=tensor.get_device(),
    )


def _views(tensors: Sequence[Tensor]) -> list[View]:
    return [_view(tensor) for tensor in tensors]
