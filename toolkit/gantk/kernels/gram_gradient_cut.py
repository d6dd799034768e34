# SPDX-License-Identifier: Apache-2.0
"""Chooses the kernel of each layer of a gradient, and how it is cut up. Part of `gram_gradient_plan`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gantk.errors import GantkError
from gantk.kernels.gram_variants import NAMES
from gantk.kernels.launch import ELEMENT_BYTES, Device, Features

_STRIP_ROWS = 8  # Of the slopes, in a block.
_PLACES = 128  # Of a tile; the kernel without tensor cores has 64.
_STEP_BYTES = 128  # Of the channels that are summed over at a time.
_STAGE_BYTES = _PLACES * _STEP_BYTES
_MOST_SPAN = 16  # Tiles of a block, one after the other.
_MOST_BLOCKS = 2**31 - 1
_RESERVED_BYTES = 1024  # Of shared memory, for each block.
_ALIGNMENT = 256


@dataclass(frozen=True)
class GradientLayerPlan:
    """How one layer is cut up.

    Args:
        features: F.
        result: dF.
        unit: The source file of the kernel that multiplies.
        kernel: Its name.
        slope: The element of the slopes, one of `ELEMENT_BYTES`.
        tile: Channels of a block.
        places: Places of a tile.
        rows: Of the slopes, C in whole tiles.
        columns: Of the slopes, C in whole steps.
        span: Tiles of places that a block goes through.
        resident: Whether a block's slopes stay in shared memory.
        shared_bytes: Of a block.
        slopes_offset: Of the slopes in the workspace, in bytes.
        units_offset: Of what float16 slopes were divided by.
    """

    features: Features
    result: Features
    unit: str
    kernel: str
    slope: str
    tile: int
    places: int
    rows: int
    columns: int
    span: int = 1
    resident: bool = True
    shared_bytes: int = 0
    slopes_offset: int = 0
    units_offset: int = 0

    @property
    def tiles(self) -> int:
        """Of a picture's result."""
        return self.rows // self.tile * -(-self.features.shape[2] // self.places)

    @property
    def blocks(self) -> int:
        """Of the kernel that multiplies, for one picture."""
        return self.rows // self.tile * -(-self.features.shape[2] // (self.places * self.span))

    @property
    def strips(self) -> int:
        """Blocks of the slopes' kernel, for one picture."""
        return self.rows // _STRIP_ROWS


def dense_like(features: Features) -> Features:
    """How the gradient of features lies: dense, channels last where they are."""
    last = features.strides[1] < features.strides[2]
    return (Features.channels_last if last else Features.contiguous)(features.dtype, *features.shape)


def with_kernel(features: Features, result: Features, device: Device, precision: str) -> GradientLayerPlan:
    """The kernel of a layer, without its span."""
    channels = features.shape[1]
    layout = _layout(features)
    name = NAMES[features.dtype]
    if layout is None or not _has_tensor_cores(features, device):
        kernel = f"gantk_gram_gradient_simt_{name}"
        padded = _whole(channels, 64)
        return GradientLayerPlan(features, result, "gram_gradient", kernel, "float32", 64, 64, padded, padded)
    size = ELEMENT_BYTES[features.dtype]
    tile = 64 if channels <= 64 else 128
    return GradientLayerPlan(
        features,
        result,
        unit="gram_gradient_half" if size == 2 else "gram_gradient_single",
        kernel=f"gantk_gram_gradient_{precision if size == 4 else name}_{layout}",
        slope=features.dtype,
        tile=tile,
        places=_PLACES,
        rows=_whole(channels, tile),
        columns=_whole(channels, _STEP_BYTES // size),
    )


def _layout(features: Features) -> str | None:
    """Along which axis neighbours lie; None: along neither."""
    nhwc = features.strides[1] == 1 or features.shape[1] == 1
    nchw = features.strides[2] == 1 or features.shape[2] == 1
    if nhwc and (features.strides[1] < features.strides[2] or not nchw):
        return "nhwc"
    return "nchw" if nchw else None


def _has_tensor_cores(features: Features, device: Device) -> bool:
    return device.compute_capability >= ((7, 5) if features.dtype == "float16" else (8, 0))


def spanned(layers: list[GradientLayerPlan], device: Device, pictures: int) -> list[GradientLayerPlan]:
    """Layers with spans that leave every multiprocessor eight blocks, and with what stays in shared memory."""
    tiles = sum(layer.tiles for layer in layers) * pictures
    span = max(1, min(_MOST_SPAN, tiles // (8 * device.multiprocessors)))
    return [_with_shared(layer, span, device) if layer.places == _PLACES else layer for layer in layers]


def _with_shared(layer: GradientLayerPlan, span: int, device: Device) -> GradientLayerPlan:
    stages = 3 if device.compute_capability >= (8, 0) else 2
    steps = layer.columns * ELEMENT_BYTES[layer.slope] // _STEP_BYTES
    slot = layer.tile * _STEP_BYTES
    passing = stages * (_STAGE_BYTES + slot)
    whole = stages * _STAGE_BYTES + steps * slot
    # Two blocks a multiprocessor where what must be there lets them.
    half = (device.shared_bytes + _RESERVED_BYTES) // 2 - _RESERVED_BYTES
    room = half if min(passing, whole) <= half else device.shared_bytes
    resident = steps <= stages or (span > 1 and whole <= room)
    return replace(layer, span=span, resident=resident, shared_bytes=whole if resident else passing)


def placed(layers: list[GradientLayerPlan], pictures: int) -> tuple[tuple[GradientLayerPlan, ...], int]:
    """Layers with their parts of the workspace, and its size."""
    found, end = [], 0
    for layer in layers:
        units = end + _whole(pictures * layer.rows * layer.columns * ELEMENT_BYTES[layer.slope], _ALIGNMENT)
        found.append(replace(layer, slopes_offset=end, units_offset=units))
        end = units + (_whole(pictures * layer.rows * 4, _ALIGNMENT) if layer.slope == "float16" else 0)
    if sum(layer.blocks for layer in found) > _MOST_BLOCKS:
        shapes = [list(layer.features.shape) for layer in found]
        raise GantkError(f"features {shapes} want more blocks than a launch may have")
    return tuple(found), end


def _whole(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def are_aligned(features: Features, dense: int, size: int) -> bool:
    """Whether every row along an axis begins at a multiple of `size` bytes."""
    pitches = [features.strides[axis] for axis in (0, 3 - dense) if features.shape[axis] > 1]
    return features.alignment % size == 0 and all(
        pitch * ELEMENT_BYTES[features.dtype] % size == 0 for pitch in pitches
    )
