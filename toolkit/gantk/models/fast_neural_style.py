# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the public PyTorch example `fast_neural_style`, as networks of our family `style`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from gantk.errors import GantkError
from gantk.models.style import Config, Generator
from gantk.models.weights import check_finite, differences

_SCALE = 255.0
"""The example's networks take and give 0 to 255, ours 0 to 1."""

# Old versions of PyTorch saved statistics that instance normalisation never used.
_UNUSED = re.compile(r".*\.(saved_)?running_(mean|var)|.*\.num_batches_tracked")
_BLOCK = re.compile(r"res(\d+)\.conv1\.conv2d\.weight")


def convert(tensors: Mapping[str, Tensor], style: str, path: Path) -> Generator:
    """Build our network with the weights of the example's.

    Width and residual blocks follow from the shapes. The 255 of the pictures goes into the first and the last
    convolution, so that the result differs by rounding alone.

    Args:
        tensors: The example's state dict (``conv1.conv2d.weight``, ``in1.weight``, ...), of any float type.
        style: The name of its one style.
        path: Where they are from, for the errors.

    Raises:
        UsageError: The style has no name.
        GantkError: They are of another architecture (the message says what differs), or not finite.
    """
    tensors = {name: tensor.float() for name, tensor in tensors.items() if not _UNUSED.fullmatch(name)}
    network = Generator(Config((style,), *_sizes(tensors, path)))
    wanted = network.state_dict()
    names = dict(_names(network.config.blocks))
    their = {its: wanted[ours].reshape(-1) if _is_norm(ours) else wanted[ours] for ours, its in names.items()}
    different = differences(their, tensors)
    if different is not None:
        raise GantkError(
            f"`{path.name}` is of another architecture than the fast_neural_style example: it {different}",
            where=str(path),
            hint="its network has conv1 to conv3, in1 to in5, res1 to res5 and deconv1 to deconv3",
        )
    check_finite(tensors, path)
    converted = {ours: tensors[its].reshape(wanted[ours].shape) for ours, its in names.items()}
    # Not in place: these may be the caller's tensors.
    factors = {"shrink.0.convolve.conv.weight": _SCALE}
    factors |= {"paint.conv.weight": 1 / _SCALE, "paint.conv.bias": 1 / _SCALE}
    converted |= {ours: converted[ours] * factor for ours, factor in factors.items()}
    network.load_state_dict(converted)
    return network.eval().requires_grad_(False)


def _sizes(tensors: Mapping[str, Tensor], path: Path) -> tuple[int, int]:
    """Width and residual blocks."""
    blocks = sum(1 for name in tensors if _BLOCK.fullmatch(name))
    first = tensors.get("conv1.conv2d.weight")
    if first is None or first.ndim != 4 or not blocks:
        found = ", ".join([*tensors][:3])
        raise GantkError(
            f"`{path.name}` is no checkpoint of the fast_neural_style example: it lacks conv1.conv2d.weight "
            f"or res1.conv1.conv2d.weight, and has {found}",
            where=str(path),
        )
    return len(first), blocks


def _names(blocks: int) -> Iterator[tuple[str, str]]:
    """Our name of each tensor, and the example's."""
    layers = [(f"shrink.{n}", f"conv{n + 1}", f"in{n + 1}") for n in range(3)]
    layers += [(f"enlarge.{n}", f"deconv{n + 1}", f"in{n + 4}") for n in range(2)]
    for n in range(blocks):
        layers.append((f"blocks.{n}.layer", f"res{n + 1}.conv1", f"res{n + 1}.in1"))
        layers.append((f"blocks.{n}", f"res{n + 1}.conv2", f"res{n + 1}.in2"))
    for ours, convolution, norm in layers:
        yield f"{ours}.norm.scale", f"{norm}.weight"
        yield f"{ours}.norm.offset", f"{norm}.bias"
        for kind in ("weight", "bias"):
            yield f"{ours}.convolve.conv.{kind}", f"{convolution}.conv2d.{kind}"
    for kind in ("weight", "bias"):
        yield f"paint.conv.{kind}", f"deconv3.conv2d.{kind}"


def _is_norm(name: str) -> bool:
    """Whether a tensor of ours has a row a style, where the example has a vector."""
    return ".norm." in name
