# SPDX-License-Identifier: Apache-2.0
"""The structures that kernels are given, as ctypes; twins of `kernels/include/gantk/kernels/*_parameters.h`."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32, c_int64, c_uint32, c_uint64

MAX_GRAM_LAYERS = 8
PATCH_SUMS = {8: 128, 32: 32}  # Of a tile, what a block of the reduce kernel sums, by its groups of splits.
VARIATION_THREADS = 128  # Of every block.


class GramLayer(Structure):
    """One layer of `GramParameters`; the header says what each field means."""

    _fields_ = (
        ("features", c_uint64),
        ("partial", c_uint64),
        ("gram", c_uint64),
        ("target", c_uint64),
        ("squares", c_uint64),
        ("places", c_int64),
        ("batch_stride", c_int64),
        ("channel_stride", c_int64),
        ("place_stride", c_int64),
        ("gram_stride", c_int64),
        ("target_stride", c_int64),
        ("channels", c_int32),
        ("slice", c_int32),
        ("tile", c_int32),
        ("tiles", c_int32),
        ("splits", c_int32),
        ("first_block", c_int32),
        ("first_patch", c_int32),
        ("groups", c_int32),
        ("unused", c_int32),
        ("vectorised", c_int32),
        ("scale", c_float),
        ("weight", c_float),
    )


class GramParameters(Structure):
    """Up to eight layers, in one launch."""

    _fields_ = (
        ("layers", GramLayer * MAX_GRAM_LAYERS),
        ("loss", c_uint64),
        ("count", c_int32),
        ("unused", c_int32),
    )


class VariationParameters(Structure):
    """Pictures, their gradient and their values; the header says what each field means."""

    _fields_ = (
        ("pictures", c_uint64),
        ("gradient", c_uint64),
        ("value", c_uint64),
        ("partials", c_uint64),
        ("counters", c_uint64),
        ("batch", c_int64),
        ("channels", c_int64),
        ("height", c_int64),
        ("width", c_int64),
        ("picture_strides", c_int64 * 4),
        ("gradient_strides", c_int64 * 4),
        ("columns", c_int64),
        ("blocks", c_int32),
        ("column_blocks", c_int32),
        ("rows", c_int32),
        ("channels_fastest", c_int32),
        ("kind", c_uint32),
        ("eps", c_float),
    )


MAX_GRADIENT_LAYERS = 8


class GramGradientLayer(Structure):
    """One layer of `GramGradientParameters`; the header says what each field means."""

    _fields_ = (
        ("features", c_uint64),
        ("result", c_uint64),
        ("gradient", c_uint64),
        ("upstream", c_uint64),
        ("slopes", c_uint64),
        ("units", c_uint64),
        ("places", c_int64),
        ("batch_stride", c_int64),
        ("channel_stride", c_int64),
        ("place_stride", c_int64),
        ("result_batch_stride", c_int64),
        ("result_channel_stride", c_int64),
        ("result_place_stride", c_int64),
        ("gradient_batch_stride", c_int64),
        ("gradient_row_stride", c_int64),
        ("gradient_column_stride", c_int64),
        ("upstream_stride", c_int64),
        ("channels", c_int32),
        ("rows", c_int32),
        ("columns", c_int32),
        ("span", c_int32),
        ("resident", c_int32),
        ("load_bytes", c_int32),
        ("vectorised", c_int32),
        ("first_strip", c_int32),
        ("first_block", c_int32),
        ("factor", c_float),
    )


class GramGradientParameters(Structure):
    """Up to eight layers, in one launch."""

    _fields_ = (
        ("layers", GramGradientLayer * MAX_GRADIENT_LAYERS),
        ("count", c_int32),
        ("unused", c_int32),
    )


class FeatureMap(Structure):
    """Room for a CUtensorMap."""

    _fields_ = (("words", c_uint64 * 16),)


class GramSm90Parameters(Structure):
    """`GramParameters` for Hopper's kernels, and a tensor map of each layer's features."""

    _fields_ = (
        ("maps", FeatureMap * MAX_GRAM_LAYERS),
        ("gram", GramParameters),
        ("unused", c_int64 * 6),
    )
