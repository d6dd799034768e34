# SPDX-License-Identifier: Apache-2.0
"""FastGAN as PyTorch's exporters write it, which draws noise in each run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export_graphs import kinds
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.engines.probe import probe_sizes
from gantk.export.foreign.graphs import simplified
from gantk.export.foreign.noise import settled
from gantk.export.rewrites import rewrite
from gantk.runtime.model import Model, from_bytes, from_path
from gantk.runtime.registry import open_model

torch = pytest.importorskip("torch")

from fast_gan import FastGAN, Noise  # noqa: E402 - it wants torch


def exported(folder: Path, *, dynamo: bool) -> tuple[Model, Any]:
    """The file, of pictures of 64 pixels and any number of them, and the network."""
    torch.manual_seed(0)
    network, path = FastGAN(64, 4, 12).eval(), folder / "theirs.onnx"
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    how: dict[str, Any] = {"opset_version": 17, "dynamic_axes": {"z": {0: "N"}, "y": {0: "N"}}}
    if dynamo:
        batch = torch.export.Dim("N", max=64)
        how = {"external_data": False, "verbose": False, "dynamic_shapes": ({0: batch},)}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.randn(2, 12, 1, 1),),
            path,
            input_names=["z"],
            output_names=["y"],
            dynamo=dynamo,
            **how,
        )
    return from_path(path), network


def run(model: Model, latents: np.ndarray) -> np.ndarray:
    with open_model(model, "onnxruntime", device="cpu") as runner:
        return runner.run({"z": latents})["y"]


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("noise", ["constant", "zero"])
def test_it_is_the_network_with_this_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str, *, dynamo: bool
) -> None:
    model, network = exported(tmp_path, dynamo=dynamo)
    made = settled(model, noise, probe_sizes(model.inputs, ()))
    tensors = onnx.load_from_string(made.data).graph.initializer
    drawn = [onnx.numpy_helper.to_array(each) for each in tensors if each.name.endswith("/noise")]
    assert len(drawn) == sum(isinstance(layer, Noise) for layer in network.modules())
    left = iter(map(torch.tensor, drawn))
    monkeypatch.setattr(torch, "randn", lambda *shape, device: next(left))
    latents = np.random.default_rng(0).standard_normal((3, 12, 1, 1)).astype(np.float32)
    with torch.inference_mode():
        right = network(torch.from_numpy(latents)).numpy()
    np.testing.assert_allclose(run(made, latents), right, atol=2e-5)
    assert next(left, None) is None
    if noise == "constant":
        assert [array.shape for array in drawn] == [(1, 1, side, side) for side in (8, 8, 32, 32)]


@pytest.mark.parametrize("dynamo", [True, False])
def test_it_is_wholly_native(tmp_path: Path, *, dynamo: bool) -> None:
    model, _ = exported(tmp_path, dynamo=dynamo)
    made = settled(model, "constant", probe_sizes(model.inputs, ()))
    graph = rewrite(simplified(made, "fp32"), [WHOLLY_NATIVE])
    assert graph is not None
    assert not {"Conv", "ConvTranspose", "Resize", "BatchNormalization"} & set(kinds(graph))
    latents = np.random.default_rng(0).standard_normal((3, 12, 1, 1)).astype(np.float32)
    native = from_bytes(ir.to_proto(graph).SerializeToString())
    np.testing.assert_allclose(run(native, latents), run(made, latents), atol=2e-5)
