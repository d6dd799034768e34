# SPDX-License-Identifier: Apache-2.0
"""The library of native operators, built for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from native_build import build, onnxruntime_root


@pytest.fixture(scope="session")
def library() -> Path:
    options = (f"-DONNXRUNTIME_ROOT={onnxruntime_root()}", "-DGANTK_CUDA=OFF")
    return build("gantk_onnxruntime", options=options) / "onnxruntime" / "libgantk_onnxruntime.so"
