# SPDX-License-Identifier: Apache-2.0
"""Small networks of convolutions and instance normalisations as ONNX graphs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx import NodeProto, helper

from export_graphs import make_graph


@dataclass(frozen=True)
class Layer:
    """A convolution of 3 x 3 and its normalisation.

    Args:
        mode: Of the padding before the convolution; empty for a border of the convolution's own.
        own: Whether scale and offset are computed for each picture.
        end: ``Relu``, ``Add`` of what the layer read, or nothing.
        enlarge: Whether the convolution makes the phases of pictures twice as large, less a border.
    """

    mode: str = "reflect"
    own: bool = False
    end: str = "Relu"
    enlarge: bool = False


class Draft:
    """Nodes and weights of a network, one after the other."""

    def __init__(self, channels: int, seed: int) -> None:
        self.channels, self.value = channels, "x"
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self._random = np.random.default_rng(seed)

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def normal(self, *shape: int) -> str:
        return self.weight(self._random.standard_normal(shape).astype(np.float32) * 0.3)

    def conv(self, value: str, inputs: int, outputs: int, kernel: int = 3, **attributes: object) -> str:
        return self.add("Conv", value, self.normal(outputs, inputs, kernel, kernel), **attributes)

    def pad(self, value: str, by: int, mode: str) -> str:
        return self.add("Pad", value, self.weight(np.array([0, 0, by, by, 0, 0, by, by])), mode=mode)

    def norm(self, value: str, channels: int, *, own: bool) -> str:
        if not own:
            scale, offset = (
                self.normal(channels),
                self.weight(np.linspace(0.5, 1, channels, dtype=np.float32)),
            )
            return self.add("InstanceNormalization", value, scale, offset, epsilon=1e-4)
        one, zero = self.weight(np.ones(channels, np.float32)), self.weight(np.zeros(channels, np.float32))
        value = self.add("InstanceNormalization", value, one, zero)
        style = self.add("Squeeze", self.add("GlobalAveragePool", "x"), self.weight(np.array([2, 3])))
        for kind in ("Mul", "Add"):
            by_channel = self.add("MatMul", style, self.normal(self.channels, channels))
            value = self.add(kind, value, self.add("Unsqueeze", by_channel, self.weight(np.array([2, 3]))))
        return value

    def layer(self, layer: Layer) -> None:
        before, c = self.value, self.channels
        value = self.pad(before, 1, layer.mode) if layer.mode else before
        own = {} if layer.mode else {"pads": [1, 1, 1, 1]}
        value = self.conv(value, c, 4 * c if layer.enlarge else c, **own)
        if layer.enlarge:
            value = self.add("DepthToSpace", value, blocksize=2, mode="DCR")
            cut = [self.weight(np.array(at)) for at in ([1, 1], [-1, -1], [2, 3])]
            value = self.add("Slice", value, *cut)
        value = self.norm(value, c, own=layer.own)
        if layer.end == "Relu":
            value = self.add("Relu", value)
        elif layer.end == "Add" and not layer.enlarge:
            value = self.add("Add", before, value)
        self.value = value

    def graph(self) -> ir.Model:
        self.nodes[-1].output[0] = "y"
        return make_graph(self.nodes, self.weights, self.channels, self.channels)


def network(layers: list[Layer], channels: int = 3, seed: int = 0) -> ir.Model:
    draft = Draft(channels, seed)
    for layer in layers:
        draft.layer(layer)
    return draft.graph()
