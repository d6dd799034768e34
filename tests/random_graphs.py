# SPDX-License-Identifier: Apache-2.0
"""Random networks of all that the rewrites look for, and of what looks like it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from norm_graphs import Draft

AROUND = [0, 0, 1, 1, 0, 0, 1, 1]
NEAREST = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}


class Sketch(Draft):
    """A network of a few steps on pictures, each with attributes that are usual more often than odd."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        super().__init__(self.choose.choice([1, 2, 3, 4, 16]), seed)
        self.depth = self.channels
        self.seen = [("x", self.depth)]
        sides = [self.choose.randint(5, 9) for _ in range(2)]
        self.x = np.random.default_rng(seed).standard_normal((2, self.depth, *sides)).astype(np.float32)
        steps: list[Callable[[str], str]] = [
            *([self.convolved] * 4 + [self.transposed] * 3 + [self.enlarged] * 3 + [self.normalized] * 3),
            *(self.padded, self.cut, self.cut, self.pointwise, self.pointwise, self.scaled, self.joined),
            *(self.residual, self.residual, self.spread, self.beside, self.styled, self.batch_normalized),
        ]
        for _ in range(self.choose.randint(1, 5)):
            self._take(self.choose.choice(steps))
        self.add("Identity", self.value)

    def _take(self, step: Callable[[str], str]) -> None:
        """A step further, unless nothing would be left of the pictures or what is joined is not as large."""
        nodes, depth = len(self.nodes), self.depth
        value = step(self.value)
        try:
            fits = min(self.sides()) > 1
        except onnx.shape_inference.InferenceError:
            fits = False
        if fits:
            self.value = value
            self.seen.append((value, self.depth))
        else:
            del self.nodes[nodes:]
            self.depth = depth

    def often(self, usual: Any, *odd: Any) -> Any:
        return usual if self.choose.random() < 0.7 else self.choose.choice(odd)

    def rarely(self) -> bool:
        return self.choose.random() < 0.1

    def sides(self) -> tuple[int, int]:
        """The height and width of the pictures so far, when `x` comes in."""
        if not self.nodes:
            return self.x.shape[2], self.x.shape[3]
        shape = self._model(list(self.x.shape)).graph.output[0].type.tensor_type.shape
        return shape.dim[2].dim_value, shape.dim[3].dim_value

    def parameters(self, outputs: int, *shape: int) -> list[str]:
        """The weights of a convolution, and its bias if it has one; computed ones are rare."""
        names = [self.normal(*shape), *([self.normal(outputs)] if self.often(True, False) else [])]
        return [self.add("Neg", name) if self.rarely() else name for name in names]

    def convolved(self, value: str, **attributes: object) -> str:
        kernel = self.often((3, 3), (1, 1), (2, 2), (3, 2), (5, 6), (9, 9)) if not attributes else (3, 3)
        group = 2 if self.rarely() and self.depth % 2 == 0 else 1
        before, self.depth = self.depth, self.choose.choice([2, 4, 16])
        told = {"strides": [1, 1], "dilations": [1, 1]}  # As they are by default.
        odd = {"strides": [2, 2]}, {"strides": [2, 1]}, {"dilations": [2, 1]}, {"auto_pad": "SAME_UPPER"}
        how: dict[str, Any] = {**self.often(self.often({}, told), *odd)}
        half = [size // 2 for size in kernel]
        if "auto_pad" not in how:
            how["pads"] = self.often(half + half, [size - 1 for size in half] + half, [0] * 4, [2, 0, 1, 1])
            how |= attributes
        how["group"] = group
        return self.add(
            "Conv", value, *self.parameters(self.depth, self.depth, before // group, *kernel), **how
        )

    def transposed(self, value: str) -> str:
        kernel = self.often((4, 4), (3, 3), (2, 2), (4, 3))
        group = 2 if self.rarely() and self.depth % 2 == 0 else 1
        before, self.depth = self.depth, self.choose.choice([2, 4, 6])
        told = {"dilations": [1, 1], "output_padding": [0, 0]}
        told = told if kernel != (3, 3) else {"output_padding": [1, 1]}
        odd = {"output_padding": [1, 0]}, {"dilations": [2, 2]}
        how: dict[str, Any] = {**self.often({}, told, *odd), "group": group}
        how["strides"] = self.often([2, 2], [2, 2], [2, 1])
        how["pads"] = self.often([1] * 4, [0] * 4, [1, 0, 1, 1], [3] * 4)
        weights = self.parameters(self.depth, before, self.depth // group, *kernel)
        return self.add("ConvTranspose", value, *weights, **how)

    def enlarged(self, value: str) -> str:
        factor, how = self.often(2, 1, 3), self.often(NEAREST, {"mode": "nearest"}, {"mode": "linear"})
        axes, scales = self.often(([], [1, 1, factor, factor]), ([2, 3], [factor, factor]))
        how = {**how, "axes": axes} if axes else how
        value = self.add("Resize", value, "", self.weight(np.array(scales, np.float32)), **how)
        if self.often(True, False):
            return self.convolved(value, pads=[1] * 4)
        return self.convolved(self.padded(value), pads=[0] * 4)

    def padded(self, value: str) -> str:
        amounts = self.often(
            AROUND, [0, 0, 1, 0, 0, 0, 0, 0], [0, 0, -1, 1, 0, 0, 1, 0], [0, 0, 4, 4, 0, 0, 4, 4]
        )
        mode = self.often("reflect", "edge", "constant", "wrap") if min(self.sides()) > 4 else "constant"
        filling = self.weight(np.float32(self.often(0, 0.7))) if mode == "constant" else ""
        if filling and self.rarely():
            filling = self.add("Neg", filling)
        order = self.often([], [2, 1, 0, 3])
        amounts = [amounts[axis + start] for start in (0, 4) for axis in order or range(4)]
        axes = [self.weight(np.array(order))] if order else []
        return self.add("Pad", value, self.weight(np.array(amounts)), filling, *axes, mode=mode)

    def cut(self, value: str) -> str:
        if min(self.sides()) < 4:
            return value
        inner: tuple[list[int], ...] = ([1, 1], [-1, -1], [2, 3])
        odd = ([0, 1], [3, -1], [2, 3]), ([1], [-1], [2]), ([1, 0], [-1, 4], [-1, -2]), (*inner, [1, 1])
        every_other = ([0, 0], [99, 99], [2, 3], [2, 2])
        return self.add(
            "Slice", value, *(self.weight(np.array(at)) for at in self.often(inner, *odd, every_other))
        )

    def normalized(self, value: str) -> str:
        if self.often(True, False):
            value = self.norm(value, self.depth, own=False)
        else:
            one, zero = (self.weight(np.full(self.depth, number, np.float32)) for number in (1, 0))
            value = self.add("InstanceNormalization", value, one, zero)
            style = self.add("ReduceMean", "x", self.weight(np.array([1, 2, 3])), keepdims=0)
            style = self.add("Unsqueeze", style, self.weight(np.array([1])))
            for kind in ("Mul", "Add"):
                by_channel = self.add("MatMul", style, self.normal(1, self.often(self.depth, 1)))
                by_channel = self.add("Unsqueeze", by_channel, self.weight(np.array([2, 3])))
                value = self.add(kind, *self.often((value, by_channel), (by_channel, value)))
        return self.add("Relu", value) if self.often(True, False) else value

    def residual(self, value: str) -> str:
        inside = self.normalized(self.conv(self.pad(value, 1, "edge"), self.depth, self.depth))
        return self.add("Add", *self.often((value, inside), (inside, value)))

    def pointwise(self, value: str) -> str:
        kind = self.often("Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "Neg", "PRelu", "Elu")
        bounds = [self.weight(np.float32(at)) for at in (-0.5, 0.4)] if kind == "Clip" else []
        slopes = [self.normal(self.depth, 1, 1)] if kind == "PRelu" else []
        return self.add(kind, value, *bounds, *slopes)

    def scaled(self, value: str) -> str:
        shape = self.choose.choice([(), (1,), (self.depth, 1, 1), (1, self.depth, 1, 1)])
        number = self.weight(np.random.default_rng(len(self.nodes)).uniform(0.5, 2, shape).astype(np.float32))
        kind = self.often("Mul", "Add", "Sub", "Div")
        return self.add(
            kind, *self.often((value, number), (number, value) if kind != "Div" else (value, number))
        )

    def joined(self, value: str) -> str:
        """With itself, or what there was before."""
        other = self.choose.choice([name for name, depth in self.seen if depth == self.depth])
        return self.add(self.often("Add", "Mul"), *self.often((value, other), (other, value)))

    def beside(self, value: str) -> str:
        """Beside what there was before and is as large, or above it."""
        other = self.choose.choice([name for name, depth in self.seen if depth == self.depth])
        axis = self.often(1, -3, 2, 3)
        self.depth *= 2 if axis in (1, -3) else 1
        return self.add("Concat", value, other, axis=axis)

    def styled(self, value: str) -> str:
        """By one value for each channel that is computed of the pictures."""
        return self.add("Mul", *self.often((value, self.add("GlobalAveragePool", value)), (value, value)))

    def batch_normalized(self, value: str) -> str:
        scale, offset, mean = (self.normal(self.depth) for _ in range(3))
        variance = self.weight(np.linspace(0.5, 2, self.depth, dtype=np.float32))
        return self.add("BatchNormalization", value, scale, offset, mean, variance)

    def spread(self, value: str) -> str:
        if self.depth % 4:
            return value
        self.depth //= 4
        return self.add("DepthToSpace", value, blocksize=2, mode=self.often("DCR", "CRD"))

    def graph(self) -> ir.Model:
        """With two values inside among the outputs, at times."""
        self.nodes[-1].output[0] = "y"
        shown = [name for name, _ in self.seen if name != "x" and self.choose.random() < 0.1]
        return ir.from_proto(self._model(["N", self.channels, "H", "W"], *shown))

    def _model(self, sizes: list[Any], *outputs: str) -> onnx.ModelProto:
        """Whose first output is what the last node yields."""
        names = dict.fromkeys([self.nodes[-1].output[0], *outputs])
        used = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items() if name in used],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
