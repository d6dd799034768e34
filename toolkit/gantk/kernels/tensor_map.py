# SPDX-License-Identifier: Apache-2.0
"""Tensor maps, by which the copy engine of sm_90 finds its way in an array."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache

from gantk.errors import GantkError
from gantk.kernels.driver import DriverError, bindings
from gantk.kernels.launch import TensorMap
from gantk.runtime.driver import LIBRARY

TENSOR_MAP_BYTES = 128

_Words = ctypes.POINTER(ctypes.c_uint64)
_HalfWords = ctypes.POINTER(ctypes.c_uint32)
_ARGUMENTS = (
    ctypes.c_void_p,  # The map to be filled.
    ctypes.c_int,  # Its type of elements.
    ctypes.c_uint32,  # Its rank.
    ctypes.c_void_p,  # The array.
    _Words,  # Sizes, innermost first.
    _Words,  # Strides in bytes, from the second dimension on.
    _HalfWords,  # The box that one copy takes.
    _HalfWords,  # Steps within the array, in elements.
    ctypes.c_int,  # Interleave.
    ctypes.c_int,  # Swizzle.
    ctypes.c_int,  # Promotion in L2.
    ctypes.c_int,  # What lies outside of the array.
)


@lru_cache(maxsize=1024)
def encoded(wanted: TensorMap) -> bytes:
    """The 128 opaque bytes of a tensor map; what lies outside of the array reads as 0.

    Raises:
        DriverError: The driver refuses it, as for an address or a stride that is no multiple of 16 bytes.
    """
    rank = len(wanted.sizes)
    # The driver wants the map at a multiple of 64 bytes, and Python's memory is at one of 16: cuda.bindings, which
    # keeps it in a Python object, fails in three of four calls. Hence ctypes, and an aligned place of our own.
    room = ctypes.create_string_buffer(TENSOR_MAP_BYTES + 64)
    place = -(-ctypes.addressof(room) // 64) * 64
    status = _encode_tiled()(
        place,
        _enum("CUtensorMapDataType", f"CU_TENSOR_MAP_DATA_TYPE_{wanted.element.upper()}"),
        rank,
        wanted.address,
        (ctypes.c_uint64 * rank)(*wanted.sizes),
        (ctypes.c_uint64 * max(1, rank - 1))(*wanted.strides_bytes),
        (ctypes.c_uint32 * rank)(*wanted.box),
        (ctypes.c_uint32 * rank)(*(1,) * rank),
        _enum("CUtensorMapInterleave", "CU_TENSOR_MAP_INTERLEAVE_NONE"),
        _enum(
            "CUtensorMapSwizzle",
            f"CU_TENSOR_MAP_SWIZZLE_{f'{wanted.swizzle}B' if wanted.swizzle else 'NONE'}",
        ),
        _enum("CUtensorMapL2promotion", "CU_TENSOR_MAP_L2_PROMOTION_L2_128B"),
        _enum("CUtensorMapFloatOOBfill", "CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE"),
    )
    if status != 0:
        name = bindings().CUresult(status).name
        raise DriverError(
            "cuTensorMapEncodeTiled", name, "the array cannot be addressed so", where=str(wanted)
        )
    return ctypes.string_at(place, TENSOR_MAP_BYTES)


def _enum(kind: str, name: str) -> int:
    return int(getattr(getattr(bindings(), kind), name))


@cache
def _encode_tiled() -> Callable[..., int]:
    try:
        function = ctypes.CDLL(LIBRARY).cuTensorMapEncodeTiled
    except (OSError, AttributeError) as error:  # Drivers before CUDA 12 do not have it.
        raise GantkError(
            f"the driver has no tensor maps: {error}", hint="update the NVIDIA driver"
        ) from error
    function.argtypes = _ARGUMENTS
    return function
