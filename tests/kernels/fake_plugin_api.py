# SPDX-License-Identifier: Apache-2.0
"""What `gantk.kernels.tensorrt` uses of ``tensorrt`` and ``tensorrt.plugin`` (10.16 to 11.4), and a builder of engines.

Its rules are those of TensorRT's own Python code: annotations are read by `inspect.signature` and have to be types,
outputs a tuple; an integer of a kernel has to be a `SymInt32`; a size is fake while only types are known, later an
expression of the inputs' sizes. An engine keeps kernels and expressions and forgets the Python functions.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np

DataType = Enum("DataType", ["FLOAT", "HALF", "BF16", "INT32"])
Sizes = Mapping[str, int]


class SymInt32:
    """An integer, an expression of sizes, or fake: what it is will be known later."""

    def __init__(self, value: Any = None) -> None:
        if isinstance(value, SymInt32):
            value = value.evaluate
        elif isinstance(value, int):
            number = value
            value = lambda sizes: number  # noqa: E731
        self.evaluate: Callable[[Sizes], int] | None = value

    @property
    def is_fake(self) -> bool:
        return self.evaluate is None

    def _with(self, other: Any, function: Callable[[int, int], int]) -> ShapeExpr:
        other = other if isinstance(other, SymInt32) else SymInt32(other)
        if self.evaluate is None or other.evaluate is None:
            return ShapeExpr()
        first, second = self.evaluate, other.evaluate
        return ShapeExpr(lambda sizes: function(first(sizes), second(sizes)))

    def __add__(self, other: Any) -> ShapeExpr:
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> ShapeExpr:
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other: Any) -> ShapeExpr:
        return self._with(other, lambda a, b: a * b)

    def __floordiv__(self, other: Any) -> ShapeExpr:
        return self._with(other, lambda a, b: a // b)

    def __bool__(self) -> bool:
        raise RuntimeError("cannot evaluate a symbolic expression as boolean")


class ShapeExpr(SymInt32):
    pass


class SymIntExprs:
    def __init__(self, length: int) -> None:
        self._items: list[Any] = [None] * length

    def __setitem__(self, index: int, value: Any) -> None:
        self._items[index] = value

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class KernelLaunchParams:
    NAMES = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")

    def __init__(self) -> None:
        for name in self.NAMES:
            setattr(self, name, 0 if name == "shared_mem" else 1)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.NAMES:
            raise AttributeError(name)
        self.__dict__[name] = SymInt32(value)


class AutoTuneCombination:
    def __init__(self, io_types: str, layouts: str, tactics: Sequence[int]) -> None:
        self.io_types = [kinds.strip() for kinds in io_types.split(",")]
        self.tactics = list(tactics)
        assert layouts == "LINEAR" and all(tactic > 0 for tactic in tactics)


@dataclass
class TensorDesc:
    """`shape` has -1 for a size that is open; it is there only while tactics are timed."""

    shape_expr: Sequence[Any]
    dtype: DataType
    shape: tuple[int, ...] | None = None

    def like(self) -> TensorDesc:
        return TensorDesc(self.shape_expr, self.dtype)


@dataclass
class Plugin:
    inputs: list[str]
    attributes: dict[str, type]
    describe: Callable[..., Any]
    outputs: int
    autotune: Callable[..., Any] | None = None
    implement: Callable[..., Any] | None = None


class Plugins:
    """The module ``tensorrt.plugin``."""

    TensorDesc, ShapeExpr, SymInt32, SymIntExprs = TensorDesc, ShapeExpr, SymInt32, SymIntExprs
    KernelLaunchParams, AutoTuneCombination = KernelLaunchParams, AutoTuneCombination

    def __init__(self) -> None:
        self.op = SimpleNamespace()
        self.known: dict[str, Plugin] = {}

    @staticmethod
    def cdiv(first: Any, second: Any) -> ShapeExpr:
        assert not isinstance(first, int) or not isinstance(second, int)
        return SymInt32(first)._with(second, lambda a, b: -(-a // b))

    @staticmethod
    def from_shape_expr(shape: tuple[Any, ...], dtype: DataType) -> TensorDesc:
        return TensorDesc([e if isinstance(e, ShapeExpr) else ShapeExpr(e) for e in shape], dtype)

    def register(self, plugin_id: str, lazy_register: bool = False) -> Callable[..., Any]:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(function)
            given = {name: one.annotation for name, one in signature.parameters.items()}
            assert all(isinstance(kind, type) for kind in given.values()), f"annotations are text: {given}"
            inputs = [name for name, kind in given.items() if issubclass(kind, TensorDesc)]
            attributes = {name: kind for name, kind in given.items() if name not in inputs}
            assert list(given) == [*inputs, *attributes], "tensors come first"
            assert set(attributes.values()) <= {int, float, str, bool, bytes}
            assert not {"outputs", "stream", "tactic"} & set(given)
            assert typing.get_origin(signature.return_annotation) is tuple
            outputs = typing.get_args(signature.return_annotation)
            assert all(kind is TensorDesc for kind in outputs)
            self.known[plugin_id] = Plugin(inputs, attributes, function, len(outputs))
            namespace, name = plugin_id.split("::")
            space = self.op.__dict__.setdefault(namespace, SimpleNamespace())
            setattr(space, name, self.known[plugin_id])
            return function

        return decorate

    def autotune(self, plugin_id: str) -> Callable[..., Any]:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            plugin = self.known[plugin_id]
            names = list(inspect.signature(function).parameters)
            assert names == [*plugin.inputs, *plugin.attributes, "outputs"]
            plugin.autotune = function
            return function

        return decorate

    def aot_impl(self, plugin_id: str) -> Callable[..., Any]:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            plugin, signature = self.known[plugin_id], inspect.signature(function)
            assert list(signature.parameters) == [*plugin.inputs, *plugin.attributes, "outputs", "tactic"]
            assert typing.get_args(signature.return_annotation)[2:] == (KernelLaunchParams, SymIntExprs)
            plugin.implement = function
            return function

        return decorate


def module() -> Any:
    """The module ``tensorrt``."""
    return SimpleNamespace(
        __name__="tensorrt",
        plugin=Plugins(),
        float32=DataType.FLOAT,
        float16=DataType.HALF,
        bfloat16=DataType.BF16,
    )


@dataclass
class Step:
    """A plugin in an engine: one kernel."""

    inputs: list[str]
    outputs: list[str]
    results: list[TensorDesc]
    kernel: str
    ptx: str
    launch: KernelLaunchParams
    integers: SymIntExprs
    tactics: list[int] = field(default_factory=lambda: [0])


def build(trt: Any, nodes: Sequence[Any], tensors: dict[str, TensorDesc], choose: int = 0) -> list[Step]:
    """An engine of plugin nodes, as the ONNX parser and the builder make it.

    Args:
        trt: `module()`, in which plugins are registered.
        nodes: ONNX nodes in their order.
        tensors: Their inputs, with expressions; outputs are added.
        choose: Which of a plugin's tactics is taken, as if it were the fastest.
    """
    from onnx import helper

    engine = []
    for node in nodes:
        given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        plugin = trt.plugin.known[f"{given.pop('plugin_namespace').decode()}::{node.op_type}"]
        assert given.pop("plugin_version") == b"1"
        attributes = {name: _handed_on(given[name], kind) for name, kind in plugin.attributes.items()}
        assert given.keys() == attributes.keys()
        inputs = [tensors[name] for name in node.input]
        fake = [TensorDesc([ShapeExpr()] * len(one.shape_expr), one.dtype) for one in inputs]
        types = [one.dtype for one in plugin.describe(*fake, **attributes)]
        results = list(plugin.describe(*inputs, **attributes))
        assert [one.dtype for one in results] == types and len(results) == plugin.outputs == len(node.output)
        values, tactics = list(attributes.values()), [0]
        if plugin.autotune is not None:
            (combination,) = plugin.autotune(*inputs, *values, results)
            names = {DataType.FLOAT: "FP32", DataType.HALF: "FP16", DataType.BF16: "BF16"}
            assert combination.io_types == [names[one.dtype] for one in (*inputs, *results)]
            tactics = combination.tactics
        tactic = tactics[choose % len(tactics)]
        kernel, ptx, launch, integers = plugin.implement(*inputs, *values, results, tactic)
        assert all(type(one) is SymInt32 or issubclass(type(one), SymInt32) for one in integers)
        engine.append(
            Step(list(node.input), list(node.output), results, kernel, ptx, launch, integers, tactics)
        )
        tensors.update(zip(node.output, results, strict=True))
    return engine


def _handed_on(value: Any, kind: type) -> Any:
    """An attribute as it reaches Python: texts as the parser ends them, others as 10.16 makes them of an array."""
    return (value + b"\0").decode() if kind is str else kind(np.array([value]))


def arguments(step: Step, addresses: Mapping[str, int], sizes: Sizes) -> bytes:
    """A kernel's arguments: pointers to inputs, integers, pointers to outputs, each at a multiple of its own size."""
    data = bytearray()
    numbers = [np.int32(one.evaluate(sizes)) for one in step.integers]
    for value in (
        *(np.uint64(addresses[name]) for name in step.inputs),
        *numbers,
        *(np.uint64(addresses[name]) for name in step.outputs),
    ):
        data.extend(b"\0" * (-len(data) % value.itemsize))
        data.extend(value.tobytes())
    return bytes(data)
