# SPDX-License-Identifier: Apache-2.0
"""The one function of the driver that is called by hand, through a C library with its signature (``cuda.h`` 12, 13)."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gantk.errors import GantkError
from gantk.kernels import tensor_map
from gantk.kernels.driver import DriverError
from gantk.kernels.launch import TensorMap
from gantk.kernels.tensor_map import encoded

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")

STUB = """
#include <stdint.h>
#include <string.h>

typedef struct { _Alignas(64) uint64_t opaque[16]; } CUtensorMap;

int cuTensorMapEncodeTiled(
    CUtensorMap* map, int type, uint32_t rank, void* address, const uint64_t* sizes, const uint64_t* strides,
    const uint32_t* box, const uint32_t* steps, int interleave, int swizzle, int promotion, int outside)
{
    int32_t words[32] = {type, rank, interleave, swizzle, promotion, outside};
    uint64_t first = (uint64_t)address;
    if ((uintptr_t)map % 64 != 0 || first % 16 != 0) return 1;  /* CUDA_ERROR_INVALID_VALUE */
    for (uint32_t i = 0; i < rank; ++i) {
        words[6 + i] = (int32_t)sizes[i];
        words[11 + i] = (int32_t)box[i];
        words[16 + i] = (int32_t)steps[i];
        if (i + 1 < rank) words[21 + i] = (int32_t)strides[i];
    }
    memcpy(words + 26, &first, 8);
    memcpy(map, words, sizeof *map);
    return 0;
}
"""


@pytest.fixture(autouse=True)
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("wants a C compiler")
    (tmp_path / "stub.c").write_text(STUB)
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "stub.c"], check=True)
    monkeypatch.setattr(tensor_map, "LIBRARY", str(library))
    tensor_map._encode_tiled.cache_clear()
    encoded.cache_clear()
    yield
    tensor_map._encode_tiled.cache_clear()
    encoded.cache_clear()


def test_every_argument_is_where_the_driver_looks_for_it() -> None:
    address = (1 << 46) + 4096
    for element, type_ in (("float32", 7), ("float16", 6), ("bfloat16", 9)):
        for swizzle, code in ((0, 0), (32, 1), (64, 2), (128, 3)):
            given = TensorMap(128, address, element, (640, 48, 3), (1280, 61440), (64, 32, 1), swizzle)
            words = struct.unpack("<26i Q 4i", encoded(given))
            assert words[:6] == (type_, 3, 0, code, 2, 0)  # L2 is filled by 128 bytes; zeros outside.
            assert words[6:9] == (640, 48, 3)
            assert words[11:14] == (64, 32, 1)
            assert words[16:19] == (1, 1, 1)
            assert words[21:23] == (1280, 61440)
            assert words[26] == address


def test_the_map_is_aligned_however_memory_lies() -> None:
    kept = []
    for index in range(50):
        kept.append(bytearray(16 * index))
        encoded(TensorMap(0, 4096 * (index + 1), "float32", (32,), (), (32,)))


def test_what_the_driver_refuses_is_refused() -> None:
    with pytest.raises(DriverError, match="cuTensorMapEncodeTiled fails: CUDA_ERROR_INVALID_VALUE"):
        encoded(TensorMap(0, 4097, "float32", (32,), (), (32,)))


def test_a_driver_without_tensor_maps_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_map, "LIBRARY", "libnowhere.so.1")
    tensor_map._encode_tiled.cache_clear()
    with pytest.raises(GantkError, match="the driver has no tensor maps"):
        encoded(TensorMap(0, 4096, "float32", (32,), (), (32,)))
