# SPDX-License-Identifier: Apache-2.0
"""Features, Gram matrices and gradients of large pictures in bounded memory, block by block in tiles.

Between two poolings VGG-19 has at most four 3 x 3 convolutions, so a tile with four more places on each side gives
the same features as the whole. What is kept of a picture is the input of each block; a block's features exist
one tile at a time, and are computed again for the gradient (Chen et al., arXiv 1604.06174, here with tiles).
Gram matrices and losses are sums over tiles; nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.gatys.objective import Objective, Style, add_variation, cast, sums_in
from gantk.models.vgg import Vgg19, channels
from gantk.ops import gram_matrix, gram_matrix_grad
from gantk.stylize.schedule import Losses

_ELEMENTS = 2**22
"""Of the features of one layer in a tile: 16 MiB in float32."""

Window = tuple[slice, slice]
Visit = Callable[[str, Tensor, Window, int], None]
"""Called with a layer, the features of a tile without its margin, where they lie, and how many places all have."""

Slope = Callable[[str, Tensor, Window, int], Tensor | None]
"""Called with the same, for the slope of the loss along these features; `None` where it does not depend on them."""


@dataclass(frozen=True)
class Tile:
    """A part of a block's input.

    Args:
        inner: What the tile stands for.
        outer: The same with a margin, as far as the picture goes.
        core: Where `inner` lies in `outer`.
        pooled: Where the tile lies in the next block's input.
    """

    inner: Window
    outer: Window
    core: Window
    pooled: Window


def blocks(network: Vgg19) -> list[tuple[str, ...]]:
    """The layers between poolings."""
    names = network.layers
    return [
        tuple(name for name in names if name[4] == number)
        for number in dict.fromkeys(name[4] for name in names)
    ]


def measure_in_tiles(objective: Objective, picture: Tensor) -> tuple[Losses, Tensor]:
    """What `gantk.gatys.loss.measure` gives, in bounded memory and half as long again."""
    network, dtype = objective.network, sums_in(objective.network)
    grams = [[torch.zeros_like(target) for target in style.targets] for style in objective.styles]
    content = picture.new_zeros((), dtype=torch.float64)

    def visit(layer: str, features: Tensor, window: Window, places: int) -> None:
        if layer in objective.content:
            wanted = objective.content[layer]
            difference = features.to(dtype) - wanted.target[:, :, window[0], window[1]]
            content.add_(difference.square().sum(dtype=torch.float64), alpha=wanted.coefficient)
        _add_grams(objective.styles, grams, layer, features, window, places)

    inputs = _forward(network, picture, visit)
    slopes, style = _style_slopes(objective.styles, grams)

    def slope(layer: str, features: Tensor, window: Window, places: int) -> Tensor | None:
        total: Tensor | None = None
        if layer in objective.content:
            wanted = objective.content[layer]
            total = (features - wanted.target[:, :, window[0], window[1]]) * (2 * wanted.coefficient)
        for term, of_term in zip(objective.styles, slopes, strict=True):
            if layer in term.layers:
                index = term.layers.index(layer)
                masked = term.masked(index, features, window)
                part = term.masked(index, gram_matrix_grad(of_term[index], masked, 1.0 / places), window)
                total = part if total is None else total + part
        return total

    gradient = _backward(network, inputs, slope)
    variation = add_variation(objective, picture, gradient)
    return Losses(float(content), style, variation), gradient


@torch.no_grad()
def compute_features(network: Vgg19, picture: Tensor, layers: set[str]) -> dict[str, Tensor]:
    """The features of some layers of a picture."""
    found: dict[str, Tensor] = {}

    def visit(layer: str, features: Tensor, window: Window, _: int) -> None:
        if layer in layers:
            if layer not in found:
                height, width = _layer_size(picture, layer)
                found[layer] = features.new_empty(1, features.shape[1], height, width)
            found[layer][:, :, window[0], window[1]] = features

    _forward(network, picture, visit)
    return found


@torch.no_grad()
def compute_grams(
    network: Vgg19, picture: Tensor, layers: tuple[str, ...], masks: list[Tensor] | None = None
) -> list[Tensor]:
    """The Gram matrices [C, C] of some layers of a picture, of a region where there are masks (see `Style`)."""
    counts = [channels(layer) for layer in layers]
    grams = [torch.zeros(count, count, device=picture.device, dtype=sums_in(network)) for count in counts]
    term = Style(layers, [], [], masks)
    _forward(network, picture, lambda *found: _add_grams((term,), [grams], *found))
    return grams


def _add_grams(
    styles: tuple[Style, ...],
    grams: list[list[Tensor]],
    layer: str,
    features: Tensor,
    window: Window,
    places: int,
) -> None:
    for term, of_term in zip(styles, grams, strict=True):
        if layer in term.layers:
            index = term.layers.index(layer)
            of_term[index] += gram_matrix(term.masked(index, features, window), 1.0 / places)[0]


def _style_slopes(styles: tuple[Style, ...], grams: list[list[Tensor]]) -> tuple[list[list[Tensor]], float]:
    """The slopes of the style loss along each Gram matrix [1, C, C], and the loss itself."""
    loss, slopes = 0.0, []
    for term, of_term in zip(styles, grams, strict=True):
        of_style = []
        for gram, target, coefficient in zip(of_term, term.targets, term.coefficients, strict=True):
            difference = gram - target
            loss += coefficient * float(difference.square().mean())
            of_style.append(difference[None] * (2 * coefficient / difference.numel()))
        slopes.append(of_style)
    return slopes, loss


@torch.no_grad()
def _forward(network: Vgg19, picture: Tensor, visit: Visit) -> list[Tensor]:
    """Show all features to `visit`, and return the input of each block."""
    inputs = [picture]
    order = blocks(network)
    for number, layers in enumerate(order):
        given, following = inputs[-1], None
        places = given.shape[2] * given.shape[3]
        for tile in _tiles(given, layers):
            found = _run(network, layers, given[:, :, tile.outer[0], tile.outer[1]], number == 0)
            for layer, features in found.items():
                visit(layer, features[:, :, tile.core[0], tile.core[1]], tile.inner, places)
            if number + 1 < len(order):
                pooled = _pool(network, found[layers[-1]][:, :, tile.core[0], tile.core[1]])
                if following is None:
                    following = _next_input(given, pooled)
                following[:, :, tile.pooled[0], tile.pooled[1]] = pooled
        if following is not None:
            inputs.append(following)
    return inputs


def _backward(network: Vgg19, inputs: list[Tensor], slope: Slope) -> Tensor:
    """The gradient along the picture, given the slopes along the features of each layer."""
    order = blocks(network)
    above: Tensor | None = None
    for number in reversed(range(len(order))):
        given = inputs.pop()
        gradient = torch.zeros_like(given)
        for tile in _tiles(given, order[number]):
            leaf = given[:, :, tile.outer[0], tile.outer[1]].detach().requires_grad_()
            with torch.enable_grad():
                found = _run(network, order[number], leaf, number == 0)
                cores = {
                    layer: features[:, :, tile.core[0], tile.core[1]] for layer, features in found.items()
                }
                ends, slopes = _slopes(cores, slope, tile, given.shape[2] * given.shape[3])
                if above is not None:
                    ends.append(_pool(network, cores[order[number][-1]]))
                    slopes.append(above[:, :, tile.pooled[0], tile.pooled[1]])
                (part,) = torch.autograd.grad(ends, leaf, slopes)
            gradient[:, :, tile.outer[0], tile.outer[1]] += part
        above = gradient
    assert above is not None
    return above


def _slopes(
    cores: dict[str, Tensor], slope: Slope, tile: Tile, places: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Those of a tile's features that have a slope, and these."""
    found = {layer: slope(layer, core.detach(), tile.inner, places) for layer, core in cores.items()}
    sloping = {layer: along for layer, along in found.items() if along is not None}
    return [cores[layer] for layer in sloping], [a.to(cores[layer].dtype) for layer, a in sloping.items()]


def _run(network: Vgg19, layers: tuple[str, ...], given: Tensor, first: bool) -> dict[str, Tensor]:
    """The features of one block, given its input; the first takes pictures."""
    features = given
    if first:
        features = (cast(given, network) - network.mean) / network.std
    found = {}
    for layer in layers:
        features = F.relu(network.convolutions[layer](features))
        found[layer] = features
    return found


def _pool(network: Vgg19, features: Tensor) -> Tensor:
    pool = F.max_pool2d if network.pooling == "max" else F.avg_pool2d
    return pool(features, 2)


def _next_input(given: Tensor, pooled: Tensor) -> Tensor:
    return torch.empty(
        (1, pooled.shape[1], given.shape[2] // 2, given.shape[3] // 2),
        dtype=pooled.dtype,
        device=pooled.device,
        memory_format=torch.channels_last,
    )


def _tiles(given: Tensor, layers: tuple[str, ...]) -> Iterator[Tile]:
    """Cut a block's input into tiles of even size, with a margin as wide as its convolutions reach."""
    side = max(2, int((_ELEMENTS / channels(layers[-1])) ** 0.5) // 2 * 2)
    margin, (height, width) = len(layers), given.shape[2:]
    for top in _starts(height, side):
        for left in _starts(width, side):
            spans = (_span(top, side, height, margin), _span(left, side, width, margin))
            yield Tile(*((rows, columns) for rows, columns in zip(*spans, strict=True)))


def _starts(size: int, side: int) -> range:
    # A last row alone would have nothing to pool: it belongs to the tile before.
    return range(0, max(size - 1, 1), side)


def _span(start: int, side: int, size: int, margin: int) -> tuple[slice, slice, slice, slice]:
    """Along one axis, the `Tile` that begins at `start`."""
    stop = start + side
    if stop + 1 >= size:
        stop = size
    first, last = max(start - margin, 0), min(stop + margin, size)
    inner, core = slice(start, stop), slice(start - first, stop - first)
    return inner, slice(first, last), core, slice(start // 2, stop // 2)


def _layer_size(picture: Tensor, layer: str) -> tuple[int, int]:
    shift = int(layer[4]) - 1
    return picture.shape[2] >> shift, picture.shape[3] >> shift
