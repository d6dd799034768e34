# SPDX-License-Identifier: Apache-2.0
"""StyleGAN3 as PyTorch's exporters write it, whose activations lie between filters of rows and columns."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from export_graphs import kinds
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.engines.build import BuildOptions
from gantk.export.engines.pipeline import EngineRequest
from gantk.export.foreign.graphs import simplified
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.export.rewrites import rewrite
from gantk.runtime.model import from_bytes, from_path
from gantk.runtime.operators import OPERATORS
from gantk.runtime.products import Product
from gantk.runtime.registry import open_model
from native_build import onnxruntime_library

torch = pytest.importorskip("torch")

from style_gan3 import StyleGAN3  # noqa: E402 - it wants torch


def exported(folder: Path, *, dynamo: bool, batch: int = 1) -> tuple[Path, np.ndarray, np.ndarray]:
    """The file, its input, and what PyTorch makes of it."""
    torch.manual_seed(0)
    network, latent, path = (
        StyleGAN3(32, 512, 16, 12).eval(),
        torch.randn(batch, 12),
        folder / "theirs.onnx",
    )
    how = {"external_data": False, "verbose": False} if dynamo else {"opset_version": 17}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (latent,), path, input_names=["z"], dynamo=dynamo, **how)
        return path, latent.numpy(), network(latent).numpy()


def made_of(graph: ir.Model, latent: np.ndarray) -> np.ndarray:
    with open_model(from_bytes(ir.to_proto(graph).SerializeToString()), "onnxruntime") as runner:
        (made,) = runner.run({"z": latent}).values()
    return made


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dynamo", [True, False])
def test_its_filters_see_no_zeros_and_make_nothing_that_is_cut(
    tmp_path: Path, *, dynamo: bool, batch: int
) -> None:
    path, latent, right = exported(tmp_path, dynamo=dynamo, batch=batch)
    graph = rewrite(simplified(from_path(path), "fp32"), ("modulated-to-features", "filters-to-depthwise"))
    assert graph is not None
    steps = [node for node in graph.graph if node.op_type == "Slice" and len(node.inputs) > 4]
    assert all(np.all(node.inputs[4].const_value.numpy() == 1) for node in steps)
    assert "Pad" not in kinds(graph)
    strides = [list(node.attributes["strides"].as_ints()) for node in graph.graph if node.op_type == "Conv"
               and "strides" in node.attributes]  # fmt: skip
    assert strides.count([1, 2]) == strides.count([2, 1]) == 4
    np.testing.assert_allclose(made_of(graph, latent), right, atol=2e-5 * np.abs(right).max())


@pytest.mark.parametrize("dynamo", [True, False])
def test_it_is_wholly_native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, dynamo: bool) -> None:
    path, latent, right = exported(tmp_path, dynamo=dynamo, batch=2)
    graph = rewrite(simplified(from_path(path), "fp32"), [WHOLLY_NATIVE])
    assert graph is not None
    found = kinds(graph)
    counts = {"NhwcDepthwiseTransposed": 4, "NhwcDepthwiseTransposedPRelu": 4, "NhwcDepthwiseConvolution": 8}
    assert {kind: found.count(kind) for kind in counts} == counts
    assert found.count("NhwcClip") == 4
    assert not {"Conv", "ConvTranspose", "Pad", "DepthToSpace"} & set(found)
    assert found.count("Transpose") <= 2  # Of the waves, and at the end.
    for library in ("", str(onnxruntime_library())):
        monkeypatch.setenv(OPERATORS, library)
        np.testing.assert_allclose(made_of(graph, latent), right, atol=2e-5 * np.abs(right).max())


@pytest.mark.slow
def test_its_engines_are_of_every_precision(rtx: Product, tmp_path: Path) -> None:
    path, _, _ = exported(tmp_path, dynamo=True)
    request = EngineRequest((rtx.name,), ("fp16", "bf16"), BuildOptions(("sm_89",)))
    engines = bundle_onnx(path, tmp_path / "x.gantk", request, rewrites=False).manifest.engines
    assert [engine.precision for engine in engines] == ["fp16", "bf16"]
    for engine in engines:
        assert {layer.precision for layer in engine.heavy_layers} == {engine.precision}
