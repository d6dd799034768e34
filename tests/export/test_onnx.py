# SPDX-License-Identifier: Apache-2.0
"""Tracing and serialising."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gantk.errors import GantkError
from gantk.export.onnx import trace
from gantk.export.opset import OPSET
from gantk.export.pipeline import specs
from gantk.export.serialize import serialize
from gantk.models.borders import Bordered
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model


def traced_bytes(module: nn.Module, *, pictures: bool = False) -> bytes:
    bordered = Bordered(module, module.config.inputs, module.config.outputs, pixels=pictures)
    inputs, outputs = specs(module.config, pictures=pictures)
    return serialize(trace(bordered, inputs, outputs).graph, inputs, outputs, {"precision": "fp32"})


@pytest.fixture(scope="module")
def data(generator: nn.Module) -> bytes:
    return traced_bytes(generator)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_graph_computes_what_the_module_does(generator: nn.Module, data: bytes, batch: int) -> None:
    latent = np.random.default_rng(batch).standard_normal((batch, 16), np.float32)
    with open_model(from_bytes(data), "onnxruntime") as runner:
        picture = runner.run({"latent": latent})["picture"]
    np.testing.assert_allclose(picture, generator(torch.from_numpy(latent)).numpy(), atol=1e-5)


def test_pixels_are_the_picture_on_the_scale_of_bytes(generator: nn.Module) -> None:
    latent = np.random.default_rng(0).standard_normal((3, 16), np.float32)
    with open_model(from_bytes(traced_bytes(generator, pictures=True)), "onnxruntime") as runner:
        pixels = runner.run({"latent": latent})["picture"]
    exact = generator(torch.from_numpy(latent)).numpy().transpose(0, 2, 3, 1) * 127.5 + 127.5
    assert pixels.dtype == np.uint8
    assert pixels.std() > 10
    # Half a level for rounding, and a little for float32.
    np.testing.assert_allclose(pixels, exact, atol=0.501)


def test_a_lone_file_says_what_it_is(data: bytes) -> None:
    model = onnx.load_from_string(data)
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert facts["gantk.schema"] == 1
    assert facts["gantk.precision"] == "fp32"
    assert facts["gantk.outputs"][0]["range"] == [-1.0, 1.0]
    assert model.opset_import[0].version == OPSET
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_batch_norms_are_folded_and_layers_have_their_modules_names(data: bytes) -> None:
    nodes = onnx.load_from_string(data).graph.node
    assert "BatchNormalization" not in {node.op_type for node in nodes}
    transposed = [node.name for node in nodes if node.op_type == "ConvTranspose"]
    assert transposed == ["enlarge.1/ConvTranspose", "enlarge.3/ConvTranspose"]


def test_no_path_of_the_exporting_machine_is_in_the_file(data: bytes) -> None:
    assert b".py" not in data
    assert b"stack_trace" not in data


def test_the_same_network_gives_the_same_bytes(generator: nn.Module, data: bytes) -> None:
    assert traced_bytes(generator) == data


class Branching(nn.Module):
    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return latent if latent.sum() > 0 else -latent


def test_a_module_that_cannot_be_traced_is_refused_by_name(generator: nn.Module) -> None:
    inputs, outputs = specs(generator.config, pictures=False)
    with pytest.raises(GantkError, match="PyTorch cannot export this network") as caught:
        trace(Branching(), inputs, outputs)
    assert caught.value.where == "Branching"
