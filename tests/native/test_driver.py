# SPDX-License-Identifier: Apache-2.0
"""How native libraries launch kernels, before a driver that tells what it is asked to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from native_build import build, with_clang

HEADERS = [
    Path(root) / "include" / "cuda.h"
    for root in (os.environ.get("CUDA_HOME", "/usr/local/cuda"), "/usr/local/cuda", "/usr")
]
WANTED = """\
device 9.0, 132, 232448
load first
launch first.a 7x2x3 of 128x1x1, 0 bytes, stream 5, parameters begin with 0x10
load second
lend 65536 to second.b
launch second.b 7x2x3 of 128x1x1, 65536 bytes, stream 5, parameters begin with 0x20
lend 49152 to first.a
launch first.a 7x2x3 of 128x1x1, 49152 bytes, stream 5, parameters begin with 0x11
launch first.c 7x2x3 of 128x1x1, 0 bytes, stream 5, parameters begin with 0x30
launch second.b 7x2x3 of 128x1x1, 65536 bytes, stream 5, parameters begin with 0x21
lend 98304 to second.b
launch second.b 7x2x3 of 128x1x1, 98304 bytes, stream 5, parameters begin with 0x22
map type 6 at 0x1000: 4096 x 64, stride 8192, box 64 x 32, steps 1 x 1, swizzle 3
launch first.a 7x2x3 of 128x1x1, 0 bytes, stream 5, parameters begin with 0x5a5a5a5a5a5a5a5a
map type 11 at 0x1000: 4096 x 64, stride 8192, box 64 x 32, steps 1 x 1, swizzle 0
launch first.a 7x2x3 of 128x1x1, 0 bytes, stream 5, parameters begin with 0x40
launch first.a 7x2x3 of 128x1x1, 0 bytes, stream 5, parameters begin with 0x50
launch first.a 7x2x3 of 128x1x1, 0 bytes, stream 5, parameters begin with 0x51, early
load old
launch old.a 7x2x3 of 128x1x1, 0 bytes, stream 5, parameters begin with 0x52
unit: this library has no kernels of the unit third
kernel: cuLibraryGetKernel gives CUDA_ERROR_OF_THE_FAKE for missing
16 2 4 8 1 
"""  # noqa: W291


@pytest.fixture(scope="module")
def folder() -> Path:
    if not any(path.is_file() for path in HEADERS):
        pytest.skip("cuda.h is missing: install the CUDA toolkit")
    options = (*with_clang(), "-DGANTK_CUDA=OFF", "-DGANTK_TESTS=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O0")
    return build("gantk_driver_test", "gantk_fake_driver", options=options)


def test_code_is_loaded_once_and_memory_lent_where_it_is_asked_for(folder: Path) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(
        [folder / "gantk_driver_test"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == WANTED
    assert done.returncode == 0


def test_kernels_are_launched_in_turn_where_that_is_asked_for(folder: Path) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "GANTK_EARLY_LAUNCHES": "off"}
    done = subprocess.run(
        [folder / "gantk_driver_test"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == WANTED.replace(", early", "")
    assert done.returncode == 0


def test_without_a_driver_that_is_said(folder: Path) -> None:
    if any(
        Path(place, "libcuda.so.1").exists()
        for place in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")
    ):
        pytest.skip("this machine has an NVIDIA driver")
    environment = {**os.environ, "LD_LIBRARY_PATH": ""}
    done = subprocess.run(
        [folder / "gantk_driver_test"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("there is no NVIDIA driver: libcuda.so.1: cannot open")
    assert done.returncode == 1
