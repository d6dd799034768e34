# SPDX-License-Identifier: Apache-2.0
"""Generators of others, by both of PyTorch's exporters: fp16, bf16 and engines of their float32 files."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import gantk
from gantk.export.engines.build import BuildOptions
from gantk.export.engines.pipeline import EngineRequest
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.runtime.products import Product

torch = pytest.importorskip("torch")

from foreign_networks import NETWORKS  # noqa: E402 - it wants torch

pytestmark = pytest.mark.slow


class File(NamedTuple):
    """What PyTorch wrote, and what it computes."""

    path: Path
    feeds: dict[str, np.ndarray]
    right: np.ndarray
    free: str


@pytest.fixture
def file(request: pytest.FixtureRequest, tmp_path: Path) -> File:
    """The file of a network, as one of the exporters writes it."""
    (name, exporter), path = request.param, tmp_path / "theirs.onnx"
    make, inputs, free = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    axes = {"pictures": {0: "n", 2: "h", 3: "w"}, "batch": {0: "n"}, "fixed": {}}[free]
    names = [f"x{index}" for index in range(len(inputs))]
    if exporter == "dynamo":
        shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for _ in inputs)
        how = {"dynamo": True, "dynamic_shapes": shapes, "external_data": False, "verbose": False}
    else:
        how = {"dynamo": False, "dynamic_axes": dict.fromkeys(names, axes), "opset_version": 17}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, inputs, path, input_names=names, **how)
    with torch.inference_mode():
        right = network(*inputs).numpy()
    return File(path, {name: x.numpy() for name, x in zip(names, inputs, strict=True)}, right, free)


EXPORTS = [
    (name, exporter)
    for name in NETWORKS
    for exporter in ("dynamo", "script")
    if (name, exporter) != ("self_attention", "script")  # It has no vdot, of which a spectral norm is made.
]
both = pytest.mark.parametrize("file", EXPORTS, indirect=True, ids="-".join)


@both
def test_they_compute_the_same_in_half_the_bytes(file: File, tmp_path: Path) -> None:
    root = bundle_onnx(file.path, tmp_path / "x.gantk", precisions=("fp16", "bf16")).root
    with gantk.open(root, "onnxruntime", "fp16") as runner:
        [made] = runner.run(file.feeds).values()
    assert np.abs(made - file.right).max() < 0.02 * np.abs(file.right).max()


@both
def test_engines_are_built_of_them(rtx: Product, file: File, tmp_path: Path) -> None:
    request = EngineRequest((rtx.name,), ("fp16", "bf16"), BuildOptions(("sm_89",)))
    if file.free == "pictures":
        request = replace(
            request, smallest=("x0=1x3x32x32",), usual=("x0=1x3x32x32",), largest=("x0=2x3x64x64",)
        )
    for engine in bundle_onnx(file.path, tmp_path / "x.gantk", request).manifest.engines:
        assert {layer.precision for layer in engine.heavy_layers} == {engine.precision}
