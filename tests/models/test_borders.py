# SPDX-License-Identifier: Apache-2.0
"""What enters and leaves an exported network, whatever it computes in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gantk.models.borders import Bordered
from gantk.tensors import TensorSpec


class Echo(nn.Module):
    """Returns its picture, and a number for each."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.seen: list[torch.dtype] = []

    def forward(self, picture: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen += [picture.dtype, share.dtype]
        return picture * self.one, share * self.one


def bordered(low: float, high: float, *, pixels: bool) -> Bordered:
    picture = TensorSpec("picture", "float32", ("N", 3, "H", "W"), (low, high), "NCHW")
    share = TensorSpec("share", "float32", ("N",))
    return Bordered(Echo(), (picture, share), (picture, share), pixels=pixels)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pixels_come_back_as_they_went_in(low: float, high: float, dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    module = bordered(low, high, pixels=True).to(dtype)
    with torch.no_grad():
        back, share = module(pixels, torch.tensor([0.25]))
    assert module.module.seen == [dtype, dtype]
    assert (back.dtype, share.dtype) == (torch.uint8, torch.float32)
    assert back.is_contiguous()
    np.testing.assert_array_equal(back.numpy(), pixels.numpy())
    assert float(share) == 0.25


def test_floats_pass_and_only_their_type_changes() -> None:
    picture = torch.rand(1, 3, 4, 5)
    module = bordered(0.0, 1.0, pixels=False).to(torch.bfloat16)
    with torch.no_grad():
        back, _ = module(picture, torch.zeros(1))
    assert module.module.seen == [torch.bfloat16, torch.bfloat16]
    assert back.dtype == torch.float32
    np.testing.assert_array_equal(back.numpy(), picture.bfloat16().float().numpy())


def test_what_leaves_the_range_is_clamped() -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(3.0))

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return picture * self.gain - 1.0

    spec = TensorSpec("picture", "float32", ("N", 3, "H", "W"), (0.0, 1.0), "NCHW")
    with torch.no_grad():
        made = Bordered(Loud(), (spec,), (spec,), pixels=True)(
            torch.tensor([0, 85, 128, 255]).byte().view(1, 2, 2, 1).expand(1, 2, 2, 3)
        )
    assert made[0, :, :, 0].flatten().tolist() == [0, 0, 129, 255]
