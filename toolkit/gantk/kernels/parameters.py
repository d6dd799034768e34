# SPDX-License-Identifier: Apache-2.0
"""The structures that kernels are given, as ctypes; twins of `kernels/include/gantk/kernels/*_parameters.h`."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32, c_int64, c_uint32, c_uint64

MAX_GRAM_LAYERS = 8
PATCH_ROWS, PATCH_COLUMNS = 8, 16  # Of a tile, what one block of the reduce kernel sums.
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
