# SPDX-License-Identifier: Apache-2.0
"""Chooses kernels and tiles for the gradient of Gram matrices and of the style loss.

Twin of `gantk/kernels/gram_gradient_plan.hpp`. Up to eight layers are two launches: the slopes
``S = factor * upstream * (dG + dG^T)`` of all, then ``dF = S F`` of all; one more of each where layers need different
kernels. All arithmetic is in integers, and the same in C++.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gantk.errors import GantkError, UsageError
from gantk.kernels.gram_gradient_cut import (
    GradientLayerPlan,
    are_aligned,
    dense_like,
    placed,
    spanned,
    with_kernel,
)
from gantk.kernels.gram_plan import MOST_CHANNELS, MOST_PICTURES, WORKSPACE_BYTES
from gantk.kernels.gram_variants import NAMES
from gantk.kernels.launch import ELEMENT_BYTES, PRECISIONS, Device, Features, Launch
from gantk.kernels.parameters import MAX_GRADIENT_LAYERS, GramGradientLayer, GramGradientParameters

_THREADS = 256


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
            kernel = f"gantk_gram_slopes_{NAMES[slope]}"
            launches.append(_launch("gram_gradient", kernel, strips, pictures, 0, own))
        for unit, kernel in dict.fromkeys((layer.unit, layer.kernel) for layer in self.layers):
            own, blocks, shared = [], 0, 0
            for one, layer in zip(filled, self.layers, strict=True):
                if layer.kernel == kernel:
                    one.first_block = blocks
                    blocks += layer.blocks
                    shared = max(shared, layer.shared_bytes)
                    own.append(one)
            launches.append(_launch(unit, kernel, blocks, pictures, shared, own, dependent=True))
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
    kernels = [with_kernel(*pair, device, precision) for pair in zip(layers, results, strict=True)]
    at_once = min(pictures, MOST_PICTURES)
    while True:
        plans = spanned(kernels, device, at_once)
        found, workspace_bytes = placed(plans, at_once)
        if workspace_bytes <= WORKSPACE_BYTES or at_once == 1:
            return GramGradientPlan(found, pictures, at_once, workspace_bytes)
        at_once = max(1, min(at_once - 1, at_once * WORKSPACE_BYTES // workspace_bytes))


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
    one.load_bytes = next(each for each in (16, 4, size) if are_aligned(layer.features, dense, each))
    one.vectorised = int(layer.result.strides[dense] == 1 and are_aligned(layer.result, dense, 4 * size))
    return one


def _launch(
    unit: str,
    kernel: str,
    blocks: int,
    pictures: int,
    shared: int,
    layers: list[GramGradientLayer],
    *,
    dependent: bool = False,
) -> Launch:
    parameters = GramGradientParameters(count=len(layers))
    for index, layer in enumerate(layers):
        parameters.layers[index] = layer  # A copy.
    grid, block = (blocks, pictures, 1), (_THREADS, 1, 1)
    return Launch(unit, kernel, grid, block, shared, parameters, dependent=dependent)
