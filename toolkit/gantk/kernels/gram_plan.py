# SPDX-License-Identifier: Apache-2.0
"""Chooses kernels, tiles and slices for Gram matrices and the style loss. Twin of `gantk/kernels/gram_plan.hpp`.

Up to eight layers are one launch of partial sums for each variant they need (mostly one), one of the reduction and,
for the style loss, one that adds up the squares. `gram_cut` chooses tiles and slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gantk.errors import GantkError
from gantk.kernels import gram_sm90
from gantk.kernels.gram_cut import LayerPlan, cut
from gantk.kernels.gram_variants import is_vectorised
from gantk.kernels.launch import Device, Features, Launch
from gantk.kernels.parameters import MAX_GRAM_LAYERS, GramLayer, GramParameters

REDUCE_THREADS = 256
MOST_CHANNELS = 65536  # A Gram matrix of 16 GiB.
MOST_PICTURES = 65535  # Of a launch, along y of its grid.
WORKSPACE_BYTES = 2**27  # Wanted at most; pictures beyond come in further launches.

_MOST_BLOCKS = 2**31 - 1
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
        stages = {"gantk_gram_reduce": patches, **({"gantk_gram_finish": 1} if self.style else {})}
        for kernel, blocks in stages.items():
            launches.append(
                Launch("gram", kernel, (blocks, pictures, 1), block, 0, parameters, dependent=True)
            )
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
        plans = cut(layers, device, precision, at_once, tile)
        placed, workspace_bytes = _placed(plans, at_once, style)
        if workspace_bytes <= WORKSPACE_BYTES or at_once == 1:
            return GramPlan(placed, pictures, at_once, style, workspace_bytes)
        at_once = max(1, min(at_once - 1, at_once * WORKSPACE_BYTES // workspace_bytes))


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
    one.groups = layer.groups
    one.vectorised = 1 if is_vectorised(given) else 2 if is_vectorised(given, 4) else 0
    return one


def _parameters(layers: list[GramLayer], loss: int) -> GramParameters:
    parameters = GramParameters(loss=loss, count=len(layers))
    for index, layer in enumerate(layers):
        parameters.layers[index] = layer  # A copy.
    return parameters
