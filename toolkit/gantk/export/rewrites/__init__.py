# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of float32 graphs: the same function from other operators, or in another layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from gantk.bundle import WHOLLY_NATIVE
from gantk.export.rewrites.blocks import narrow_to_blocks
from gantk.export.rewrites.channels_last import channels_last
from gantk.export.rewrites.eights import narrow_to_eights
from gantk.export.rewrites.enlarged import (
    enlarged_to_subpixel,
    enlarged_to_transposed,
    pointwise_before_enlargement,
)
from gantk.export.rewrites.filters import filters_to_depthwise
from gantk.export.rewrites.modulated import modulated_to_features
from gantk.export.rewrites.narrow import narrow_to_phases
from gantk.export.rewrites.native_bias import bias_relu_to_native
from gantk.export.rewrites.native_convolutions import (
    convolution_to_native,
    enlarged_to_native,
    transposed_to_native,
)
from gantk.export.rewrites.native_norm import normalization_to_native
from gantk.export.rewrites.native_picture import picture_to_native
from gantk.export.rewrites.normalized import normalization_in_half, normalized_bias
from gantk.export.rewrites.transposed import (
    narrow_transposed_to_subpixel,
    transposed_bias_apart,
    transposed_to_subpixel,
)
from gantk.export.rewrites.wholly_native import channels_last_to_native

REWRITES: dict[str, Callable[[ir.Model], int]] = {
    "modulated-to-features": modulated_to_features,
    "filters-to-depthwise": filters_to_depthwise,
    "normalized-bias": normalized_bias,
    "pointwise-before-enlargement": pointwise_before_enlargement,
    "narrow-transposed-to-subpixel": narrow_transposed_to_subpixel,
    "transposed-to-subpixel": transposed_to_subpixel,
    "transposed-to-native": transposed_to_native,
    "enlarged-to-transposed": enlarged_to_transposed,
    "enlarged-to-subpixel": enlarged_to_subpixel,
    "enlarged-to-native": enlarged_to_native,
    "convolution-to-native": convolution_to_native,
    "narrow-to-phases": narrow_to_phases,
    "narrow-to-blocks": narrow_to_blocks,
    "narrow-to-eights": narrow_to_eights,
    "picture-to-native": picture_to_native,
    "transposed-bias-apart": transposed_bias_apart,
    "bias-relu-to-native": bias_relu_to_native,
    "normalization-in-half": normalization_in_half,
    "normalization-to-native": normalization_to_native,
    "channels-last": channels_last,
    WHOLLY_NATIVE: channels_last_to_native,
}
"""What may make a graph faster; each returns how many places it changed."""

STEPS: tuple[tuple[str, ...], ...] = (
    ("modulated-to-features",),
    ("filters-to-depthwise",),
    ("normalized-bias",),
    ("pointwise-before-enlargement",),
    ("narrow-transposed-to-subpixel", "picture-to-native"),
    ("transposed-to-subpixel", "transposed-to-native"),
    ("enlarged-to-transposed", "enlarged-to-subpixel", "enlarged-to-native"),
    ("convolution-to-native",),
    ("narrow-to-phases", "narrow-to-blocks"),
    ("narrow-to-blocks",),  # What reads few channels, where phases were kept for what makes few.
    ("narrow-to-eights",),
    ("transposed-bias-apart", "bias-relu-to-native"),
    ("normalization-in-half", "normalization-to-native"),
    ("channels-last",),
)
"""The order of trial; of those in one step at most one is kept, and only where measured to pay: see
`gantk.export.rewritten`. `WHOLLY_NATIVE` is tried alone, against what came of these or where nothing else runs."""

_FOR_CPUS = ("transposed-to-native", "enlarged-to-native", "convolution-to-native")
_FOR_GPUS = (
    "normalized-bias",
    "narrow-to-blocks",
    "narrow-to-eights",
    "picture-to-native",
    "transposed-bias-apart",
    "bias-relu-to-native",
    "normalization-in-half",
    "normalization-to-native",
    "channels-last",
)

LAYOUTS = frozenset({"normalization-to-native", "channels-last"})
"""Those that change the layout that convolutions have on a GPU, and with it which of the alternatives before them is
the fastest: these are measured once more."""

NATIVE = frozenset(
    {*_FOR_CPUS, "picture-to-native", "bias-relu-to-native", "normalization-to-native", WHOLLY_NATIVE}
)
"""Those that only gain where gantk's native operators are."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_FOR_CPUS, ("fp32",)),
    **dict.fromkeys(
        ("narrow-to-blocks", "narrow-to-eights", "picture-to-native", "normalization-in-half"), ("fp16",)
    ),
    WHOLLY_NATIVE: ("fp32", "bf16"),
}
"""Of those that can gain in some precisions alone, which."""

ONLY_ON = {**dict.fromkeys(_FOR_CPUS, "cpu"), **dict.fromkeys(_FOR_GPUS, "cuda"), WHOLLY_NATIVE: "cpu"}
"""Of those that can gain on one kind of device alone, which. On a CPU a bias is added in passing, and registers hold
other numbers of channels; there are no native convolutions for GPUs, and on CPUs native normalisation alone is not for
the layout that convolutions have there."""


def rewrite(graph: ir.Model, names: Sequence[str]) -> ir.Model | None:
    """A copy of a graph with some of `REWRITES` applied, or `None` where one of them finds nothing to do."""
    copy = ir.from_proto(ir.to_proto(graph))
    return copy if all(REWRITES[name](copy) for name in names) else None
