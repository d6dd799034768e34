# SPDX-License-Identifier: Apache-2.0
"""What tests of files from elsewhere share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_rewrites(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rewrites of files from elsewhere are tried, where a test does not ask for them: they are measured."""
    monkeypatch.setattr("gantk.export.foreign.pipeline.timed_inputs", lambda model, profiles: ())
