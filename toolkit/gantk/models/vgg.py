# SPDX-License-Identifier: Apache-2.0
"""VGG-19 (Simonyan and Zisserman, arXiv 1409.1556, column E): the features that style and content are told by."""

from __future__ import annotations

import hashlib
import http.client
import math
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import GantkError, UsageError
from gantk.files import cache_folder, replacing
from gantk.models.weights import check_finite, read_state_dict

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
HASH = "dcbb9e9d"
"""How the file's SHA-256 begins."""

POOLINGS = ("max", "average")

Progress = Callable[[int, int], None]
"""Called with the number of bytes fetched and the number in all."""

_WIDTHS = (64, 128, 256, 512, 512)
_COUNTS = (2, 2, 4, 4, 4)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

LAYERS = tuple(f"relu{block}_{n}" for block, count in enumerate(_COUNTS, 1) for n in range(1, count + 1))
"""The sixteen layers that can be asked for, in order: ``relu1_1`` to ``relu5_4``."""


class Vgg19(nn.Module):
    """The convolutions of VGG-19 up to a layer, with their activations.

    Args:
        last: One of `LAYERS`; what lies beyond it is not built.
        pooling: ``max`` as it was trained, or ``average``, which gives smoother pictures when they are
            optimised (Gatys et al., CVPR 2016, section 2).
        round_up: Whether pooling keeps the last row and column of an odd size, as if they were there twice;
            as it was trained, it leaves them out.

    Raises:
        UsageError: There is no such layer or pooling.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, last: str, pooling: str = "max", *, round_up: bool = False) -> None:
        super().__init__()
        check_layer(last)
        if pooling not in POOLINGS:
            raise UsageError(f"pooling is {pooling!r}; allowed are {', '.join(POOLINGS)}")
        self.last = last
        self.pooling = pooling
        self.round_up = round_up
        self.convolutions = nn.ModuleDict()
        before = 3
        for layer in LAYERS[: LAYERS.index(last) + 1]:
            after = channels(layer)
            self.convolutions[layer] = nn.Conv2d(before, after, 3, padding=1)
            before = after
        # No weights: a state dict holds what was trained alone.
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that `forward` gives, in order."""
        return tuple(self.convolutions)

    def forward(self, pictures: Tensor, until: str | None = None) -> dict[str, Tensor]:
        """Compute the features of pictures.

        Args:
            pictures: float[N, 3, H, W] RGB in [0, 1]; H and W at least `smallest_size` of `last`. They are
                normalised with ImageNet's mean and standard deviation here.
            until: The last layer to compute; by default `last`.

        Returns:
            By layer, float[N, C, H / s, W / s] where s doubles with each block; sizes round down, or up.
        """
        features = (pictures - self.mean) / self.std
        found: dict[str, Tensor] = {}
        for layer, convolution in self.convolutions.items():
            if layer.endswith("_1") and found:
                features = self._pool(features)
            features = F.relu(convolution(features))
            found[layer] = features
            if layer == until:
                break
        return found

    @torch.no_grad()
    def rescale(self, pictures: Tensor) -> None:
        """Scale the weights so that all layers have features of about unit size for some pictures.

        Files of VGG-19 differ here by factors of hundreds, which learning on top of the features would feel. ReLU
        and pooling let factors through (Gatys et al., CVPR 2016, section 2); these are powers of two, so that
        nothing is rounded. The root mean square of each layer comes to lie between 0.7 and 1.42.

        Args:
            pictures: float[N, 3, H, W] in [0, 1].
        """
        before = 0
        for layer, features in self(pictures).items():
            size = float(features.float().square().mean().sqrt())
            exponent = round(math.log2(size)) if size > 0 else 0
            convolution = self.convolutions[layer]
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            convolution.weight.mul_(2.0 ** (before - exponent))
            convolution.bias.mul_(2.0**-exponent)
            before = exponent

    def _pool(self, features: Tensor) -> Tensor:
        pool = F.max_pool2d if self.pooling == "max" else F.avg_pool2d
        return pool(features, 2, ceil_mode=self.round_up)


def check_layer(layer: str) -> None:
    """Raise a `UsageError` where VGG-19 has no such layer."""
    if layer not in LAYERS:
        raise UsageError(f"VGG-19 has no layer {layer!r}; it has {', '.join(LAYERS)}")


def channels(layer: str) -> int:
    """The channels of a layer's features."""
    return _WIDTHS[_block(layer) - 1]


def smallest_size(layer: str) -> int:
    """The height and width in pixels below which a layer has no features; also what they shrink by."""
    return 1 << (_block(layer) - 1)


def load_vgg19(
    path: Path | None, last: str, pooling: str = "max", *, progress: Progress | None = None
) -> Vgg19:
    """VGG-19 with the weights that ImageNet gave it: frozen, float32, on the CPU.

    Args:
        path: A safetensors or .pth file with torchvision's names (``features.0.weight`` or ``0.weight``; a
            ``classifier`` is ignored). It may end early where it has all layers up to `last`. `None`:
            torchvision's own file, fetched once into the user's cache.
        last: The last layer that is wanted, one of `LAYERS`.
        pooling: One of `POOLINGS`.
        progress: Told of a download.

    Raises:
        UsageError: There is no such layer or pooling.
        GantkError: The file cannot be had or read, lacks a layer, is of another network, or has weights that
            are not finite.
    """
    network = Vgg19(last, pooling)
    path = path or fetch(progress)
    weights = _weights(path)
    _check_complete(weights, network, path)
    wanted = {name: weights[name].float() for name in network.state_dict()}
    check_finite(wanted, path)
    network.load_state_dict(wanted)
    return network.eval().requires_grad_(False)


def last_layer(path: Path | None, *, progress: Progress | None = None) -> str:
    """The last layer up to which a file of weights has all; `path` and the errors are as for `load_vgg19`."""
    if path is None:
        fetch(progress)
        return LAYERS[-1]
    weights = _weights(path)
    have = [f"convolutions.{layer}.weight" in weights for layer in LAYERS]
    count = have.index(False) if False in have else len(LAYERS)
    if count == 0:
        raise _not_vgg(path)
    return LAYERS[count - 1]


def fetch(progress: Progress | None = None) -> Path:
    """torchvision's file of weights: from the user's cache, from that of `torch.hub`, or from `URL`.

    What is not in the cache is checked by its hash; a damaged copy of `torch.hub` is passed by.

    Raises:
        GantkError: It cannot be fetched or kept, or what came is another file.
    """
    name = URL.rpartition("/")[2]
    kept = cache_folder() / name
    if kept.is_file():
        return kept
    hub = Path(torch.hub.get_dir()) / "checkpoints" / name
    if hub.is_file() and _sha256(hub).startswith(HASH):
        return hub
    digest = hashlib.sha256()
    with replacing(kept) as partial, partial.open("wb") as stream:
        for chunk in _download(progress):
            digest.update(chunk)
            stream.write(chunk)
        if not digest.hexdigest().startswith(HASH):
            raise GantkError(
                f"what came from {URL} is not the VGG-19 file: its SHA-256 begins {digest.hexdigest()[:8]}, "
                f"not {HASH}",
                where=URL,
                hint="try again, or give the weights with --vgg FILE",
            )
    return kept


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(progress: Progress | None) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(URL, timeout=30) as response:
            total, done = int(response.headers.get("Content-Length") or 0), 0
            while chunk := response.read(2**20):
                done += len(chunk)
                if progress is not None:
                    progress(done, max(total, done))
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise GantkError(
            f"the VGG-19 weights cannot be fetched: {reason}",
            where=URL,
            hint="fetch the file (548 MB) where there is a network, and give it with --vgg FILE",
        ) from error


def _block(layer: str) -> int:
    check_layer(layer)
    return int(layer[4])


def _weights(path: Path) -> dict[str, Tensor]:
    """The file's convolutions, by their names in `Vgg19`."""
    tensors = read_state_dict(path)
    found = {}
    for layer, index in zip(LAYERS, _indices(), strict=True):
        for kind in ("weight", "bias"):
            for name in (f"features.{index}.{kind}", f"{index}.{kind}"):
                if name in tensors:
                    found[f"convolutions.{layer}.{kind}"] = tensors[name]
    return found


def _indices() -> Iterator[int]:
    """Where torchvision has the convolutions among activations (one after each) and poolings (after a block)."""
    index = 0
    for count in _COUNTS:
        yield from range(index, index + 2 * count, 2)
        index += 2 * count + 1


def _check_complete(weights: dict[str, Tensor], network: Vgg19, path: Path) -> None:
    wanted = network.state_dict()
    if f"convolutions.{LAYERS[0]}.weight" not in weights:
        raise _not_vgg(path)
    lacking = [layer for layer in network.layers if f"convolutions.{layer}.weight" not in weights]
    if lacking:
        last = LAYERS[LAYERS.index(lacking[0]) - 1]
        raise GantkError(
            f"`{path.name}` lacks the layers {', '.join(lacking)} of VGG-19; its last is {last}",
            where=str(path),
            hint=f"choose layers up to {last}, or give a whole file with --vgg FILE",
        )
    for name, tensor in wanted.items():
        if name not in weights or weights[name].shape != tensor.shape:
            has = list(weights[name].shape) if name in weights else "nothing"
            raise GantkError(
                f"`{path.name}` is of another network than VGG-19: {name.partition('.')[2]} is {has}, "
                f"not {list(tensor.shape)}",
                where=str(path),
                hint="weights with torchvision's names of vgg19 are wanted, without batch normalisation",
            )


def _not_vgg(path: Path) -> GantkError:
    return GantkError(
        f"`{path.name}` holds no VGG-19: it has neither features.0.weight nor 0.weight",
        where=str(path),
        hint="weights with torchvision's names of vgg19 are wanted",
    )
