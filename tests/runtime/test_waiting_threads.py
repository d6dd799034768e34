# SPDX-License-Identifier: Apache-2.0
"""What backends' threads do between runs: nothing, soon."""

from __future__ import annotations

from pathlib import Path

import pytest

import gantk
import networks
from gantk.runtime import registry
from waiting import busy_s_after


@pytest.mark.parametrize("backend", registry.BACKENDS)
def test_threads_leave_the_cores_to_others_after_a_run(backend: str, tmp_path: Path) -> None:
    """As ONNX Runtime comes, each keeps a core busy for 40 ms after every run."""
    if not registry.status(backend).works:
        pytest.skip(f"wants {backend}")
    networks.bundle(tmp_path / "x.gantk")
    feeds = {"latent": networks.latents(2048)}
    with gantk.open(tmp_path / "x.gantk", backend, device="cpu", threads=3) as runner:
        assert busy_s_after(lambda: runner.run(feeds)) < 0.02
