# SPDX-License-Identifier: Apache-2.0
"""The library of native operators, built for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from native_build import onnxruntime_library


@pytest.fixture(scope="session")
def library() -> Path:
    return onnxruntime_library()
