# SPDX-License-Identifier: Apache-2.0
"""The exported step on an NVIDIA GPU, with gantk's kernels in place of the portable bodies; `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gantk
from gantk.export.gatys.reference import to_arrays
from gantk.export.gatys.trials import make_trial
from gantk.runtime.operators import OPERATORS, native_operators
from gantk.runtime.registry import status

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in status("onnxruntime").devices, reason="ONNX Runtime has no GPU here"),
]


def kernels_of(call: Any) -> set[str]:
    """The names of the kernels that a call launches."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    return {event.name for event in found.events()}


def test_it_computes_what_the_cpu_does_and_with_the_operators_by_our_kernels(
    bundle: Path, network: Any, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = native_operators("cuda")
    if library is None:
        pytest.skip("native operators for GPUs are not installed (kernels/onnxruntime/README.md)")
    trial = to_arrays(make_trial(network, config, 0, 1, 70, 93, 0))
    found, kernels = {}, {}
    for name, device, named in (
        ("cpu", "cpu", ""),
        ("bodies", "cuda", ""),
        ("kernels", "cuda", str(library)),
    ):
        monkeypatch.setenv(OPERATORS, named)
        with gantk.open(bundle, "onnxruntime", "fp32", device) as runner:
            feeds = {spec.name: trial[spec.name] for spec in runner.inputs}
            for _ in range(2):  # The second is a graph, where there is one.
                found[name] = runner.run(feeds)
            kernels[name] = kernels_of(lambda runner=runner, feeds=feeds: runner.run(feeds))
    for name in ("bodies", "kernels"):
        for key, wanted in found["cpu"].items():
            if key.endswith("loss"):
                np.testing.assert_allclose(found[name][key], wanted, rtol=1e-4, err_msg=f"{name}, {key}")
        gradient, wanted = found[name]["gradient"].astype(np.float64), found["cpu"]["gradient"]
        noise = float(np.mean((gradient - wanted) ** 2))
        assert 10 * np.log10(float(np.ptp(wanted)) ** 2 / noise) >= 60, name
    ours = {name for name in kernels["kernels"] if name.startswith("gantk_")}
    for part in ("gram", "gram_gradient", "variation"):
        assert any(name.startswith(f"gantk_{part}") for name in ours), f"{part}: {sorted(kernels['kernels'])}"
    assert not any(name.startswith("gantk_") for name in kernels["bodies"])
