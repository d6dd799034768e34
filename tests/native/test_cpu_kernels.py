# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels by themselves, on buffers that sanitizers watch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from native_build import build, with_clang

PROGRAMS = {
    "gantk_cpu_test": "618 shapes, 0 wrong values\n",
    "gantk_winograd_test": "43 shapes, 0 wrong\n",
    "gantk_nhwc_test": r"134 shapes on [1-4] kinds of processors, 0 wrong\n",
    "gantk_depthwise_test": r"64 shapes on [1-4] kinds of processors, 0 wrong\n",
}


@pytest.mark.parametrize(("program", "wanted"), PROGRAMS.items())
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
    folder = build(*PROGRAMS, options=options)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_stack_use_after_return=1", "LD_PRELOAD": ""}
    done = subprocess.run([folder / program], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(wanted, done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("program", "wanted"), PROGRAMS.items())
def test_on_an_emulated_arm(program: str, wanted: str) -> None:
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None or shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("a cross compiler and QEMU are missing: apt install g++-aarch64-linux-gnu qemu-user")
    target = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    options = (*target, "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++", "-DGANTK_CUDA=OFF", "-DGANTK_TESTS=ON")
    folder = build(*PROGRAMS, options=options)
    done = subprocess.run(
        [emulator, "-L", "/usr/aarch64-linux-gnu", folder / program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(wanted, done.stdout)
