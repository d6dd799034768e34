# SPDX-License-Identifier: Apache-2.0
"""The C++ runner, built once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpp_library import Library, build_cpp


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of a Release build: the library, gantk-run, the examples and the unit tests."""
    return build_cpp("all")


@pytest.fixture(scope="session")
def library(built: Path) -> Library:
    return Library(built / "src/libgantk.so")
