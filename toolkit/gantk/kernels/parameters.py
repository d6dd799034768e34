# SPDX-License-Identifier: Apache-2.0
"""The structures that kernels are given, as ctypes; twins of `kernels/include/gantk/kernels/*_parameters.h`."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32, c_int64, c_uint64

MAX_GRAM_LAYERS = 8
PATCH_ROWS, PATCH_COLUMNS = 8, 16  # Of a tile, what one block of the reduce kernel sums.


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
