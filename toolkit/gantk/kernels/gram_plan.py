# SPDX-License-Identifier: Apache-2.0
"""Chooses kernels, tiles and slices for Gram matrices and the style loss. Twin of `gantk/kernels/gram_plan.hpp`.

Up to eight layers are one launch of partial sums for each variant they need (mostly one), one of the reduction and,
for the style loss, one that adds up the squares. The triangle of a Gram matrix has few tiles, one where C <= 128, so
that the places are cut into slices to occupy all multiprocessors. Each slice costs a tile of partial sums, written
and read; the plan weighs both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gantk.errors import GantkError
from gantk.kernels import gram_sm90
from gantk.kernels.gram_variants import Variant, is_vectorised, variant_of
from gantk.kernels.launch import Device, Features, Launch
from gantk.kernels.parameters import MAX_GRAM_LAYERS, PATCH_COLUMNS, PATCH_ROWS, GramLayer, GramParameters

REDUCE_THREADS = 256
MOST_CHANNELS = 65536  # A Gram matrix of 16 GiB.
MOST_PICTURES = 65535  # Of a launch, along y of its grid.
WORKSPACE_BYTES = 2**27  # Wanted at most; pictures beyond come in further launches.

_MOST_SLICE = 2**30  # Places; kernels count them in 32 bits.
_MOST_BLOCKS = 2**31 - 1
_WAVE_PS = 2_000_000  # To start a block and to end it, about.
_PARTIAL_PS = 400  # To write and to read a row of 64 partial sums, whole GPU.
_ALIGNMENT = 256


@dataclass(frozen=True)
class GramTargets:
    """What makes the style loss of Gram matrices.

    Args:
        targets: Addresses of each layer's float32[C, C] or float32[N, C, C].
        strides: Elements between the targets of two pictures, C * C, or 0 where all have the same.
        weights: Of each layer, for the mean square of its C * C differences.
        loss: Address of float32[N].
    """

    targets: Sequence[int]
    strides: Sequence[int]
    weights: Sequence[float]
    loss: int


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
    def patches(self) -> int:
        """Blocks of the reduce kernel, for one picture."""
        return self.tiles * (self.variant.tile**2 // (PATCH_ROWS * PATCH_COLUMNS))


@dataclass(frozen=True)
class GramPlan:
    """How to launch the Gram matrices, or the style loss, of layers of certain shapes.

    Args:
        layers: In the order given.
        pictures: N.
        at_once: Pictures of a launch.
        style: Whether there are targets.
        workspace_bytes: Wanted, at a multiple of 256.
    """

    layers: tuple[LayerPlan, ...]
    pictures: int
    at_once: int
    style: bool
    workspace_bytes: int

    def launches(
        self,
        features: Sequence[int],
        grams: Sequence[int],
        workspace: int,
        *,
        scales: Sequence[float] | None = None,
        gram_strides: Sequence[int] | None = None,
        targets: GramTargets | None = None,
    ) -> tuple[Launch, ...]:
        """Launches, to be run in order.

        Args:
            features: Addresses of each layer's first element.
            grams: Addresses of each layer's float32[N, C, C]: the Gram matrices or, with targets, what they differ by.
            workspace: Address of `workspace_bytes` bytes.
            scales: Of each layer; by default 1 / K.
            gram_strides: Elements between two pictures of each of `grams`; by default C * C.
            targets: For a plan of the style loss.
        """
        count = len(self.layers)
        given = (features, grams, scales or grams, gram_strides or grams)
        assert all(len(values) == count for values in given), "each layer has one of each"
        assert (targets is not None) == self.style
        launches: list[Launch] = []
        for first in range(0, self.pictures, self.at_once):
            filled = []
            for index, layer in enumerate(self.layers):
                one = _common(layer, features[index], workspace, first)
                channels = layer.features.shape[1]
                one.scale = scales[index] if scales else 1.0 / layer.features.shape[2]
                one.gram_stride = gram_strides[index] if gram_strides else channels**2
                one.gram = grams[index] + first * one.gram_stride * 4
                if targets is not None:
                    one.target_stride = targets.strides[index]
                    one.target = targets.targets[index] + first * one.target_stride * 4
                    one.squares = workspace + layer.squares_offset
                    one.weight = targets.weights[index] / channels**2
                filled.append(one)
            loss = targets.loss + first * 4 if targets is not None else 0
            launches += self._chunk(filled, min(self.at_once, self.pictures - first), loss)
        return tuple(launches)

    def _chunk(self, filled: list[GramLayer], pictures: int, loss: int) -> list[Launch]:
        """The launches of some pictures: partial sums by variant, reduction, and the loss where there is one."""
        launches = []
        for variant in dict.fromkeys(layer.variant for layer in self.layers):
            own = [index for index, layer in enumerate(self.layers) if layer.variant == variant]
            cuts = [cut for index in own if (cut := self.layers[index].hopper)]
            if cuts:
                layers = [self.layers[index].features for index in own]
                launches.append(gram_sm90.launch(layers, cuts, [filled[index] for index in own], pictures))
                continue
            blocks = 0
            for index in own:
                filled[index].first_block = blocks
                blocks += self.layers[index].blocks
            shared = variant.stage_bytes * (2 if any(self.layers[index].tiles > 1 for index in own) else 1)
            parameters = _parameters([filled[index] for index in own], loss)
            grid, block = (blocks, pictures, 1), (variant.threads, 1, 1)
            launches.append(Launch(variant.unit, variant.kernel, grid, block, shared, parameters))
        patches = 0
        for one, layer in zip(filled, self.layers, strict=True):
            one.first_block = 0
            one.first_patch = patches
            patches += layer.patches
        parameters, block = _parameters(filled, loss), (REDUCE_THREADS, 1, 1)
        launches.append(Launch("gram", "gantk_gram_reduce", (patches, pictures, 1), block, 0, parameters))
        if self.style:
            launches.append(Launch("gram", "gantk_gram_finish", (1, pictures, 1), block, 0, parameters))
        return launches


def plan_gram(
    layers: Sequence[Features],
    device: Device,
    precision: str = "exact",
    *,
    style: bool = False,
    tile: int | None = None,
) -> GramPlan:
    """Plan the Gram matrices of one or more layers of the same pictures.

    Args:
        layers: One to eight.
        device: The GPU.
        precision: Of float32 layers, one of `PRECISIONS`.
        style: Plan the style loss.
        tile: 64 or 128 instead of the one that seems better, to measure or to test it.

    Raises:
        GantkError: There are no layers or too many, they differ in their pictures, or one has too many channels.
        UsageError: There is no such precision.
    """
    if not 1 <= len(layers) <= MAX_GRAM_LAYERS:
        raise GantkError(f"there are {len(layers)} layers; 1 to {MAX_GRAM_LAYERS} go into one launch")
    pictures = layers[0].shape[0]
    for layer in layers:
        if layer.shape[0] != pictures:
            raise GantkError(f"layers are of {pictures} and of {layer.shape[0]} pictures; as many are wanted")
        if layer.shape[1] > MOST_CHANNELS:
            raise GantkError(f"features have {layer.shape[1]} channels; at most {MOST_CHANNELS} are allowed")
    at_once = min(pictures, MOST_PICTURES)
    while True:
        if tile is None:
            plans = _cut(layers, device, precision, at_once)
        else:
            plans = _with_tile(layers, device, precision, at_once, tile)
        placed, workspace_bytes = _placed(plans, at_once, style)
        if workspace_bytes <= WORKSPACE_BYTES or at_once == 1:
            return GramPlan(placed, pictures, at_once, style, workspace_bytes)
        at_once = max(1, min(at_once - 1, at_once * WORKSPACE_BYTES // workspace_bytes))


def _cut(layers: Sequence[Features], device: Device, precision: str, pictures: int) -> list[LayerPlan]:
    """Hopper's kernel, or the better of small and of large tiles; the same for all layers, so that one launch does."""
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
    resident = min(layer.variant.resident for layer in uncut)
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
    resident = min(layer.variant.resident for layer in layers)
    work = longest = rows = 0.0
    for layer in layers:  # In floats, which cannot overflow in C++ either; in the same order there.
        work += float(layer.tiles) * float(layer.features.shape[2]) * float(layer.variant.place_ps)
        longest = max(longest, float(layer.slice) * float(layer.variant.lone_place_ps))
        rows += float(layer.blocks) * float(layer.variant.tile**2 // 64)
    waves = float(-(-blocks // (device.multiprocessors * resident)))
    busiest = float(-(-blocks // device.multiprocessors))
    busy = work * float(pictures) * busiest / float(blocks)
    return max(busy, longest * waves) + waves * float(_WAVE_PS) + rows * float(pictures) * float(_PARTIAL_PS)


def _placed(layers: list[LayerPlan], pictures: int, style: bool) -> tuple[tuple[LayerPlan, ...], int]:
    """Layers with their parts of the workspace, and its size."""
    placed, end = [], 0
    for layer in layers:
        squares = end + _aligned(pictures * layer.blocks * layer.variant.tile**2 * 4)
        placed.append(replace(layer, partial_offset=end, squares_offset=squares))
        end = squares + (_aligned(pictures * layer.patches * 4) if style else 0)
        if layer.blocks > _MOST_BLOCKS or layer.patches > _MOST_BLOCKS:
            raise GantkError(f"features {list(layer.features.shape)} want more blocks than a launch may have")
    return tuple(placed), end


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _common(layer: LayerPlan, features: int, workspace: int, first: int) -> GramLayer:
    """What does not depend on results: the features from picture `first` on, and how they are cut."""
    given = layer.features
    one = GramLayer()
    one.features = features + first * given.strides[0] * (4 if given.dtype == "float32" else 2)
    one.partial = workspace + layer.partial_offset
    one.channels, one.places = given.shape[1:]
    # Where there is one of something, its stride may be odd; kernels form addresses of what they do not read, too.
    strides = [0 if size == 1 else stride for size, stride in zip(given.shape, given.strides, strict=True)]
    one.batch_stride, one.channel_stride, one.place_stride = strides
    one.tile, one.tiles, one.splits, one.slice = layer.variant.tile, layer.tiles, layer.splits, layer.slice
    one.vectorised = int(is_vectorised(given))
    return one


def _parameters(layers: list[GramLayer], loss: int) -> GramParameters:
    parameters = GramParameters(loss=loss, count=len(layers))
    for index, layer in enumerate(layers):
        parameters.layers[index] = layer  # A copy.
    return parameters
