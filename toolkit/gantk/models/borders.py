# SPDX-License-Identifier: Apache-2.0
"""A network with the borders that it is exported with: float32 tensors or pixels, whatever it computes in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gantk.tensors import TensorSpec


class Bordered(nn.Module):
    """Takes and returns what the exported network does; `to` another precision changes only what is inside.

    Args:
        module: A network, in any floating type.
        inputs: What it takes, in order; its configuration says so.
        outputs: What it returns.
        pixels: Whether pictures are uint8[N, H, W, C] in [0, 255] outside, and not as `inputs` and `outputs` say.
    """

    def __init__(
        self, module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, pixels: bool
    ) -> None:
        super().__init__()
        self.module = module
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.pixels = pixels

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the network.

        Args:
            tensors: One for each input; floats of any type, which are converted.

        Returns:
            One for each output, the only one alone: float32, or uint8 where it is pixels.
        """
        dtype = next(self.module.parameters()).dtype
        entered = [self._enter(*pair, dtype) for pair in zip(self.inputs, tensors, strict=True)]
        results = self.module(*entered)
        results = (results,) if isinstance(results, Tensor) else results
        left = tuple(self._leave(*pair) for pair in zip(self.outputs, results, strict=True))
        return left[0] if len(left) == 1 else left

    def _enter(self, spec: TensorSpec, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if self.pixels and spec.layout == "NCHW":
            low, high = _range(spec)
            # TensorRT takes uint8 only where it is cast before anything else.
            tensor = tensor.to(torch.float32).permute(0, 3, 1, 2) * ((high - low) / 255.0)
            tensor = tensor + low if low else tensor
        return _convert(tensor, dtype)

    def _leave(self, spec: TensorSpec, tensor: Tensor) -> Tensor:
        tensor = _convert(tensor, torch.float32)
        if not self.pixels or spec.layout != "NCHW":
            return tensor
        low, high = _range(spec)
        scale = 255.0 / (high - low)
        tensor = tensor * scale - low * scale if low else tensor * scale
        # TensorRT takes the cast to uint8 only as the last node.
        pixels = tensor.round().clamp(0.0, 255.0).permute(0, 2, 3, 1)
        return pixels.to(torch.uint8, memory_format=torch.contiguous_format)


def _range(spec: TensorSpec) -> tuple[float, float]:
    assert spec.range is not None, "a picture has a range"
    return spec.range


def _convert(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != dtype else tensor
