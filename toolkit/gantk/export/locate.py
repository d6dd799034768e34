# SPDX-License-Identifier: Apache-2.0
"""Where a file parts from PyTorch: the layer that a refusal names."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import torch

from gantk.errors import GantkError
from gantk.export.fold import SCALED
from gantk.export.precision import expose_intermediates
from gantk.export.reference import Feeds, to_numpy
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.registry import open_model
from gantk.runtime.runner import Array

# The relative difference from which a layer is named as the place where outputs part.
_LAYER_TOLERANCE = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1}


def locate(
    model: Model, program: torch.export.ExportedProgram, feeds: Feeds, backend: str, precision: str
) -> tuple[str, float] | None:
    """The first layer of a file whose tensor differs from PyTorch's.

    Args:
        model: The file.
        program: What PyTorch captured, whose nodes have the names of the file's tensors.
        feeds: One batch.
        backend: What to run the file with.
        precision: Of the file.

    Returns:
        The layer's name and its largest difference as a share of the tensor's largest value; `None` where
        no tensor could be compared.
    """
    graph = ir.from_proto(onnx.load_from_string(model.data))
    exposed = expose_intermediates(graph)
    wanted = _intermediates(program, feeds)
    try:
        with open_model(from_bytes(ir.to_proto(graph).SerializeToString()), backend) as runner:
            outputs = runner.run(feeds)
    except GantkError:
        return None
    found: list[tuple[str, float]] = []
    for name, (tensor, layer) in exposed.items():
        reference = _reference(tensor, wanted, outputs[name])
        reference = wanted.get(name) if reference is None else reference
        if reference is not None and reference.shape == outputs[name].shape:
            found.append((layer, _relative(outputs[name], reference)))
    parted = [entry for entry in found if not entry[1] <= _LAYER_TOLERANCE[precision]]
    return parted[0] if parted else max(found, key=lambda entry: entry[1], default=None)


def _reference(tensor: str, wanted: Mapping[str, Array], output: Array) -> Array | None:
    """PyTorch's values of a tensor; of one that holds a multiple of them, the multiple that is nearest."""
    reference = wanted.get(tensor.removesuffix(SCALED))
    if reference is None or not tensor.endswith(SCALED) or reference.shape != output.shape:
        return reference
    factor = float(np.vdot(output, reference)) / (float(np.vdot(reference, reference)) or 1.0)
    nearest: Array = factor * reference
    return nearest


def _relative(output: Array, reference: Array) -> float:
    scale = float(np.abs(reference).max()) or 1.0
    return float(np.abs(output.astype(np.float64) - reference).max()) / scale


class _Recorder(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.tensors: dict[str, Array] = {}

    def run_node(self, node: torch.fx.Node) -> object:
        result = super().run_node(node)
        if isinstance(result, torch.Tensor) and node.op == "call_function":
            self.tensors[node.name] = to_numpy(result)
        return result


def _intermediates(program: torch.export.ExportedProgram, feeds: Mapping[str, Array]) -> dict[str, Array]:
    recorder = _Recorder(program.module())
    with torch.inference_mode():
        recorder.run(*(torch.from_numpy(array) for array in feeds.values()))
    return recorder.tensors
