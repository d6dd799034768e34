# SPDX-License-Identifier: Apache-2.0
"""How Hopper's Gram kernels (`gram_sm90.cu`) cut layers up. Twin of `gantk/kernels/gram_sm90.hpp`.

They take what the copy engine can: features of 16 bits or as TF32 that are dense along places, those of 16 bits also
along channels, with pitches that are multiples of 16 bytes. Others, and exact float32, keep the kernels of
`gram_variants`: 3xTF32 would need every feature split into two in shared memory before `wgmma`, which reads both
operands there, could multiply it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gantk.kernels.gram_variants import Variant
from gantk.kernels.launch import ELEMENT_BYTES, Device, Features, Launch, TensorMap
from gantk.kernels.parameters import FeatureMap, GramLayer, GramSm90Parameters

TILE = 64  # Partial sums are in tiles of 64 x 64, whatever a block's piece is.
THREADS = 384
SHARED_BYTES = 24 * 64 * 128 + 1024  # The ring, and what aligns it.

_ROW_BYTES = 128  # Of a channel, in one step.
_MOST_SLICE = 2**30
_MOST_PLACES = 2**31 - 256  # Coordinates are 32 bits, and the last step may begin that far out.
_NAMES = {"float32": "tf32", "float16": "f16", "bfloat16": "bf16"}
# Picoseconds on an H100, only to weigh plans: 1 KiB of features at a multiprocessor's share of memory's and of L2's
# rate; 64 partial sums written and read, whole GPU; what a block costs beside.
_MEMORY_PS, _L2_PS, _PARTIAL_PS, _BLOCK_PS = 31_400, 24_000, 150, 3_000_000
_HALF_WAVES = (1, 2, 4, 6, 8)  # Blocks for every two multiprocessors.


@dataclass(frozen=True)
class Sm90Cut:
    """How a layer is cut up.

    Args:
        pieces: Blocks of a slice.
        slice: Places of a block.
        blocks: Slices.
        splits: Sums of each tile; with at most 64 channels a block has two.
    """

    pieces: int
    slice: int
    blocks: int
    splits: int


def takes(features: Features, device: Device, precision: str) -> bool:
    """Whether Hopper's kernels compute a layer."""
    return (
        device.compute_capability == (9, 0)
        and device.shared_bytes >= SHARED_BYTES
        and (features.dtype != "float32" or precision == "tf32")
        and features.alignment == 16
        and features.shape[2] <= _MOST_PLACES
        and layout_of(features) is not None
    )


def layout_of(features: Features) -> str | None:
    """How the copy engine and `wgmma` can read features: along places or, of 16 bits, along channels."""
    if _are_lines(features, 2):
        return "nchw"
    return "nhwc" if features.dtype != "float32" and _are_lines(features, 1) else None


def _are_lines(features: Features, dense: int) -> bool:
    """Whether features are dense along an axis, and all others' pitches multiples of 16 bytes."""
    size = ELEMENT_BYTES[features.dtype]
    pitches = [features.strides[axis] * size for axis in (0, 3 - dense) if features.shape[axis] > 1]
    is_dense = features.strides[dense] == 1 or features.shape[dense] == 1
    return is_dense and all(pitch % 16 == 0 and 0 < pitch < 2**40 for pitch in pitches)


def variant_of(features: Features) -> Variant:
    """The kernel of a layer that it takes; that plans weigh its slices here leaves no costs to say there."""
    kernel = f"gantk_gram_sm90_{_NAMES[features.dtype]}_{layout_of(features)}"
    step = _ROW_BYTES // ELEMENT_BYTES[features.dtype]
    return Variant("gram_sm90", kernel, TILE, step, THREADS, SHARED_BYTES, 1, 0, 0)


def step_of(features: Features) -> int:
    """Places that a block takes at a time; slices are multiples."""
    return _ROW_BYTES // ELEMENT_BYTES[features.dtype] * (2 if features.shape[1] <= TILE else 1)


def tiles_of(features: Features) -> int:
    """Of the partial sums of a split, 64 x 64."""
    rows = -(-features.shape[1] // TILE)
    return rows * (rows + 1) // 2


def cut(layers: Sequence[Features], device: Device, pictures: int) -> list[Sm90Cut]:
    """Slices with which blocks of all layers take about as long; of so many that the whole is fastest.

    Half as many blocks as multiprocessors can be best: they share the memory's rate, and leave half the partial sums.
    """
    best: list[Sm90Cut] = []
    least = 0
    for half_waves in _HALF_WAVES:
        room = max(1, device.multiprocessors * half_waves // (2 * pictures))
        busy = min(device.multiprocessors, room * pictures)
        steps_ps = [_step_ps(layer, busy, device.multiprocessors) for layer in layers]
        cuts = _within(layers, steps_ps, room)
        waves = -(-sum(each.pieces * each.blocks for each in cuts) * pictures // device.multiprocessors)
        longest = max(
            each.slice // step_of(layer) * step_ps
            for each, layer, step_ps in zip(cuts, layers, steps_ps, strict=True)
        )
        sums = sum(tiles_of(layer) * TILE * each.splits for each, layer in zip(cuts, layers, strict=True))
        cost = waves * (longest + _BLOCK_PS) + sums * pictures * _PARTIAL_PS
        if not best or cost < least:
            best, least = cuts, cost
    return best


def launch(
    layers: Sequence[Features], cuts: Sequence[Sm90Cut], filled: Sequence[GramLayer], pictures: int
) -> Launch:
    """The launch of the partial sums of some pictures.

    Args:
        layers: Of one type.
        cuts: Of each, as `cut` made them.
        filled: Of each; `first_block` is set here.
        pictures: From the first that `filled` points to.
    """
    parameters = GramSm90Parameters()
    maps, blocks = [], 0
    for index, (features, made, one) in enumerate(zip(layers, cuts, filled, strict=True)):
        one.first_block = blocks
        blocks += made.pieces * made.blocks
        parameters.gram.layers[index] = one
        maps.append(_map(features, one.features, pictures, index))
    parameters.gram.count = len(layers)
    variant = variant_of(layers[0])
    grid, block = (blocks, pictures, 1), (THREADS, 1, 1)
    return Launch(variant.unit, variant.kernel, grid, block, SHARED_BYTES, parameters, tuple(maps))


def _map(features: Features, address: int, pictures: int, index: int) -> TensorMap:
    size, (_, channels, places) = ELEMENT_BYTES[features.dtype], features.shape
    last = layout_of(features) == "nhwc"
    across, lines = (channels, places) if last else (places, channels)
    stride = features.strides[2 if last else 1]
    pitch = stride * size if lines > 1 else -(-across * size // 16) * 16
    picture = features.strides[0] * size if features.shape[0] > 1 else pitch * lines
    return TensorMap(
        offset=GramSm90Parameters.maps.offset + index * FeatureMap.words.size,
        address=address,
        element="tfloat32" if features.dtype == "float32" else features.dtype,
        sizes=(across, lines, pictures),
        strides_bytes=(pitch, picture),
        box=(_ROW_BYTES // size, TILE if last or channels <= TILE else 2 * TILE, 1),
        swizzle=128,
    )


def _pieces(features: Features) -> int:
    """Of the lower triangle: the diagonal's bands of 256 channels, and 128 x 256 below them."""
    bands, rows = -(-features.shape[1] // 256), -(-features.shape[1] // 128)
    return bands + bands * (bands - 1) - (2 * bands - rows) * (bands - 1)


def _steps(features: Features) -> int:
    return -(-features.shape[2] // step_of(features))


def _step_ps(features: Features, busy: int, multiprocessors: int) -> int:
    """About how long a step of a layer's slowest piece takes: its products, or its features on the way."""
    channels = features.shape[1]
    # One that has the others' share too draws at most 5/3 of its own, 32 bytes a cycle.
    share, whole = max(5 * busy, 3 * multiprocessors), 5 * multiprocessors
    if channels <= 64:
        return max(150_000, channels * _MEMORY_PS // 4 * share // whole)
    if channels <= 128:
        return max(225_000, channels * _MEMORY_PS // 8 * share // whole)
    if channels <= 256:
        return max(750_000, channels * _MEMORY_PS // 8 * share // whole)
    return max(750_000, 48 * _L2_PS * share // whole)


def _within(layers: Sequence[Features], steps_ps: Sequence[int], room: int) -> list[Sm90Cut]:
    """The shortest blocks of which there are no more than that; one slice of each layer where nothing helps."""
    work = list(zip(layers, steps_ps, strict=True))

    def fits(block_ps: int) -> bool:
        return sum(_pieces(layer) * _cut(layer, step_ps, block_ps).blocks for layer, step_ps in work) <= room

    low, high = 1, max(_steps(layer) * step_ps for layer, step_ps in work)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return [_cut(layer, step_ps, low) for layer, step_ps in work]


def _cut(features: Features, step_ps: int, block_ps: int) -> Sm90Cut:
    """Slices that take no longer than that, or one step; as even as steps allow."""
    steps, step = _steps(features), step_of(features)
    most = min(max(1, block_ps // step_ps), _MOST_SLICE // step)
    each = -(-steps // -(-steps // most))
    blocks = -(-steps // each)
    return Sm90Cut(_pieces(features), each * step, blocks, blocks * (2 if features.shape[1] <= TILE else 1))
