# SPDX-License-Identifier: Apache-2.0
"""The pictures of an optimisation: read, brought to a size, their colours taken away and given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from gantk.errors import GantkError, UsageError
from gantk.runtime.pictures import Pixels, load

# The luminance of a colour, and the two axes of its chroma (NTSC's YIQ, which Gatys et al. use).
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def read(path: str | Path) -> Pixels:
    """A picture file as pixels [H, W, 3], upright, on white.

    Raises:
        GantkError: It is missing, no picture, cut short or far too large.
    """
    pixels: Pixels = load(path)[0]
    return pixels


def read_mask(path: str | Path) -> Pixels:
    """A mask file as pixels [H, W, 1].

    Raises:
        GantkError: As `read`, or it is black.
    """
    grey = np.asarray(Image.fromarray(read(path)).convert("L"))
    if not grey.any():
        raise GantkError(
            f"the mask `{path}` is black everywhere", where=str(path), hint="white is what counts"
        )
    return grey[:, :, None]


def to_tensor(pixels: Pixels, size: tuple[int, int]) -> Tensor:
    """Pixels [H, W, C] resized with a Lanczos filter, as float32[1, C, height, width] in [0, 1]."""
    mode: Any = "L" if pixels.shape[2] == 1 else "RGB"
    picture = Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels, mode)
    resized = np.array(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS), dtype=np.float32)
    return torch.from_numpy(resized.reshape(*size, -1)).permute(2, 0, 1)[None].contiguous() / 255


def to_pixels(picture: Tensor) -> Pixels:
    """A tensor [1, 3, H, W] as pixels [H, W, 3]; what lies outside [0, 1] is clipped."""
    values = (picture[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(values.permute(1, 2, 0).cpu().numpy())


def enlarge(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture [1, 3, h, w] at another size, bicubic."""
    return F.interpolate(picture, size, mode="bicubic", align_corners=False, antialias=False).clamp(0, 1)


def luminance(picture: Tensor) -> Tensor:
    """The luminance of a picture as three equal channels."""
    return torch.einsum("c,nchw->nhw", _YIQ[0].to(picture), picture)[:, None].expand_as(picture).contiguous()


def match_luminance(style: Tensor, content: Tensor) -> Tensor:
    """A style's luminance with the mean and deviation of the content's (arXiv 1606.05897, section 4.2)."""
    spread = content.std() / style.std().clamp(min=1e-6)
    return ((style - style.mean()) * spread + content.mean()).clamp(0, 1)


def with_colours_of(picture: Tensor, content: Tensor) -> Tensor:
    """The luminance of one picture with the chroma of another of the same size."""
    matrix = _YIQ.to(picture)
    chroma = torch.einsum("kc,nchw->nkhw", matrix, content)
    chroma[:, 0] = torch.einsum("c,nchw->nhw", matrix[0], picture)
    return torch.einsum("ck,nkhw->nchw", torch.linalg.inv(matrix), chroma).clamp(0, 1)


def check_size(name: str, size: tuple[int, int], smallest: int, layer: str, option: str) -> None:
    """Raise a `UsageError` where a picture is too small for a layer to have features."""
    if min(size) < smallest:
        raise UsageError(
            f"`{name}` would have {size[1]} x {size[0]} pixels; the layer {layer} wants at least {smallest} each way",
            where=name,
            hint=f"choose a larger {option} or earlier layers, or cut the picture to a less narrow one",
        )
