# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own step, as the benchmark runs it, against the exported one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

import gantk
from gantk.baselines.step import open_step
from gantk.bundle import Bundle
from gantk.errors import GantkError, UsageError
from gantk.export.gatys.chain import StepConfig
from gantk.runtime.runner import Array

FIELDS = tuple(StepConfig.__dataclass_fields__)


def probed(bundle: Path) -> dict[str, Array]:
    opened = Bundle.read(bundle)
    assert opened.manifest.probe is not None
    probe = load(opened.read_file(opened.manifest.probe))
    return {spec.name: probe[f"input.{spec.name}"] for spec in opened.manifest.inputs}


@pytest.mark.parametrize("mode", ["eager", "channels_last"])
def test_it_is_the_exported_step(bundle: Path, vgg_file: Path, mode: str) -> None:
    config = {name: Bundle.read(bundle).manifest.config[name] for name in FIELDS}
    feeds = probed(bundle)
    with gantk.open(bundle) as exported, open_step(str(vgg_file), config, mode, threads=1) as torch_step:
        wanted, made = exported.run(feeds), torch_step.run(feeds)
        assert torch_step.inputs == exported.inputs
        call = torch_step.bind(feeds)
    for name, array in wanted.items():
        np.testing.assert_allclose(made[name], array, rtol=1e-4, atol=1e-4 * np.abs(array).max())
    np.testing.assert_array_equal(call()["gradient"].numpy(), call()["gradient"].numpy())
    with pytest.raises(GantkError, match="closed"):
        torch_step.run(feeds)


def test_ways_that_are_none(vgg_file: Path) -> None:
    with pytest.raises(UsageError, match="'freezing'.*eager, channels_last, default, max-autotune"):
        open_step(str(vgg_file), {"style_layers": ["relu1_1"], "content_layer": "relu1_1"}, "freezing")
