# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 as PyTorch's exporters write it, whose every picture has weights of its own."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gantk.export.calibration import Calibration
from gantk.export.engines.build import BuildOptions
from gantk.export.engines.pipeline import EngineRequest
from gantk.export.foreign.graphs import simplified
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.export.rewrites import rewrite
from gantk.runtime.model import from_bytes, from_path
from gantk.runtime.products import Product
from gantk.runtime.registry import open_model

torch = pytest.importorskip("torch")

from style_gan2 import StyleGAN2  # noqa: E402 - it wants torch


def exported(folder: Path, *, dynamo: bool, batch: int = 2) -> tuple[Path, np.ndarray, np.ndarray]:
    """The file, its input, and what PyTorch makes of it."""
    torch.manual_seed(0)
    network, latent, path = StyleGAN2(16, 256, 32, 16).eval(), torch.randn(batch, 16), folder / "theirs.onnx"
    how = {"external_data": False, "verbose": False} if dynamo else {"opset_version": 17}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (latent,), path, input_names=["z"], dynamo=dynamo, **how)
        return path, latent.numpy(), network(latent).numpy()


@pytest.mark.parametrize("dynamo", [True, False])
def test_it_becomes_convolutions_of_pictures(tmp_path: Path, *, dynamo: bool) -> None:
    """Neither weights nor groups of each picture are left, nor tensors of five axes."""
    path, latent, right = exported(tmp_path, dynamo=dynamo)
    graph = rewrite(simplified(from_path(path), "fp32"), ("modulated-to-features", "filters-to-depthwise"))
    assert graph is not None
    convolutions = [node for node in graph.graph if node.op_type in ("Conv", "ConvTranspose")]
    assert (
        len(convolutions) == 3 + 2 + 2 + 3 + 2
    )  # Of features, enlarging them, blurs, painting, enlarging pictures.
    for node in convolutions:
        assert node.inputs[1] is not None
        assert node.inputs[1].const_value is not None
    assert not {"ReduceSum", "Pad"} & {node.op_type for node in graph.graph}
    assert not [
        value for node in graph.graph for value in node.outputs if value.shape and len(value.shape) > 4
    ]
    with open_model(from_bytes(ir.to_proto(graph).SerializeToString()), "onnxruntime") as runner:
        [made] = runner.run({"z": latent}).values()
    np.testing.assert_allclose(made, right, atol=1e-5 * np.abs(right).max())


def test_its_weights_are_quantised(tmp_path: Path) -> None:
    path, _, _ = exported(tmp_path, dynamo=False)
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for index in range(8):
        np.save(
            arrays / f"{index}.npy", np.random.default_rng(index).standard_normal((2, 16), dtype=np.float32)
        )
    bundle = bundle_onnx(
        path,
        tmp_path / "x.gantk",
        precisions=("int8",),
        rewrites=False,
        calibration=Calibration(arrays),
        psnr_min=20,
    )
    [variant] = [variant for variant in bundle.manifest.variants if variant.precision == "int8"]
    graph = ir.from_proto(onnx.load_from_string(bundle.read_file(variant.file))).graph
    quantised = [node for node in graph if node.op_type == "Conv" and node.inputs[1].producer() is not None]
    assert quantised


def test_its_engines_are_of_every_precision(rtx: Product, tmp_path: Path) -> None:
    """TensorRT for RTX has no transposed ones of bf16: they become sub-pixel ones, once their weights are constant."""
    path, _, _ = exported(tmp_path, dynamo=False)
    request = EngineRequest((rtx.name,), ("fp16", "bf16"), BuildOptions(("sm_89",)))
    engines = bundle_onnx(path, tmp_path / "x.gantk", request, rewrites=False).manifest.engines
    assert [engine.precision for engine in engines] == ["fp16", "bf16"]
    for engine in engines:
        assert {layer.precision for layer in engine.heavy_layers} == {engine.precision}
