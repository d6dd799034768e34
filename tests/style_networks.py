# SPDX-License-Identifier: Apache-2.0
"""Small style networks as ONNX files and bundles, made without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import networks
from gantk.bundle import Bundle, Manifest, Variant, Writer
from gantk.tensors import TensorSpec

STYLES = ("waves", "candy", "mosaic")
SMALLEST = 8


def specs(styles: int = 1, *, pixels: bool = True) -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    """The inputs and the output of `style_network`."""
    picture = TensorSpec("picture", "float32", ("N", 3, "H", "W"), (0.0, 1.0), "NCHW", SMALLEST)
    stylized = TensorSpec("stylized", "float32", ("N", 3, "H", "W"), (0.0, 1.0), "NCHW")
    weights = TensorSpec("style_weights", "float32", ("N", styles), (0.0, 1.0), "NC")
    if pixels:
        picture, stylized = picture.as_pixels(), stylized.as_pixels()
    return ((picture,) if styles == 1 else (picture, weights)), stylized


def style_network(
    styles: int = 1, *, pixels: bool = True, width: int = 4, blocks: int = 2, seed: int = 0
) -> bytes:
    """A Johnson-type network: 9x9, two halvings, residual blocks, two enlargements, 9x9, cut to the input's size."""
    return _Style(styles, pixels, np.random.default_rng(seed)).build(width, blocks)


def adain_network() -> bytes:
    """The content moved towards the style picture's mean colour, by alpha."""
    inputs, stylized = adain_specs()
    wide = {"axes": np.array([1, 2]), "column": np.array([-1, 1, 1, 1])}
    nodes = [
        helper.make_node("Cast", ["picture"], ["p"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["style"], ["s"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["s", "axes"], ["mean"]),
        helper.make_node("Reshape", ["alpha", "column"], ["a"]),
        helper.make_node("Sub", ["mean", "p"], ["way"]),
        helper.make_node("Mul", ["way", "a"], ["part"]),
        helper.make_node("Add", ["p", "part"], ["sum"]),
        helper.make_node("Round", ["sum"], ["round"]),
        helper.make_node("Cast", ["round"], ["stylized"], to=TensorProto.UINT8),
    ]
    return _model(nodes, inputs, stylized, {name: array.astype(np.int64) for name, array in wide.items()}, {})


def adain_specs() -> tuple[tuple[TensorSpec, ...], TensorSpec]:
    shape = ("N", "H", "W", 3)
    picture = TensorSpec("picture", "uint8", shape, (0.0, 255.0), "NHWC")
    style = TensorSpec("style", "uint8", ("N", "HS", "WS", 3), (0.0, 255.0), "NHWC")
    alpha = TensorSpec("alpha", "float32", ("N",), (0.0, 1.0))
    return (picture, style, alpha), TensorSpec("stylized", "uint8", shape, (0.0, 255.0), "NHWC")


def style_bundle(root: Path, styles: int = 1, *, data: bytes | None = None, **options: Any) -> Bundle:
    inputs, stylized = specs(styles)
    config = {"styles": list(STYLES[:styles])}
    return _bundle(root, "style", config, inputs, stylized, data or style_network(styles, **options))


def adain_bundle(root: Path) -> Bundle:
    return _bundle(root, "adain", {}, *adain_specs(), adain_network())


def _bundle(
    root: Path, family: str, config: dict[str, Any], inputs: tuple[TensorSpec, ...], output: TensorSpec, data: bytes
) -> Bundle:  # fmt: skip
    parities = tuple(networks.parity(name) for name in ("onnxruntime", "openvino"))
    with Writer(root) as writer:
        variant = Variant(writer.add("model.fp32.onnx", data), "fp32", "plain", 20, parities)
        return writer.commit(Manifest(family, "tiny", config, inputs, (output,), (variant,)))


def adain_encoder_network() -> bytes:
    """AdaIN proper: a convolution with zeros around, a pooling that rounds up, the style's statistics, and back."""
    return _Style(1, True, np.random.default_rng(5)).build_adain()


class _Style:
    def __init__(self, styles: int, pixels: bool, rng: np.random.Generator) -> None:
        self._styles, self._pixels, self._rng = styles, pixels, rng
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, Any] = {}

    def build(self, width: int, blocks: int) -> bytes:
        value = self._enter()
        value = self._layer(value, 3, width, 9)
        value = self._layer(value, width, 2 * width, 3, stride=2)
        value = self._layer(value, 2 * width, 4 * width, 3, stride=2)
        for _ in range(blocks):
            inner = self._layer(value, 4 * width, 4 * width, 3)
            added = self._norm(self._convolve(inner, 4 * width, 4 * width, 3), 4 * width)
            value = self._add("Add", [value, added])
        value = self._layer(self._enlarge(value), 4 * width, 2 * width, 3)
        value = self._layer(self._enlarge(value), 2 * width, width, 3)
        self._leave(self._convolve(value, width, 3, 9, gain=0.25))
        inputs, stylized = specs(self._styles, pixels=self._pixels)
        return _model(self._nodes, inputs, stylized, self._weights, {"styles": list(STYLES[: self._styles])})

    def build_adain(self, width: int = 6) -> bytes:
        kernel = self._rng.standard_normal((width, 3, 3, 3)).astype(np.float32) * 0.3
        weight, plane = self._constant(kernel), self._constant(np.array([2, 3], np.int64))

        def encode(name: str) -> str:
            value = self._add("Conv", [self._enter(name), weight], pads=[1, 1, 1, 1])
            return self._add(
                "MaxPool", [self._add("Relu", [value])], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1
            )

        content, style = encode("picture"), encode("style")
        mean = self._add("ReduceMean", [style, plane])
        off = self._add("Sub", [style, mean])
        spread = self._add("Sqrt", [self._add("ReduceMean", [self._add("Mul", [off, off]), plane])])
        flat = [self._constant(np.full(width, value, np.float32)) for value in (1, 0)]
        normal = self._add("InstanceNormalization", [content, *flat])
        moved = self._add("Add", [self._add("Mul", [normal, spread]), mean])
        way = self._add("Sub", [moved, content])
        share = self._add("Reshape", ["alpha", self._constant(np.array([-1, 1, 1, 1], np.int64))])
        blended = self._add("Add", [content, self._add("Mul", [way, share])])
        self._leave(self._convolve(self._enlarge(blended), width, 3, 3))
        inputs, stylized = adain_specs()
        return _model(self._nodes, inputs, stylized, self._weights, {})

    def _enter(self, name: str = "picture") -> str:
        if not self._pixels:
            return name
        floats = self._add("Cast", [name], to=TensorProto.FLOAT)
        planes = self._add("Transpose", [floats], perm=[0, 3, 1, 2])
        return self._add("Mul", [planes, self._constant(np.float32(1 / 255))])

    def _leave(self, painted: str) -> None:
        first = 1 if self._pixels else 2
        size = self._add("Shape", ["picture"], start=first, end=first + 2)
        corner = [self._constant(np.array(values, np.int64)) for values in ([0, 0], [2, 3])]
        cut = self._add("Slice", [painted, corner[0], size, corner[1]])
        half = self._constant(np.float32(0.5))
        if not self._pixels:
            self._add("Add", [cut, half], output="stylized")
            return
        value = self._add("Mul", [self._add("Add", [cut, half]), self._constant(np.float32(255))])
        value = self._add("Round", [value])
        value = self._add("Clip", [value, self._constant(np.float32(0)), self._constant(np.float32(255))])
        value = self._add("Transpose", [value], perm=[0, 2, 3, 1])
        self._add("Cast", [value], output="stylized", to=TensorProto.UINT8)

    def _layer(self, value: str, before: int, after: int, kernel: int, stride: int = 1) -> str:
        return self._add("Relu", [self._norm(self._convolve(value, before, after, kernel, stride), after)])

    def _convolve(
        self, value: str, before: int, after: int, kernel: int, stride: int = 1, gain: float = 1.0
    ) -> str:
        p = kernel // 2
        padded = self._add(
            "Pad", [value, self._constant(np.array([0, 0, p, p, 0, 0, p, p], np.int64))], mode="reflect"
        )
        weight = self._rng.standard_normal((after, before, kernel, kernel)) * gain / (kernel * before**0.5)
        bias = self._rng.standard_normal(after) * 0.1
        names = [self._constant(array.astype(np.float32)) for array in (weight, bias)]
        return self._add("Conv", [padded, *names], strides=[stride, stride])

    def _norm(self, value: str, channels: int) -> str:
        scale, offset = (
            self._rng.normal(mean, 0.3, (self._styles, channels)).astype(np.float32) for mean in (1.0, 0.0)
        )
        if self._styles == 1:
            return self._add(
                "InstanceNormalization", [value, self._constant(scale[0]), self._constant(offset[0])]
            )
        flat = [self._constant(np.full(channels, v, np.float32)) for v in (1, 0)]
        normal = self._add("InstanceNormalization", [value, *flat])
        blends = []
        for each in (scale, offset):
            blend = self._add("MatMul", ["style_weights", self._constant(each)])
            blends.append(self._add("Unsqueeze", [blend, self._constant(np.array([2, 3], np.int64))]))
        return self._add("Add", [self._add("Mul", [normal, blends[0]]), blends[1]])

    def _enlarge(self, value: str) -> str:
        scales = self._constant(np.array([1, 1, 2, 2], np.float32))
        how = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        return self._add("Resize", [value, "", scales], **how)

    def _add(self, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        name = output or f"t{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(op, inputs, [name], name=f"{op}.{len(self._nodes)}", **attributes)
        )
        return name

    def _constant(self, array: Any) -> str:
        name = f"c{len(self._weights)}"
        self._weights[name] = array
        return name


def _model(
    nodes: list[onnx.NodeProto],
    inputs: tuple[TensorSpec, ...],
    output: TensorSpec,
    weights: dict[str, Any],
    config: dict[str, Any],
) -> bytes:
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    values = [networks._value(spec) for spec in inputs]
    graph = helper.make_graph(nodes, "style", values, [networks._value(output)], stored)
    facts = {
        "gantk.model": {"family": "style", "name": "tiny", "config": config},
        "gantk.inputs": [spec.to_json() for spec in inputs],
        "gantk.outputs": [output.to_json()],
    }
    return networks.model_bytes(graph, facts)
