# SPDX-License-Identifier: Apache-2.0
"""Chooses kernels and tiles for the gradient of Gram matrices and of the style loss.

Twin of `gantk/kernels/gram_gradient_plan.hpp`. Up to eight layers are two launches: the slopes
``S = factor * upstream * (dG + dG^T)`` of all, then ``dF = S F`` of all; one more of each where layers need different
kernels. All arithmetic is in integers, and the same in C++.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gantk.errors import GantkError, UsageError
from gantk.kernels.launch import ELEMENT_BYTES, PRECISIONS, Device, Features, Launch
from gantk.kernels.parameters import MAX_GRADIENT_LAYERS, GramGradientLayer, GramGradientParameters

MOST_CHANNELS = 65536
MOST_PICTURES = 65535  # Of a launch, along y of its grid.
WORKSPACE_BYTES = 2**27  # Wanted at most; pictures beyond come in further launches.

_THREADS = 256
_STRIP_ROWS = 8  # Of the slopes, in a block.
_PLACES = 128  # Of a tile; the kernel without tensor cores has 64.
_STEP_BYTES = 128  # Of the channels that are summed over at a time.
_STAGE_BYTES = _PLACES * _STEP_BYTES
_MOST_SPAN = 16  # Tiles of a block, one after the other.
_MOST_BLOCKS = 2**31 - 1
_RESERVED_BYTES = 1024  # Of shared memory, for each block.
_ALIGNMENT = 256
_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class GradientStyle:
    """What turns the differences of a style loss into the gradient of its Gram matrices.

    Args:
        weights: Of each layer.
        upstream: Address of float32[N], the gradient with respect to each picture's loss.
        upstream_stride: Elements between two of them, 0 where all are the same.
    """

    weights: Sequence[float]
    upstream: int
    upstream_stride: int = 1


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


@dataclass(frozen=True)
class GramGradientPlan:
    """How to launch the gradient of layers of certain shapes.

    Args:
        layers: In the order given.
        pictures: N.
        at_once: Pictures of a launch.
        workspace_bytes: Wanted, at a multiple of 256.
    """

    layers: tuple[GradientLayerPlan, ...]
    pictures: int
    at_once: int
    workspace_bytes: int

    def launches(
        self,
        gradients: Sequence[int],
        features: Sequence[int],
        results: Sequence[int],
        workspace: int,
        *,
        scales: Sequence[float] | None = None,
        gradient_strides: Sequence[tuple[int, int, int]] | None = None,
        style: GradientStyle | None = None,
    ) -> tuple[Launch, ...]:
        """Launches, to be run in order.

        Args:
            gradients: Addresses of each layer's float32[N, C, C]: the gradient of the Gram matrices or, with `style`,
                their differences to the targets.
            features: Addresses of each layer's first element.
            results: Addresses of each layer's gradient.
            workspace: Address of `workspace_bytes` bytes.
            scales: Of each layer's Gram matrix; by default 1 / K.
            gradient_strides: Of each of `gradients`, between pictures, rows and columns, in elements; by default
                dense.
            style: For the gradient of a style loss.
        """
        count = len(self.layers)
        assert len(gradients) == len(features) == len(results) == count, "each layer has one of each"
        launches: list[Launch] = []
        for first in range(0, self.pictures, self.at_once):
            filled = []
            for index, layer in enumerate(self.layers):
                one = _common(layer, features[index], results[index], workspace, first)
                channels, places = layer.features.shape[1:]
                strides = gradient_strides[index] if gradient_strides else (channels**2, channels, 1)
                one.gradient_batch_stride, one.gradient_row_stride, one.gradient_column_stride = strides
                one.gradient = gradients[index] + first * strides[0] * 4
                factor = scales[index] if scales else 1.0 / places
                if style is not None:
                    factor *= 2.0 * style.weights[index] / channels**2
                    one.upstream = style.upstream + first * style.upstream_stride * 4
                    one.upstream_stride = style.upstream_stride
                one.factor = factor
                filled.append(one)
            launches += self._chunk(filled, min(self.at_once, self.pictures - first))
        return tuple(launches)

    def _chunk(self, filled: list[GramGradientLayer], pictures: int) -> list[Launch]:
        """The launches of some pictures."""
        launches = []
        for slope in dict.fromkeys(layer.slope for layer in self.layers):
            own, strips = [], 0
            for one, layer in zip(filled, self.layers, strict=True):
                if layer.slope == slope:
                    one.first_strip = strips
                    strips += layer.strips
                    own.append(one)
            kernel = f"gantk_gram_slopes_{_NAMES[slope]}"
            launches.append(_launch("gram_gradient", kernel, strips, pictures, 0, own))
        for unit, kernel in dict.fromkeys((layer.unit, layer.kernel) for layer in self.layers):
            own, blocks, shared = [], 0, 0
            for one, layer in zip(filled, self.layers, strict=True):
                if layer.kernel == kernel:
                    one.first_block = blocks
                    blocks += layer.blocks
                    shared = max(shared, layer.shared_bytes)
                    own.append(one)
            launches.append(_launch(unit, kernel, blocks, pictures, shared, own))
        return launches


def plan_gram_gradient(
    layers: Sequence[Features],
    device: Device,
    precision: str = "exact",
    *,
    results: Sequence[Features] | None = None,
) -> GramGradientPlan:
    """Plan the gradient of one or more layers of the same pictures.

    Args:
        layers: The features, one to eight.
        device: The GPU.
        precision: Of float32 layers, one of `PRECISIONS`.
        results: How the gradients lie; by default dense, channels last where the features are.

    Raises:
        GantkError: There are no layers or too many, they differ in their pictures, or one has too many channels or
            places; a result has another shape or type than its features.
        UsageError: There is no such precision.
    """
    results = [dense_like(layer) for layer in layers] if results is None else results
    _check(layers, results, precision)
    pictures = layers[0].shape[0]
    kernels = [_with_kernel(*pair, device, precision) for pair in zip(layers, results, strict=True)]
    at_once = min(pictures, MOST_PICTURES)
    while True:
        plans = _spanned(kernels, device, at_once)
        placed, workspace_bytes = _placed(plans, at_once)
        if workspace_bytes <= WORKSPACE_BYTES or at_once == 1:
            return GramGradientPlan(placed, pictures, at_once, workspace_bytes)
        at_once = max(1, min(at_once - 1, at_once * WORKSPACE_BYTES // workspace_bytes))


def dense_like(features: Features) -> Features:
    """How the gradient of features lies: dense, channels last where they are."""
    last = features.strides[1] < features.strides[2]
    return (Features.channels_last if last else Features.contiguous)(features.dtype, *features.shape)


def _check(layers: Sequence[Features], results: Sequence[Features], precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"the precision is {precision!r}; allowed are {', '.join(PRECISIONS)}")
    if not 1 <= len(layers) <= MAX_GRADIENT_LAYERS or len(results) != len(layers):
        raise GantkError(
            f"there are {len(layers)} layers and {len(results)} results; 1 to {MAX_GRADIENT_LAYERS} go into one "
            "launch, and as many of each"
        )
    for layer, result in zip(layers, results, strict=True):
        if layer.shape[0] != layers[0].shape[0]:
            raise GantkError(
                f"layers are of {layers[0].shape[0]} and of {layer.shape[0]} pictures; as many are wanted"
            )
        if layer.shape[1] > MOST_CHANNELS:
            raise GantkError(f"features have {layer.shape[1]} channels; at most {MOST_CHANNELS} are allowed")
        if (result.dtype, result.shape) != (layer.dtype, layer.shape):
            raise GantkError(
                f"a result is {result.dtype} {list(result.shape)}; {layer.dtype} {list(layer.shape)} as the "
                "features is wanted"
            )


def _with_kernel(features: Features, result: Features, device: Device, precision: str) -> GradientLayerPlan:
    """The kernel of a layer, without its span."""
    channels = features.shape[1]
    layout = _layout(features)
    name = _NAMES[features.dtype]
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


def _spanned(layers: list[GradientLayerPlan], device: Device, pictures: int) -> list[GradientLayerPlan]:
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


def _placed(layers: list[GradientLayerPlan], pictures: int) -> tuple[tuple[GradientLayerPlan, ...], int]:
    """Layers with their parts of the workspace, and its size."""
    placed, end = [], 0
    for layer in layers:
        units = end + _whole(pictures * layer.rows * layer.columns * ELEMENT_BYTES[layer.slope], _ALIGNMENT)
        placed.append(replace(layer, slopes_offset=end, units_offset=units))
        end = units + (_whole(pictures * layer.rows * 4, _ALIGNMENT) if layer.slope == "float16" else 0)
    if sum(layer.blocks for layer in placed) > _MOST_BLOCKS:
        shapes = [list(layer.features.shape) for layer in placed]
        raise GantkError(f"features {shapes} want more blocks than a launch may have")
    return tuple(placed), end


def _whole(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _common(
    layer: GradientLayerPlan, features: int, result: int, workspace: int, first: int
) -> GramGradientLayer:
    """What does not depend on the gradient: features and result from picture `first` on, and how they are cut."""
    size = ELEMENT_BYTES[layer.features.dtype]
    one = GramGradientLayer()
    one.features = features + first * layer.features.strides[0] * size
    one.result = result + first * layer.result.strides[0] * size
    one.slopes = workspace + layer.slopes_offset
    one.units = workspace + layer.units_offset if layer.slope == "float16" else 0
    one.channels, one.places = layer.features.shape[1:]
    one.batch_stride, one.channel_stride, one.place_stride = layer.features.strides
    one.result_batch_stride, one.result_channel_stride, one.result_place_stride = layer.result.strides
    one.rows, one.columns, one.span, one.resident = layer.rows, layer.columns, layer.span, int(layer.resident)
    dense = 1 if layer.kernel.endswith("nhwc") else 2
    one.load_bytes = next(each for each in (16, 4, size) if _are_aligned(layer.features, dense, each))
    one.vectorised = int(layer.result.strides[dense] == 1 and _are_aligned(layer.result, dense, 4 * size))
    return one


def _are_aligned(features: Features, dense: int, size: int) -> bool:
    """Whether every row along an axis begins at a multiple of `size` bytes."""
    pitches = [features.strides[axis] for axis in (0, 3 - dense) if features.shape[axis] > 1]
    return features.alignment % size == 0 and all(
        pitch * ELEMENT_BYTES[features.dtype] % size == 0 for pitch in pitches
    )


def _launch(
    unit: str, kernel: str, blocks: int, pictures: int, shared: int, layers: list[GramGradientLayer]
) -> Launch:
    parameters = GramGradientParameters(count=len(layers))
    for index, layer in enumerate(layers):
        parameters.layers[index] = layer  # A copy.
    return Launch(unit, kernel, (blocks, pictures, 1), (_THREADS, 1, 1), shared, parameters)
