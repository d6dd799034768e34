# SPDX-License-Identifier: Apache-2.0
"""Cuts the layers of Gram matrices into tiles and slices: which are fastest. Part of `gram_plan`.

The triangle of a Gram matrix has few tiles, one where C <= 128, so that the places are cut into slices to occupy all
multiprocessors. Each slice costs a tile of partial sums, written and read; both are weighed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gantk.kernels import gram_sm90
from gantk.kernels.gram_variants import Variant, variant_of
from gantk.kernels.launch import Device, Features
from gantk.kernels.parameters import PATCH_SUMS

_MOST_SLICE = 2**30  # Places; kernels count them in 32 bits.
_WAVE_PS = 2_000_000  # To start a block and to end it, about.
_PARTIAL_PS = 150  # To write and to read a row of 64 partial sums, whole GPU.
_MANY_SPLITS = 64
_BLOCK_BYTES = 1024  # Of shared memory, which the system takes for each block.


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is cut up.

    Args:
        features: The layer.
        variant: The kernel of its partial sums.
        tiles: Of the lower triangle.
        slice: Places of a split.
        splits: Of the places.
        partial_offset: Of its partial sums in the workspace, in bytes.
        squares_offset: Of its sums of squares in the workspace, in bytes.
        hopper: How the blocks of a kernel of `gram_sm90` cut it up instead.
    """

    features: Features
    variant: Variant
    tiles: int
    slice: int
    splits: int
    partial_offset: int = 0
    squares_offset: int = 0
    hopper: gram_sm90.Sm90Cut | None = None

    @property
    def blocks(self) -> int:
        """Tiles of partial sums, for one picture; each a block's of the partial kernel, but on Hopper."""
        return self.tiles * self.splits

    @property
    def groups(self) -> int:
        """In which a block of the reduce kernel sums splits: many where they are, so that none waits for long."""
        return 8 if self.splits < _MANY_SPLITS else 32

    @property
    def patches(self) -> int:
        """Blocks of the reduce kernel, for one picture."""
        return self.tiles * (self.variant.tile**2 // PATCH_SUMS[self.groups])


def cut(
    layers: Sequence[Features], device: Device, precision: str, pictures: int, tile: int | None = None
) -> list[LayerPlan]:
    """Cut layers up, all of them in the same way, so that one launch does.

    Args:
        layers: Of the same pictures.
        device: The GPU.
        precision: Of float32 layers.
        pictures: Of a launch.
        tile: 64 or 128; by default Hopper's kernel where it can be, else the better of the two.
    """
    if tile is not None:
        return _with_tile(layers, device, precision, pictures, tile)
    if all(gram_sm90.takes(layer, device, precision) for layer in layers):
        return _on_hopper(layers, device, pictures)
    large = _with_tile(layers, device, precision, pictures, 128)
    small = _with_tile(layers, device, precision, pictures, 64)
    fits = all(layer.variant.stage_bytes * min(layer.tiles, 2) <= device.shared_bytes for layer in large)
    return large if fits and _cost(large, device, pictures) < _cost(small, device, pictures) else small


def _with_tile(
    layers: Sequence[Features], device: Device, precision: str, pictures: int, tile: int
) -> list[LayerPlan]:
    """The best slice, the same for all layers, of those that give each multiprocessor 1, 2, ... blocks."""
    uncut = []
    for features in layers:
        variant = variant_of(features, device, precision, tile)
        rows = -(-features.shape[1] // variant.tile)
        uncut.append(LayerPlan(features, variant, rows * (rows + 1) // 2, features.shape[2], 1))
    resident = _resident(uncut, device)
    best: list[LayerPlan] = []
    for each in range(1, 2 * resident + 1):
        size = _smallest_slice(uncut, pictures, each * device.multiprocessors)
        plans = [_sliced(layer, size) for layer in uncut]
        if not best or _cost(plans, device, pictures) < _cost(best, device, pictures):
            best = plans
    return best


def _on_hopper(layers: Sequence[Features], device: Device, pictures: int) -> list[LayerPlan]:
    plans = []
    for features, cut in zip(layers, gram_sm90.cut(layers, device, pictures), strict=True):
        variant = gram_sm90.variant_of(features)
        tiles = gram_sm90.tiles_of(features)
        plans.append(LayerPlan(features, variant, tiles, cut.slice, cut.splits, hopper=cut))
    return plans


def _resident(layers: list[LayerPlan], device: Device) -> int:
    """Blocks that a multiprocessor can hold; its shared memory is what one block may have and 1 KiB more."""
    strips = min(2, max(layer.tiles for layer in layers))
    fitting = [
        (device.shared_bytes + _BLOCK_BYTES) // (layer.variant.stage_bytes * strips + _BLOCK_BYTES)
        for layer in layers
    ]
    return max(1, min(fitting + [layer.variant.resident for layer in layers]))


def _smallest_slice(layers: list[LayerPlan], pictures: int, blocks: int) -> int:
    """The fewest places a slice with which there are no more blocks than that; all of them where nothing helps."""
    sizes = [(layer.tiles, layer.features.shape[2], layer.variant.step) for layer in layers]

    def is_enough(size: int) -> bool:
        return (
            sum(tiles * _slices(places, step, size)[1] for tiles, places, step in sizes) * pictures <= blocks
        )

    return _first(is_enough, 1, min(_MOST_SLICE, max(places for _, places, _ in sizes)))


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number from `low` to `high` that a condition holds for, which then holds for all larger ones."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high


def _sliced(layer: LayerPlan, size: int) -> LayerPlan:
    size, splits = _slices(layer.features.shape[2], layer.variant.step, size)
    return replace(layer, slice=size, splits=splits)


def _slices(places: int, step: int, size: int) -> tuple[int, int]:
    """Cut places into slices of about `size`, as even as whole steps allow; the size of one, and how many."""
    size = min(-(-size // step) * step, _MOST_SLICE)
    even = -(-places // -(-places // size))
    size = -(-even // step) * step
    return size, -(-places // size)


def _cost(layers: list[LayerPlan], device: Device, pictures: int) -> float:
    """About how long partial sums and reduction take, in picoseconds."""
    blocks = sum(layer.blocks for layer in layers) * pictures
    resident = _resident(layers, device)
    work = longest = rows = 0.0
    for layer in layers:  # In floats, which cannot overflow in C++ either; in the same order there.
        work += float(layer.tiles) * float(layer.features.shape[2]) * float(layer.variant.place_ps)
        longest = max(longest, float(layer.slice) * float(layer.variant.lone_place_ps))
        rows += float(layer.blocks) * float(layer.variant.tile**2 // 64)
    waves = float(-(-blocks // (device.multiprocessors * resident)))
    busiest = float(-(-blocks // device.multiprocessors))
    busy = work * float(pictures) * busiest / float(blocks)
    return max(busy, longest * waves) + waves * float(_WAVE_PS) + rows * float(pictures) * float(_PARTIAL_PS)
