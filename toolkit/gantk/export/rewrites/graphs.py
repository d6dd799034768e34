# SPDX-License-Identifier: Apache-2.0
"""What the rewrites share: reading a node's attributes and constants, and putting other nodes in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gantk.export.functions import DOMAIN, VERSION, bodies

Float64 = NDArray[np.float64]

CHANNELS_LAST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""The axes of a transpose of pictures to a layout, from the other."""

NO_END = np.iinfo(np.int64).max
"""Behind the last row or column of any picture."""

SIMD_FLOATS = 16
"""The float32 values of a 512-bit register."""

TENSOR_CORE_CHANNELS = 8
"""The float16 channels that tensor cores take at once; for other numbers cuDNN has kernels that do without."""


class Replacement:
    """Nodes that take the place of another.

    Args:
        graph: That holds the node.
        node: What is to be replaced; it has one output.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph = graph
        self._node = node
        self._added: list[ir.Node] = []

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        **attributes: int | str | list[int] | ir.Attr,
    ) -> ir.Value:
        """Add a node, named after the one that is replaced."""
        return self._append(ir.node(op_type, inputs, attributes, name=f"{self._node.name}/{name}"))

    def transposed(self, value: ir.Value, axes: list[int]) -> ir.Value:
        """Add a transpose, to `CHANNELS_LAST` or to `CHANNELS_FIRST`."""
        layout = "last" if axes == CHANNELS_LAST else "first"
        return self.add("Transpose", [value], f"{value.name}.{layout}", perm=axes)

    def call(
        self,
        model: ir.Model,
        function: str,
        inputs: Sequence[ir.Value | None],
        **attributes: int | float | str | list[int],
    ) -> ir.Value:
        """Add a node that is one of gantk's own functions, whose body the model is given."""
        add_body(model, function)
        name = f"{self._node.name}/{function}"
        return self._append(ir.node(function, inputs, attributes, domain=DOMAIN, name=name))

    def _append(self, node: ir.Node) -> ir.Value:
        node.outputs[0].name = f"{node.name}.output"
        self._added.append(node)
        return node.outputs[0]

    def weight(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Add a constant: of the type that the node computes in, or int64 where it is whole."""
        kind = self._node.inputs[0].dtype if self._node.inputs[0] is not None else None
        floats = kind.numpy() if kind is not None and kind.is_floating_point() else np.dtype(np.float32)
        array = array.astype(floats if array.dtype.kind == "f" else np.int64)
        tensor = ir.Tensor(array, name=f"{self._node.name}/{name}")
        value = ir.Value(
            name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._graph.register_initializer(value)
        return value

    def finish(self, value: ir.Value, replaced: Sequence[ir.Node] = ()) -> None:
        """Let `value`, the output of an added node, be what the node yielded, or what the last of `replaced` did.

        Args:
            value: What it is now.
            replaced: A chain of nodes that goes, the node among them, each the only user of the one before it.
        """
        chain = replaced or (self._node,)
        self.insert()
        self.stand_for(chain[-1].outputs[0], value)
        self._graph.remove(chain, safe=True)

    def insert(self) -> None:
        """Put what was added before the node."""
        self._graph.insert_before(self._node, self._added)

    def stand_for(self, old: ir.Value, value: ir.Value) -> None:
        """Let `value` be read in the place of another, by its name; what yields that stays."""
        old.name, value.name = f"{old.name}.before", old.name
        value.type, value.shape = old.type, old.shape
        old.replace_all_uses_with(value, replace_graph_outputs=True)


def constant(value: ir.Value | None) -> Float64 | None:
    """The value of a constant in float64, or `None` where it is none."""
    if value is None or value.const_value is None:
        return None
    array: Float64 = value.const_value.numpy().astype(np.float64)
    return array


def by_channel(value: ir.Value | None, channels: int) -> Float64 | None:
    """A constant of pictures that is one number, or one for each channel; `None` where it is none."""
    array = constant(value)
    if array is None or array.size not in (1, channels) or array.ndim > 4:
        return None
    alike = array.size == 1 or (1,) * (4 - array.ndim) + array.shape == (1, channels, 1, 1)
    return np.broadcast_to(array.ravel(), channels) if alike else None


def optional(node: ir.Node, index: int) -> ir.Value | None:
    """An input that a node may lack."""
    return node.inputs[index] if index < len(node.inputs) else None


def ints(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else []


def attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else default


def axes_of(reduction: ir.Node) -> list[int]:
    """The axes along which a node reduces tensors, an attribute or an input; none where they are not known."""
    numbers = constant(optional(reduction, 1))
    return ints(reduction, "axes") if numbers is None else [int(number) for number in numbers]


def parameters(new: Replacement, convolution: ir.Node, kernel: Float64) -> list[ir.Value]:
    """The weights and the bias of what takes a convolution's place: its own, but for a kernel of another size.

    Where it has no bias it gets one of zeros: without, ONNX Runtime turns the body of a function into a node whose
    third input has no name, which its blocked layout leaves out.
    """
    weight = convolution.inputs[1]
    assert weight is not None and weight.shape is not None
    if tuple(weight.shape) != kernel.shape:
        weight = new.weight("weight", kernel)
    return [weight, optional(convolution, 2) or new.weight("bias", np.zeros(outputs_of(convolution, kernel)))]


def outputs_of(convolution: ir.Node, kernel: Float64) -> int:
    """How many channels a convolution makes."""
    if convolution.op_type != "ConvTranspose":
        return len(kernel)
    return int(kernel.shape[1] * attribute(convolution, "group", 1))


def has_computed_bias(convolution: ir.Node) -> bool:
    """Whether a convolution has a bias that is no constant, and so cannot be laid out anew."""
    bias = optional(convolution, 2)
    return bias is not None and bias.const_value is None


def padding(node: ir.Node) -> list[int] | None:
    """What a Pad adds, before and after, by axis; `None` where that is computed, or only of some axes."""
    amounts = constant(optional(node, 1)) if node.op_type == "Pad" and optional(node, 3) is None else None
    return None if amounts is None else [int(amount) for amount in amounts]


def padding_before(node: ir.Node) -> tuple[ir.Node, list[int]] | None:
    """A padding that this node alone reads, with its amounts."""
    value = node.inputs[0]
    pad = None if value is None else value.producer()
    if pad is None or only_user(pad.outputs[0]) is not node:
        return None
    amounts = padding(pad)
    return None if amounts is None else (pad, amounts)


def enlargement(resize: ir.Node) -> list[float] | None:
    """By what a Resize multiplies each axis of pictures; `None` where that is not told, or only of some axes."""
    scales = constant(optional(resize, 2))
    return None if scales is None or len(scales) != 4 or ints(resize, "axes") else scales.tolist()


def alone_before(node: ir.Node) -> ir.Node | None:
    """The node whose result this one alone reads."""
    value = node.inputs[0]
    before = None if value is None else value.producer()
    return before if before is not None and only_user(before.outputs[0]) is node else None


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that alone uses a value."""
    users = [user for user, _ in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def with_relu(node: ir.Node) -> tuple[tuple[ir.Node, ...], str]:
    """A node with the ReLU that alone reads what it yields, if one does, and what that adds to a function's name."""
    user = only_user(node.outputs[0])
    return ((node, user), "Relu") if user is not None and user.op_type == "Relu" else ((node,), "")


def silu_after(value: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """The nodes that alone read a value, and multiply it with its sigmoid (SiLU, Elfwing et al., arXiv 1702.03118)."""
    users = [user for user, _ in value.uses()]
    sigmoid = next((user for user in users if user.op_type == "Sigmoid"), None)
    product = None if sigmoid is None else only_user(sigmoid.outputs[0])
    if sigmoid is None or product is None or product.op_type != "Mul" or value.is_graph_output():
        return None
    return (sigmoid, product) if len(users) == 2 and product in users else None


def squared(value: ir.Value) -> ir.Value | None:
    """What a value is the square of."""
    node = value.producer()
    first, second = node.inputs if node is not None and len(node.inputs) == 2 else (None, None)
    if node is not None and node.op_type == "Mul" and first is second:
        return first
    exponent = constant(second)
    power = (
        node is not None and node.op_type == "Pow" and exponent is not None and exponent.tolist() in (2, [2])
    )
    return first if power else None


def channels_of(value: ir.Value | None) -> int | None:
    """The channels of pictures; `None` of anything else, or where their number is not known."""
    shape = None if value is None else value.shape
    channels = None if shape is None or len(shape) != 4 else shape[1]
    return channels if isinstance(channels, int) else None


def of_any_size(
    shape: ir.Shape | None, channel: int, channels: int | ir.SymbolicDim | None = None
) -> ir.Shape:
    """The shape of pictures of another height and width.

    Args:
        shape: Before, where it is known.
        channel: Which is of channels.
        channels: Their number, where that is another too.
    """
    sizes: list[int | ir.SymbolicDim | None] = [None] * 4
    if shape is not None and len(shape) == 4:
        sizes[0], sizes[channel] = shape[0], shape[channel]
    if channels is not None:
        sizes[channel] = channels
    return ir.Shape(sizes)


def is_as_large(value: ir.Value, pictures: ir.Value) -> bool:
    """Whether a tensor is one of as many pictures, and not one value for each channel, or one picture for all."""
    shape, known = value.shape, pictures.shape
    if value.const_value is not None or shape is None or known is None or len(shape) != 4:
        return False
    return shape[1] == known[1] and (shape[0] == 1) == (known[0] == 1) and 1 not in (shape[2], shape[3])


def other_input(node: ir.Node, value: ir.Value) -> ir.Value:
    first, second = node.inputs
    other = second if first is value else first
    assert other is not None
    return other


def is_simple(convolution: ir.Node) -> bool:
    """Whether a convolution of pictures has stride 1, no dilation, and one group."""
    weight = convolution.inputs[1]
    return (
        weight is not None
        and weight.shape is not None
        and len(weight.shape) == 4
        and ints(convolution, "strides") in ([], [1, 1])
        and ints(convolution, "dilations") in ([], [1, 1])
        and attribute(convolution, "group", 1) == 1
        and is_explicit(convolution)
    )


def is_explicit(node: ir.Node) -> bool:
    """Whether a convolution or a pooling says itself what lies around pictures."""
    return text(node, "auto_pad", "NOTSET") == "NOTSET"


def add_body(graph: ir.Model, function: str) -> None:
    """Give a file the body of one of gantk's functions, where it has none yet."""
    if (DOMAIN, function, "") in graph.functions:
        return
    graph.graph.opset_imports[DOMAIN] = VERSION
    made = next(body for body in bodies(graph.graph.opset_imports[""]) if body.name == function)
    graph.functions[DOMAIN, function, ""] = ir.from_proto(made)


def drop_unused_weights(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def fill_types(graph: ir.Graph) -> None:
    """Fill in the types of results, which rewrites leave out where they are those of the first operand."""
    for node in graph:
        first = node.inputs[0] if node.inputs else None
        if first is not None and node.op_type != "Cast":
            for value in node.outputs:
                value.type = value.type or first.type
