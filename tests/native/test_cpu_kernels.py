# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels by themselves, on buffers that sanitizers watch."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from native_build import build, with_clang


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("gantk_cpu_test", "288 shapes, 0 wrong values\n"),
        ("gantk_winograd_test", "43 shapes, 0 wrong\n"),
        ("gantk_nhwc_test", r"64 shapes on [1-4] kinds of processors, 0 wrong\n"),
    ],
)
def test_no_address_or_arithmetic_goes_astray(program: str, wanted: str) -> None:
    # Clang aligns types otherwise than GCC, which the sources assert; GCC compiles the library of operators.
    options = (
        *with_clang(),
        "-DGANTK_CUDA=OFF",
        "-DGANTK_SANITIZE=ON",
        "-DGANTK_TESTS=ON",
        # As fast as with all optimisations, between the checks, and compiled in a third of the time.
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DCMAKE_CXX_FLAGS_DEBUG=-O1",
    )
    folder = build("gantk_cpu_test", "gantk_winograd_test", "gantk_nhwc_test", options=options)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=1", "LD_PRELOAD": ""}
    done = subprocess.run([folder / program], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(wanted, done.stdout)
