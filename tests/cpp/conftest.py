# SPDX-License-Identifier: Apache-2.0
"""The C++ runner, built once for the tests of this folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cpp_library import Library, build_cpp
from native_build import with_clang

if TYPE_CHECKING:
    from cpp_gpu import Trial

EXAMPLES = tuple(f"gantk_{name}" for name in ("stylize", "generate", "camera", "gatys"))
PROGRAMS = ("gantk-run", "gantk-bench-worker", "gantk_c_test", "gantk_soak", "gantk_overhead")


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of a build of the library, the commands, the examples and what tests run, but for the unit tests.

    Those are built once, with sanitizers. Nobody measures speed here, and compiling for it takes its time: Clang, where
    it is, takes less of it than GCC, which reads the library in a test of its own. A machine with a GPU and without
    compilers gets one that was built elsewhere: GANTK_CPP_BUILD names its folder.
    """
    if named := os.environ.get("GANTK_CPP_BUILD"):
        return Path(named)
    quick = ("--preset", "default", "-DCMAKE_CXX_FLAGS_RELEASE=-O0 -DNDEBUG", *with_clang())
    return build_cpp(*PROGRAMS, *EXAMPLES, "gantk_engine_backend", options=quick)


@pytest.fixture(scope="session")
def library(built: Path) -> Library:
    return Library(built / "src/libgantk.so")


@pytest.fixture(params=("onnxruntime", "tensorrt", "tensorrt-rtx"))
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Trial:
    from cpp_gpu import make_trial  # It wants more packages than a machine with a GPU may have.

    return make_trial(request.param, tmp_path, checked="address")
