# SPDX-License-Identifier: Apache-2.0
"""Modulated convolutions (Karras et al., arXiv 1912.04958, section 2.2) with weights that are constants.

StyleGAN2 and its kin multiply weights by a style for each input and by a demodulation for each output, and so does the
file that an exporter makes of one: each picture has weights of its own, which no backend can lay out before it runs,
and each picture of a batch is a group. A convolution is linear in both: styles may multiply its features instead, and
demodulations its results. The sum of squares of such weights is a product of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from gantk.export.precision import IN_FLOAT
from gantk.export.rewrites.graphs import (
    Float64,
    Replacement,
    attribute,
    axes_of,
    constant,
    drop_unused_weights,
    ints,
    optional,
    squared,
)

_MOVERS = frozenset({"Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""What yields the values that it is given, elsewhere or more than once."""

_PICTURE, _OUTPUT, _INPUT = range(3)
"""The first axes of the weights of all pictures; rows and columns follow."""


@dataclass(frozen=True)
class _Factor:
    """A factor of weights that is computed.

    Args:
        value: The tensor that has it.
        places: For each weight the place of its factor in that.
        divides: Weights are divided by it.
    """

    value: ir.Value
    places: NDArray[np.int32]
    divides: bool = False

    @cached_property
    def axes(self) -> set[int]:
        """The axes of weights along which it is not the same."""
        places = self.places
        return {axis for axis in range(places.ndim) if (places != places.take([0], axis)).any()}

    @cached_property
    def sizes(self) -> tuple[int, ...] | None:
        """Its tensor's shape, once it has the axes of weights; `None` where it is in another order."""
        own = self.places[tuple(slice(None if axis in self.axes else 1) for axis in range(self.places.ndim))]
        assert self.value.shape is not None
        count = math.prod(self.value.shape.numpy())
        return own.shape if np.array_equal(own.ravel(), np.arange(count)) else None


@dataclass(frozen=True)
class _Weights:
    """Weights that are products.

    Args:
        kernel: What is constant, [pictures, outputs, inputs, rows, columns].
        factors: What is not.
    """

    kernel: Float64
    factors: tuple[_Factor, ...]

    @property
    def are_modulated(self) -> bool:
        """Whether all pictures have one kernel, and factors that are for whole inputs or outputs."""
        whole = ({_PICTURE, _INPUT}, {_PICTURE, _OUTPUT})
        apart = all(f.sizes and any(f.axes <= axes for axes in whole) for f in self.factors)
        return apart and bool(self.factors) and not np.ptp(self.kernel, axis=_PICTURE).any()

    def of(self, axis: int) -> list[_Factor]:
        """The factors for inputs or for outputs; those for neither are for outputs."""
        return [f for f in self.factors if (_INPUT in f.axes) == (axis == _INPUT)]


def modulated_to_features(graph: ir.Model) -> int:
    """Let modulated convolutions have constant weights, and multiply their features and results.

    Where the shapes of weights are known.

    Returns:
        The number of convolutions turned.
    """
    turned = sum(_turn(graph.graph, node) for node in list(graph.graph))
    if turned:
        for node in list(graph.graph):
            _turn_sum(graph.graph, node)
            _skip_reshapes(node)
        RemoveUnusedNodesPass()(graph)
        drop_unused_weights(graph.graph)
        ShapeInferencePass()(graph)
    return turned


def _turn(graph: ir.Graph, convolution: ir.Node) -> bool:
    transposed = convolution.op_type == "ConvTranspose"
    if not transposed and convolution.op_type != "Conv":
        return False
    features, weight = convolution.inputs[:2]
    pictures = attribute(convolution, "group", 1)
    weights = _weights_of(weight, pictures, transposed=transposed)
    if weights is None or features is None or not weights.are_modulated:
        return False
    if pictures > 1 and (features.shape is None or features.shape[0] != 1):
        return False
    new = Replacement(graph, convolution)
    outputs, inputs = weights.kernel.shape[1:3]
    if pictures > 1:
        groups = features
        features = _reshaped(new, groups, [pictures, inputs, 0, 0], "pictures")
        features.type = groups.type
        features.shape = None if groups.shape is None else ir.Shape([pictures, inputs, *groups.shape[2:]])
    styles, demodulations = (_product(new, weights.of(axis), axis) for axis in (_INPUT, _OUTPUT))
    if styles is not None:
        features = new.add("Mul", [features, styles], "modulated")
    kernel = weights.kernel[0].swapaxes(0, 1) if transposed else weights.kernel[0]
    attributes = {name: value for name, value in convolution.attributes.items() if name != "group"}
    result = new.add(convolution.op_type, [features, new.weight("weight", kernel)], "convolved", **attributes)
    if demodulations is not None:
        result = new.add("Mul", [result, demodulations], "demodulated")
    bias = optional(convolution, 2)
    if bias is not None:
        result = new.add("Add", [result, _reshaped(new, bias, [pictures, outputs, 1, 1], "bias")], "biased")
    if pictures > 1:
        made = convolution.outputs[0].shape
        result.type = convolution.outputs[0].type
        result.shape = None if made is None else ir.Shape([pictures, outputs, *made[2:]])
        result = _reshaped(new, result, [1, pictures * outputs, 0, 0], "groups")
    new.finish(result)
    return True


def _skip_reshapes(last: ir.Node) -> None:
    """Let a tensor that is reshaped to what it was be read as it was: pictures, after they were groups."""
    made = last.outputs[0]
    value, node = made, last if last.op_type == "Reshape" else None
    while node is not None and node.op_type == "Reshape" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    known = made.shape is not None and made.shape.is_static() and made.shape == value.shape
    if known and value is not made and not made.is_graph_output():
        made.replace_all_uses_with(value)


def _turn_sum(graph: ir.Graph, total: ir.Node) -> None:
    """Turn a sum of squares of weights, by picture and output, into a product of matrices.

    It is one of float32, for it squares styles.
    """
    value, made = _squared(total), total.outputs[0].shape
    factors = None if value is None or made is None or not made.is_static() else _factors(value)
    if not factors:
        return
    of_one = factors[0].places.ndim == 4
    weights = _with_axes(factors, lambda places: places[None] if of_one else places)
    summed = {axis % weights.kernel.ndim + of_one for axis in axes_of(total)}
    if summed != {_INPUT, 3, 4} or weights.kernel.ndim != 5 or not weights.are_modulated:
        return
    if any(_OUTPUT in factor.axes for factor in weights.factors):
        return
    pictures, inputs = (max(f.sizes[axis] for f in weights.factors if f.sizes) for axis in (_PICTURE, _INPUT))
    outputs = weights.kernel.shape[_OUTPUT]
    sizes = list(made.numpy())
    if math.prod(sizes) != pictures * outputs:
        return
    new = Replacement(graph, total)
    styles = _product(new, weights.factors, _INPUT)
    assert styles is not None
    rows = _reshaped(new, styles, [pictures, inputs], "rows")
    squares = new.add("Mul", [rows, rows], "squares")
    by_input = np.square(weights.kernel[0]).sum((2, 3)).T
    matrix = by_input if inputs == len(by_input) else by_input.sum(0, keepdims=True)
    sums = new.add("MatMul", [squares, new.weight("matrix", matrix)], "sums")
    result = _reshaped(new, sums, sizes, "result")
    for value in (squares, sums, result):
        node = value.producer()
        assert node is not None
        node.metadata_props[IN_FLOAT] = "true"
    new.finish(result)


def _squared(total: ir.Node) -> ir.Value | None:
    """What a node adds up the squares of."""
    given = total.inputs[0] if total.inputs else None
    if total.op_type == "ReduceSumSquare":
        return given
    return None if given is None or total.op_type != "ReduceSum" else squared(given)


def _weights_of(value: ir.Value | None, pictures: int, *, transposed: bool) -> _Weights | None:
    """The weights of a convolution of so many groups, if they are products."""
    factors = None if value is None or value.const_value is not None else _factors(value)
    if value is None or not factors or value.shape is None or len(value.shape) != 4:
        return None

    def apart(places: NDArray[np.int32]) -> NDArray[np.int32]:
        by_picture = places.reshape(pictures, -1, *places.shape[1:])
        return by_picture.swapaxes(1, 2) if transposed else by_picture

    return _with_axes(factors, apart)


def _with_axes(
    factors: Sequence[_Factor], apart: Callable[[NDArray[np.int32]], NDArray[np.int32]]
) -> _Weights:
    """Weights of these factors, once their places have the axes that they want."""
    kernel, computed = np.ones(()), []
    for factor in [replace(factor, places=apart(factor.places)) for factor in factors]:
        array = constant(factor.value)
        if array is None:
            computed.append(factor)
            kernel = np.broadcast_to(kernel, factor.places.shape)
        else:
            numbers = array.ravel()[factor.places]
            kernel = kernel / numbers if factor.divides else kernel * numbers
    return _Weights(kernel, tuple(computed))


def _factors(value: ir.Value) -> list[_Factor] | None:
    """What a tensor is a product of, constants too; `None` where a shape is not known."""
    shape, node = value.shape, value.producer()
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    sizes = shape.numpy()
    if node is not None and value.const_value is None:
        if node.op_type in _MOVERS and node.inputs[0] is not None:
            found = _factors(node.inputs[0])
            return found and [replace(f, places=_moved(node, f.places, sizes)) for f in found]
        if node.op_type in ("Mul", "Div"):
            parts = [None if given is None else _factors(given) for given in node.inputs]
            if parts[0] is None or parts[1] is None:
                return None
            divided = node.op_type == "Div"
            second = [replace(factor, divides=factor.divides != divided) for factor in parts[1]]
            return [replace(f, places=np.broadcast_to(f.places, sizes)) for f in (*parts[0], *second)]
    return [_Factor(value, np.arange(math.prod(sizes), dtype=np.int32).reshape(sizes))]


def _moved(mover: ir.Node, places: NDArray[np.int32], sizes: Sequence[int]) -> NDArray[np.int32]:
    if mover.op_type == "Transpose":
        return places.transpose(ints(mover, "perm") or None)
    return np.broadcast_to(places, sizes) if mover.op_type == "Expand" else places.reshape(sizes)


def _product(new: Replacement, factors: Sequence[_Factor], axis: int) -> ir.Value | None:
    """The product of factors by picture and one other axis, as it multiplies pictures; `None` where there are none."""
    product: ir.Value | None = None
    kind = "style" if axis == _INPUT else "demodulation"
    for index, factor in enumerate(factors):
        assert factor.sizes is not None
        name = f"{kind}.{index}"
        by_channel = _reshaped(new, factor.value, [factor.sizes[_PICTURE], factor.sizes[axis], 1, 1], name)
        if factor.divides:
            by_channel = new.add("Reciprocal", [by_channel], f"{name}.inverse")
        product = by_channel if product is None else new.add("Mul", [product, by_channel], f"{name}.product")
    return product


def _reshaped(new: Replacement, value: ir.Value, sizes: Sequence[int], name: str) -> ir.Value:
    return new.add("Reshape", [value, new.weight(f"{name}.shape", np.array(sizes))], name)
