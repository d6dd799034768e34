# SPDX-License-Identifier: Apache-2.0
"""Runs in a process of its own, with TensorRT's real Python bindings over libraries that do nothing.

Defines the plugins with the bindings' own decorators, hands each its settings as the ONNX parser does, implements it
with their own symbolic expressions, and prints what came out as JSON.
"""

from __future__ import annotations

import json
from typing import Any

import tensorrt as trt
import tensorrt.plugin as plugins
from tensorrt.plugin._lib import QDP_REGISTRY, _TemplatePluginCreator
from tensorrt.plugin._tensor import SymIntExpr

from gantk.kernels import tensorrt
from gantk.kernels.tensorrt_settings import ATTRIBUTE, GramSettings, Settings, VariationSettings

OPERATIONS = {
    "SUM": lambda a, b: a + b, "SUB": lambda a, b: a - b, "PROD": lambda a, b: a * b, "FLOOR_DIV": lambda a, b: a // b,
    "CEIL_DIV": lambda a, b: -(-a // b),
}  # fmt: skip


class Number:
    """What TensorRT calls an IDimensionExpr: here it is known."""

    def __init__(self, value: int) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return True

    def get_constant_value(self) -> int:
        return self.value


class Builder:
    """What TensorRT calls an IExprBuilder."""

    def constant(self, value: int) -> Number:
        return Number(value)

    def operation(self, which: Any, first: Number, second: Number) -> Number:
        return Number(OPERATIONS[which.name](first.value, second.value))


def tensor(shape: tuple[int, ...], dtype: Any) -> Any:
    expressions = plugins.ShapeExprs(len(shape))
    for axis, size in enumerate(shape):
        expressions[axis] = plugins.ShapeExpr(size)
    made = plugins.TensorDesc(expressions, dtype)
    made.shape = plugins.Shape(shape)
    return made


def handed_on(name: str, settings: Settings) -> dict[str, Any]:
    """What the bindings make of the attributes of a node; a text's zero is among what the parser counts."""
    kinds = QDP_REGISTRY[f"gantk::{name}"].input_attrs
    creator = _TemplatePluginCreator(name, "gantk", {key: (True, kind) for key, kind in kinds.items()})
    text = settings.text().encode() + b"\0"
    fields = trt.PluginFieldCollection([trt.PluginField(ATTRIBUTE, text, trt.PluginFieldType.CHAR)])
    phase, wanted = trt.TensorRTPhase.BUILD, trt.QuickPluginCreationRequest.STRICT_AOT
    made: dict[str, Any] = creator.create_plugin(name, "gantk", fields, phase, wanted).attrs
    return made


def implemented(name: str, inputs: list[Any], settings: Settings) -> dict[str, Any]:
    """What a plugin says of its outputs, its tactics, and its launch."""
    plugin, attributes = QDP_REGISTRY[f"gantk::{name}"], handed_on(name, settings)
    fake = [plugins.TensorDesc(plugins.ShapeExprs(one.ndim, _is_dummy=True), one.dtype) for one in inputs]
    types = [one.dtype.name for one in plugin.register_func(*fake, **attributes)]
    SymIntExpr._exprBuilder = Builder()
    outputs = plugin.register_func(*inputs, **attributes)
    values = list(attributes.values())
    combinations = []
    if plugin.autotune_func is not None:
        for one in plugin.autotune_func(*inputs, *values, outputs):
            combinations += [
                ([kind.name for kind in each.types], each.tactics) for each in one._get_combinations()
            ]
    kernel, ptx, launch, integers = plugin.aot_impl_func(*inputs, *values, outputs, 1)
    assert isinstance(launch, plugins.KernelLaunchParams) and isinstance(integers, plugins.SymIntExprs)
    assert all(isinstance(one, plugins.SymInt32) for one in integers)
    return {
        "types": types,
        "shapes": [[size.constant_value() for size in one.shape_expr] for one in outputs],
        "combinations": combinations,
        "kernel": kernel,
        "entry": f".entry {kernel}(" in ptx,
        "launch": {
            name: getattr(launch, name)._expr.value for name in ("grid_x", "grid_y", "block_x", "shared_mem")
        },
        "integers": [one._expr.value for one in integers],
        "attributes": plugin.aot_impl_attr_names,
    }


def main() -> None:
    trt.IDimensionExpr = Number  # The bindings' own comes from an engine's builder alone.
    # Integers become expressions while a builder is there, as they are while TensorRT asks for shapes.
    SymIntExpr._exprBuilder = Builder()
    features = tensor((2, 70, 24, 40), trt.float32)
    partial = tensor((2, 3, 3, 64, 64), trt.float32)
    pictures = tensor((2, 3, 48, 64), trt.float16)
    partials = tensor((2, 12), trt.float32)
    SymIntExpr._exprBuilder = None
    tensorrt.register(trt, lazy=True)
    gram = GramSettings("compute_80", "exact", 64, 3, 8, 0.5)
    smooth = VariationSettings("compute_80", "l1", 0.0, 5, packed=True)
    found = {
        "GramPartial": implemented("GramPartial", [features], gram),
        "GramReduce": implemented("GramReduce", [partial, features], gram),
        "VariationPartial": implemented("VariationPartial", [pictures], smooth),
        "VariationFinish": implemented("VariationFinish", [partials], Settings("compute_80")),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
