# SPDX-License-Identifier: Apache-2.0
"""PyTorch's exporter takes a second and more for each network; tests that are not about it share what it made."""

from __future__ import annotations

import copy
import functools
import hashlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from gantk.export.onnx import Traced
    from gantk.tensors import TensorSpec

_keeps_operators = False
_traced: dict[str, Traced] = {}


def keep_operators() -> None:
    """Let each export start from a copy of the table of operators that the first one read.

    PyTorch parses the source of five hundred operators anew for every export: as much work as a small network's.
    """
    global _keeps_operators  # noqa: PLW0603
    if _keeps_operators or "gantk.export.onnx" not in sys.modules:
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = functools.cache(ONNXRegistry.from_torchlib)

    def from_torchlib(*arguments: Any, **options: Any) -> ONNXRegistry:
        registry = copy.copy(read(*arguments, **options))
        registry.functions = {target: [*each] for target, each in registry.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = staticmethod(from_torchlib)  # type: ignore[method-assign,assignment]
    _keeps_operators = True


def trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `gantk.export` take a copy of the graph of a network that this process has traced before."""
    import onnx_ir as ir

    from gantk.export import onnx, pipeline
    from gantk.export.onnx import Traced

    def trace(module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Traced:
        key = _identity(module, inputs, outputs)
        if key not in _traced:
            _traced[key] = onnx.trace(module, inputs, outputs)
        kept = _traced[key]
        return Traced(ir.from_proto(ir.to_proto(kept.graph)), kept.program)

    monkeypatch.setattr(pipeline, "trace", trace)


def _identity(module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """A hash of a network's layers, weights, inputs and outputs."""
    state = hashlib.sha256(f"{module}{[*inputs]}{[*outputs]}".encode())
    for name, tensor in module.state_dict().items():
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()
