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
from gantk.export.layers import first_apart
from gantk.export.precision import expose_intermediates
from gantk.export.reference import Feeds
from gantk.export.torch_reference import to_numpy
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.registry import open_model
from gantk.runtime.runner import Array


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

    def right(name: str, tensor: str, output: Array) -> Array | None:
        reference = _reference(tensor, wanted, output)
        return wanted.get(name) if reference is None else reference

    return first_apart(outputs, exposed, right, precision)


def _reference(tensor: str, wanted: Mapping[str, Array], output: Array) -> Array | None:
    """PyTorch's values of a tensor; of one that holds a multiple of them, the multiple that is nearest."""
    reference = wanted.get(tensor.removesuffix(SCALED))
    if reference is None or not tensor.endswith(SCALED) or reference.shape != output.shape:
        return reference
    factor = float(np.vdot(output, reference)) / (float(np.vdot(reference, reference)) or 1.0)
    nearest: Array = factor * reference
    return nearest


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
