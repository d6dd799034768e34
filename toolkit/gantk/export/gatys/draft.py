# SPDX-License-Identifier: Apache-2.0
"""A graph that is written down node by node, in order, each with a name that says where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from gantk.export import functions
from gantk.export.opset import opset_of
from gantk.runtime.runner import Array
from gantk.tensors import TensorSpec

IR_VERSION = 10
NATIVE_CHANNELS = 16
"""From how many channels on, before and after, a convolution is one of gantk's functions; its gradient, after."""

TYPES = {"fp32": TensorProto.FLOAT, "bf16": TensorProto.BFLOAT16}
"""What convolutions may compute in. The slopes of a step leave what fp16 holds at both ends."""


@dataclass(frozen=True)
class StepGraph:
    """One graph with what goes in and out."""

    graph: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Draft:
    """Nodes and stored tensors.

    Args:
        precision: A key of `TYPES`.
    """

    def __init__(self, precision: str = "fp32") -> None:
        self._type, self._opset = TYPES[precision], opset_of(precision)
        self._nodes: list[onnx.NodeProto] = []
        self._stored: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, name: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """A node ``NAME/OPERATOR``; what it yields is called the same, or `to`."""
        return self.add_many(operator, name, inputs, (to or f"{name}/{operator}",), **attributes)[0]

    def add_many(
        self, operator: str, name: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        node = helper.make_node(operator, inputs, outputs, name=f"{name}/{operator}", **attributes)
        self._nodes.append(node)
        return outputs

    def call(
        self, function: str, name: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        """A node of one of gantk's functions."""
        return self.add_many(function, name, inputs, outputs, domain=functions.DOMAIN, **attributes)

    def convolve_relu(self, where: str, value: str, kernels: Array, offsets: Array) -> str:
        """A convolution with a border of one zero, and a ReLU.

        Args:
            where: Before the names of all that is made.
            value: What is convolved.
            kernels: [after, before, 3, 3].
            offsets: [after].
        """
        weights = {"kernels": kernels, "offsets": offsets}
        inputs = [value, *(self.weights(f"{where}/{name}", array) for name, array in weights.items())]
        if self._pays(min(kernels.shape[:2])):
            return self.call("Convolution3x3Relu", where, inputs, [f"{where}/Relu"])[0]
        made = self.add("Conv", where, *inputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        return self.add("Relu", where, made)

    def convolve_relu_grad(self, where: str, gradient: str, result: str, kernels: Array, stored: str) -> str:
        """The gradient of `convolve_relu` by its value.

        Args:
            where: Before the names of all that is made.
            gradient: By the result.
            result: What `convolve_relu` made.
            kernels: [after, before, 3, 3], its own.
            stored: What they are called where a node takes them as they are.
        """
        if self._pays(kernels.shape[0]):
            inputs = [gradient, result, self.weights(stored, kernels)]
            return self.call("Convolution3x3ReluGrad", where, inputs, [f"{where}/Conv"])[0]
        zero = self.weights("zero", np.float32(0.0))
        passed = self.add("Where", where, self.add("Greater", where, result, zero), gradient, zero)
        turned = self.weights(f"{where}/kernels", kernels.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
        return self.add("Conv", where, passed, turned, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def _pays(self, channels: int) -> bool:
        """Whether there is a native kernel, and much to sum."""
        return self._type == TensorProto.FLOAT and channels >= NATIVE_CHANNELS

    def constant(self, name: str, value: Any) -> str:
        """A stored tensor of the type that numpy gives it."""
        self._stored.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def weights(self, name: str, values: Array | np.float32) -> str:
        """A stored tensor of the type that convolutions compute in."""
        dtype = helper.tensor_dtype_to_np_dtype(self._type)
        return self.constant(name, np.ascontiguousarray(values).astype(dtype).reshape(np.shape(values)))

    def narrow(self, name: str, value: str) -> str:
        """A float32 tensor in the type that convolutions compute in."""
        return value if self._type == TensorProto.FLOAT else self._cast(f"{name}/narrow", value, self._type)

    def widen(self, name: str, value: str) -> str:
        """The other way round."""
        wide = TensorProto.FLOAT
        return value if self._type == wide else self._cast(f"{name}/wide", value, wide)

    def _cast(self, name: str, value: str, kind: int) -> str:
        # `to` is also what the attribute is called.
        return self.add_many("Cast", name, [value], [f"{name}/Cast"], to=kind)[0]

    def finish(
        self, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], variation: str
    ) -> StepGraph:
        """The graph, with the bodies of the functions that it calls.

        Args:
            name: Of the graph.
            inputs: Named as the tensors that nodes take and nobody makes.
            outputs: Named as what nodes yield.
            variation: The kind of total variation.
        """
        taken, given = ([_value(spec) for spec in specs] for specs in (inputs, outputs))
        graph = helper.make_graph(self._nodes, name, taken, given, [*self._stored.values()])
        called = {node.op_type for node in self._nodes if node.domain == functions.DOMAIN}
        opsets = {"": self._opset, functions.DOMAIN: functions.VERSION}
        model = helper.make_model(
            graph,
            functions=[body for body in functions.bodies(self._opset, variation) if body.name in called],
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
            ir_version=IR_VERSION,
        )
        return StepGraph(ir.from_proto(model), tuple(inputs), tuple(outputs))


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, kind, list(spec.shape))
