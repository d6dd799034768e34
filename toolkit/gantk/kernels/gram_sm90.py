# SPDX-License-Identifier: Apache-2.0
"""How Hopper's Gram kernels (`gram_sm90.cu`) cut layers up. Twin of `gantk/kernels/gram_sm90.hpp`.

They take what the copy engine can: dense NCHW features whose rows are multiples of 16 bytes, of 16 bits or as TF32.
Others, and exact float32, keep the kernels of `gram_variants`: 3xTF32 would need every feature split into two in
shared memory before `wgmma`, which reads both operands there, could multiply it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gantk.kernels.launch import ELEMENT_BYTES, Device, Features, Launch, TensorMap
from gantk.kernels.parameters import FeatureMap, GramLayer, GramSm90Parameters

TILE = 64  # Partial sums are in tiles of 64 x 64, whatever a block's piece is.
THREADS = 384
SHARED_BYTES = 24 * 64 * 128 + 1024  # The ring, and what aligns it.

_ROW_BYTES = 128  # Of a channel, in one step.
_MOST_SLICE = 2**30
_MOST_PLACES = 2**31 - 256  # Coordinates are 32 bits, and the last step may begin that far out.
_NAMES = {"float32": "tf32", "float16": "f16", "bfloat16": "bf16"}
# Picoseconds on an H100, only to weigh: 1 KiB of features at a multiprocessor's share of memory's and of L2's rate,
# and the products of a step; what a block costs beside.
_MEMORY_PS, _L2_PS, _TRIANGLE_PS, _BLOCK_PS = 31_400, 24_000, 750_000, 3_000_000


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
    size = ELEMENT_BYTES[features.dtype]
    count, channels, places = features.shape
    pitches = [features.strides[axis] * size for axis, length in ((0, count), (1, channels)) if length > 1]
    return (
        device.compute_capability == (9, 0)
        and device.shared_bytes >= SHARED_BYTES
        and (size == 2 or precision == "tf32")
        and (features.strides[2] == 1 or places == 1)
        and features.alignment == 16
        and all(pitch % 16 == 0 and 0 < pitch < 2**40 for pitch in pitches)
        and places <= _MOST_PLACES
    )


def kernel_of(features: Features) -> str:
    """The kernel's name."""
    return f"gantk_gram_sm90_{_NAMES[features.dtype]}"


def step_of(features: Features) -> int:
    """Places that a block takes at a time; slices are multiples."""
    return _ROW_BYTES // ELEMENT_BYTES[features.dtype] * (2 if features.shape[1] <= TILE else 1)


def cut(layers: Sequence[Features], device: Device, pictures: int) -> list[Sm90Cut]:
    """Slices with which a block of any layer takes about as long, one block a multiprocessor where work allows."""
    room = max(1, device.multiprocessors // pictures)
    low, high = 1, max(_steps(layer) * _step_ps(layer) for layer in layers)
    while low < high:
        middle = (low + high) // 2
        fits = sum(_pieces(layer) * _slices(layer, middle) for layer in layers) <= room
        low, high = (low, middle) if fits else (middle + 1, high)
    return [_cut(layer, low) for layer in layers]


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
    kernel, grid = kernel_of(layers[0]), (blocks, pictures, 1)
    return Launch("gram_sm90", kernel, grid, (THREADS, 1, 1), SHARED_BYTES, parameters, tuple(maps))


def _map(features: Features, address: int, pictures: int, index: int) -> TensorMap:
    size, (_, channels, places) = ELEMENT_BYTES[features.dtype], features.shape
    row = features.strides[1] if channels > 1 else -(-places * size // 16) * 16 // size
    picture = features.strides[0] if features.shape[0] > 1 else row * channels
    return TensorMap(
        offset=GramSm90Parameters.maps.offset + index * FeatureMap.words.size,
        address=address,
        element="tfloat32" if features.dtype == "float32" else features.dtype,
        sizes=(places, channels, pictures),
        strides_bytes=(row * size, picture * size),
        box=(_ROW_BYTES // size, TILE if channels <= TILE else 2 * TILE, 1),
        swizzle=128,
    )


def _pieces(features: Features) -> int:
    """Of the lower triangle: the diagonal's bands of 256 channels, and 128 x 256 below them."""
    bands, rows = -(-features.shape[1] // 256), -(-features.shape[1] // 128)
    return bands + bands * (bands - 1) - (2 * bands - rows) * (bands - 1)


def _steps(features: Features) -> int:
    return -(-features.shape[2] // step_of(features))


def _step_ps(features: Features) -> int:
    """About how long a step of a layer's slowest piece takes, when all multiprocessors are busy."""
    channels = features.shape[1]
    if channels <= 128:
        return 16 * _MEMORY_PS
    if channels <= 256:
        return max(_TRIANGLE_PS, channels * _MEMORY_PS // 8)
    return 48 * _L2_PS


def _slices(features: Features, block_ps: int) -> int:
    """Blocks along the places that take no longer than that, as near as one step."""
    return -(-_steps(features) // max(1, block_ps // _step_ps(features)))


def _cut(features: Features, block_ps: int) -> Sm90Cut:
    steps, step = _steps(features), step_of(features)
    each = max(-(-steps // _slices(features, block_ps)), 1)  # As even as steps allow.
    each = min(each, _MOST_SLICE // step)
    blocks = -(-steps // each)
    return Sm90Cut(_pieces(features), each * step, blocks, blocks * (2 if features.shape[1] <= TILE else 1))
