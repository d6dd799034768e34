# SPDX-License-Identifier: Apache-2.0
"""What a style network computes around an instance normalisation that can be done in the same pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from gantk.export.rewrites.graphs import constant, is_as_large, only_user, optional, other_input, text


@dataclass(frozen=True)
class Chain:
    """A normalisation and what is computed with it.

    Args:
        nodes: In order, each the only user of the one before.
        norm: The normalisation among them.
        scale: float32[C], or [N, C].
        offset: The same.
        end: What comes last, before the border: ``Relu``, ``Sum`` or nothing.
        others: What is added, if anything is.
    """

    nodes: tuple[ir.Node, ...]
    norm: ir.Node
    scale: ir.Value | None
    offset: ir.Value | None
    end: str
    others: ir.Value | None

    @property
    def source(self) -> ir.Value:
        value = self.nodes[0].inputs[0]
        assert value is not None
        return value

    @property
    def last(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    def node(self, op_type: str) -> ir.Node | None:
        return next((node for node in self.nodes if node.op_type == op_type), None)


def find_chains(graph: ir.Graph) -> list[Chain]:
    """The normalisations of pictures in a graph, each with what is computed in its pass.

    Before it: depth-to-space and a cut of rows and columns. After it: scale and offset of each picture, a ReLU or a
    sum.
    """
    chains: list[Chain] = []
    for node in graph:
        if node.op_type == "InstanceNormalization" and _is_picture(node.inputs[0]):
            chains.append(_chain(node, [chain.nodes[-1] for chain in chains]))
    return chains


def _chain(norm: ir.Node, taken: Sequence[ir.Node]) -> Chain:
    """What is computed with a normalisation; of a sum of two, the first has taken the sum."""
    nodes, (scale, offset) = [*_cut(norm), norm], norm.inputs[1:]
    own = _of_each_picture(norm)
    if own is not None:
        scale, offset = own.scale, own.offset
        nodes += [own.product, own.total]
    user, end, others = only_user(nodes[-1].outputs[0]), "", None
    if user is not None and user.op_type == "Relu":
        end = "Relu"
    elif user is not None and user.op_type == "Add" and user not in taken:
        added = other_input(user, nodes[-1].outputs[0])
        if is_as_large(added, norm.outputs[0]):
            end, others = "Sum", added
    if end and user is not None:
        nodes.append(user)
    return Chain(tuple(nodes), norm, scale, offset, end, others)


def _is_picture(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 4


def _cut(norm: ir.Node) -> list[ir.Node]:
    """The depth-to-space and the cut of rows and columns before a normalisation, which nothing else reads."""
    found: list[ir.Node] = []
    node = _only_producer(norm)
    if node is not None and node.op_type == "Slice" and _is_of_sides(node):
        found.insert(0, node)
        node = _only_producer(node)
    if node is not None and node.op_type == "DepthToSpace" and text(node, "mode", "DCR") == "DCR":
        found.insert(0, node)
    return found


def _only_producer(node: ir.Node) -> ir.Node | None:
    """The node that yields what this one alone reads."""
    value = node.inputs[0]
    return value.producer() if value is not None and only_user(value) is node else None


def _is_of_sides(cut: ir.Node) -> bool:
    """Whether a Slice cuts rows and columns, without leaving any out between."""
    axes = constant(optional(cut, 3))
    return axes is not None and axes.tolist() == [2, 3] and optional(cut, 4) is None


@dataclass(frozen=True)
class _Own:
    """Scale and offset that are computed for each picture, [N, C], and the nodes that apply them."""

    scale: ir.Value
    offset: ir.Value
    product: ir.Node
    total: ir.Node


def _of_each_picture(norm: ir.Node) -> _Own | None:
    one, zero = constant(norm.inputs[1]), constant(norm.inputs[2])
    if one is None or zero is None or (one != 1).any() or zero.any():
        return None
    product = only_user(norm.outputs[0])
    total = None if product is None or product.op_type != "Mul" else only_user(product.outputs[0])
    if product is None or total is None or total.op_type != "Add":
        return None
    scale = _by_channel(other_input(product, norm.outputs[0]), norm)
    offset = _by_channel(other_input(total, product.outputs[0]), norm)
    return None if scale is None or offset is None else _Own(scale, offset, product, total)


def _by_channel(value: ir.Value, norm: ir.Node) -> ir.Value | None:
    """The [N, C] that was made [N, C, 1, 1], of as many pictures and channels as are normalised."""
    node, pictures = value.producer(), norm.outputs[0].shape
    flat = None if node is None or node.op_type != "Unsqueeze" else node.inputs[0]
    if node is None or flat is None or flat.shape is None or len(flat.shape) != 2 or pictures is None:
        return None
    if flat.shape[1] != pictures[1] or (flat.shape[0] == 1) != (pictures[0] == 1):
        return None
    axes = constant(node.inputs[1])
    return flat if axes is not None and axes.tolist() in ([2, 3], [-2, -1]) else None
