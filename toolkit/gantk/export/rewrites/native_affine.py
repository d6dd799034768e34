# SPDX-License-Identifier: Apache-2.0
"""What is computed value by value between convolutions, as one pass of gantk's own: `gantk::NhwcAffine` and its kin.

Factors and offsets of channels, other pictures or noise that is added, and what negative values are multiplied with:
a demodulation with noise, bias and activation (Karras et al., arXiv 1912.04958), a class-conditional normalisation
(Brock et al., arXiv 1809.11096), channel attention, or a residual that is scaled. Bounds are `gantk::NhwcClip`: clamps
after activations (arXiv 2006.06676, 2106.12423), ReLU6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from gantk.export.functions import DOMAIN
from gantk.export.rewrites.endings import slopes_of
from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Float64,
    Replacement,
    by_channel,
    channels_of,
    constant,
    is_as_large,
    only_user,
    optional,
    other_input,
    silu_after,
)
from gantk.export.rewrites.transposes import last_of

_Numbers: TypeAlias = Float64 | ir.Value
"""Of each channel, [C], or of each channel of each picture, [N, C, 1, 1]."""


@dataclass
class _Chain:
    """Nodes, each of which alone reads what the one before yields.

    Args:
        pictures: What the first one reads.
        channels: Of these.
        nodes: They.
        steps: What pictures are multiplied with, or what is added, one after the other.
        others: What is added after that: pictures, or one number for each pixel.
        slopes: What negative results are multiplied with then.
        gain: What results are multiplied with at last; none is negative.
        silu: Results are multiplied with their sigmoid, instead of all that.
    """

    pictures: ir.Value
    channels: int
    nodes: list[ir.Node] = field(default_factory=list)
    steps: list[tuple[str, _Numbers]] = field(default_factory=list)
    others: ir.Value | None = None
    slopes: Float64 | None = None
    gain: Float64 | None = None
    silu: bool = False

    @property
    def value(self) -> ir.Value:
        """What the last node yields."""
        return self.nodes[-1].outputs[0] if self.nodes else self.pictures

    def take(self, node: ir.Node) -> bool:
        """Take in a node that reads the last value, if it can be."""
        if self.silu:
            return False
        if node.op_type in ("Add", "Mul"):
            taken = self._combine(node.op_type, other_input(node, self.value))
        else:
            taken = self.slopes is None and node.inputs[0] is self.value and self._rectify(node)
        if taken:
            self.nodes.append(node)
        return taken

    def _combine(self, kind: str, other: ir.Value) -> bool:
        numbers = self._numbers(other)
        if self.slopes is not None:
            return kind == "Mul" and self._scale(numbers)
        if numbers is not None and (kind == "Add" or self.others is None):
            self.steps.append((kind, numbers))
            return True
        if kind == "Mul" or self.others is not None or not self._is_for_pixels(other):
            return False
        self.others = other
        return True

    def _rectify(self, node: ir.Node) -> bool:
        self.slopes = np.zeros(self.channels) if node.op_type == "Relu" else slopes_of(node, self.channels)
        return self.slopes is not None

    def _scale(self, gain: _Numbers | None) -> bool:
        """Take in a factor of what was rectified, which may as well be one of what is."""
        known = self.others is None or self.others.const_value is not None
        if self.gain is not None or not isinstance(gain, np.ndarray) or gain.min() < 0 or not known:
            return False
        self.gain = gain
        return True

    def _numbers(self, value: ir.Value) -> _Numbers | None:
        if value.const_value is not None:
            return by_channel(value, self.channels)
        shape, pictures = value.shape, self.pictures.shape
        if shape is None or pictures is None or list(shape[1:]) != [self.channels, 1, 1]:
            return None
        return value if shape[0] in (1, pictures[0]) else None

    def _is_for_pixels(self, value: ir.Value) -> bool:
        if is_as_large(value, self.pictures):
            return True
        shape, pictures = value.shape, self.pictures.shape
        if shape is None or pictures is None or len(shape) != 4 or not shape.is_static():
            return False
        return shape[0] in (1, pictures[0]) and shape[1] in (1, self.channels) and shape[2:] == pictures[2:]


def affine_to_native(graph: ir.Model) -> None:
    """Turn what is computed value by value between native operators into one pass each.

    By constants, and by what is computed of each picture. What lies before the first and behind the last of these
    operators stays: pixels are not for bfloat16.
    """
    inner = _between_native(graph.graph)
    done: set[ir.Node] = set()
    for node in list(graph.graph):
        chain = _chain_from(node) if node in inner and node not in done else None
        if chain is not None:
            done.update(chain.nodes)
            _turn(graph, chain)


def clips_to_native(graph: ir.Model) -> None:
    """Turn bounds of what is computed between native operators into a pass each."""
    inner = _between_native(graph.graph)
    for node in [node for node in graph.graph if node.op_type == "Clip" and node in inner]:
        pictures, bounds = node.inputs[0], _bounds(node)
        if pictures is None or bounds is None or channels_of(pictures) is None or not _are_pictures(pictures):
            continue
        new = Replacement(graph.graph, node)
        last = last_of(new, pictures)
        result = new.call(graph, "NhwcClip", [last], **bounds)
        result.type, result.shape = last.type, last.shape
        new.finish(new.transposed(result, CHANNELS_FIRST))


def _bounds(clip: ir.Node) -> dict[str, float] | None:
    """The attributes that a function has of a node's bounds; `None` where one of these is computed."""
    bounds = {}
    for index, name in ((1, "low"), (2, "high")):
        value = optional(clip, index)
        number = constant(value)
        if number is not None and number.size == 1:
            bounds[name] = float(number.item())
        elif value is not None:
            return None
    return bounds


def _between_native(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that read what comes of native operators, and of which comes what native operators read."""
    nodes = list(graph)
    behind: set[ir.Node | None] = set()
    for node in nodes:
        before = (value.producer() for value in node.inputs if value is not None)
        if any(one in behind or (one is not None and one.domain == DOMAIN) for one in before):
            behind.add(node)
    inner: set[ir.Node] = set()
    ahead: set[ir.Node] = set()
    for node in reversed(nodes):
        after = (user for value in node.outputs for user, _ in value.uses())
        if any(one in ahead or one.domain == DOMAIN for one in after):
            ahead.add(node)
            if node in behind:
                inner.add(node)
    return inner


def _chain_from(node: ir.Node) -> _Chain | None:
    """The longest chain that begins with a node; `None` where none does, or an activation alone."""
    for pictures in node.inputs[:2] if node.op_type in ("Add", "Mul") else node.inputs[:1]:
        channels = channels_of(pictures)
        if pictures is None or channels is None or not _are_pictures(pictures):
            continue
        chain, user = _Chain(pictures, channels), node
        while user is not None and chain.take(user):
            user = only_user(chain.value)
        silu = silu_after(chain.value) if chain.slopes is None else None
        if silu is not None:
            chain.nodes += silu
            chain.silu = True
        if chain.steps or chain.others is not None or chain.silu or node.op_type == "Relu":
            return chain
    return None


def _are_pictures(value: ir.Value) -> bool:
    """Whether a tensor is computed, of float32, and of more than one pixel a picture."""
    known = value.shape is not None and value.shape[2:] != (1, 1)
    return known and value.const_value is None and value.dtype == ir.DataType.FLOAT


def _turn(graph: ir.Model, chain: _Chain) -> None:
    new = Replacement(graph.graph, chain.nodes[-1])
    factors: _Numbers = np.ones(chain.channels)
    offsets: _Numbers = np.zeros(chain.channels)
    steps = chain.steps if chain.gain is None else [*chain.steps, ("Mul", chain.gain)]
    for index, (kind, numbers) in enumerate(steps):
        if kind == "Mul":
            factors = _combined(new, kind, factors, numbers, f"factors.{index}")
        offsets = _combined(new, kind, offsets, numbers, f"offsets.{index}")
    inputs = [
        last_of(new, chain.pictures),
        _of_channels(new, factors, "factors"),
        _of_channels(new, offsets, "offsets"),
    ]
    name = "NhwcAffine"
    if chain.others is not None:
        name += "Sum"
        inputs.append(_others(new, chain.others, chain.gain))
    if chain.silu:
        name += "Silu"
    elif chain.slopes is not None:
        name += "PRelu"
        inputs.append(new.weight("slopes", chain.slopes))
    result = new.call(graph, name, inputs)
    result.type, result.shape = inputs[0].type, inputs[0].shape
    new.finish(new.transposed(result, CHANNELS_FIRST), chain.nodes)


def _combined(new: Replacement, kind: str, first: _Numbers, second: _Numbers, name: str) -> _Numbers:
    """Numbers of channels, multiplied or added."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first * second if kind == "Mul" else first + second
    for one, other in ((first, second), (second, first)):
        if isinstance(one, np.ndarray):
            if not one.any():
                return one if kind == "Mul" else other
            if kind == "Mul" and (one == 1).all():
                return other
    inputs = [
        new.weight(f"{name}.{index}", numbers.reshape(1, -1, 1, 1))
        if isinstance(numbers, np.ndarray)
        else numbers
        for index, numbers in enumerate((first, second))
    ]
    made = new.add(kind, inputs, name)
    made.type = ir.TensorType(ir.DataType.FLOAT)
    return made


def _of_channels(new: Replacement, numbers: _Numbers, name: str) -> ir.Value:
    """Numbers as the function takes them, [1 or N, C]."""
    if isinstance(numbers, np.ndarray):
        return new.weight(name, numbers[None])
    before = numbers.producer()
    source = None if before is None or before.op_type != "Reshape" else before.inputs[0]
    if (
        source is not None
        and source.shape is not None
        and list(source.shape) == list(numbers.shape or [])[:2]
    ):
        return source
    sides = new.weight(f"{name}.sides", np.array([2, 3]))
    made = new.add("Squeeze", [numbers, sides], name)
    made.type = numbers.type
    return made


def _others(new: Replacement, others: ir.Value, gain: Float64 | None) -> ir.Value:
    known = constant(others)
    if known is None:
        return last_of(new, others)
    scaled = known if gain is None else known * (gain[:1] if np.ptp(gain) == 0 else gain).reshape(-1, 1, 1)
    return new.weight("others", scaled.transpose(CHANNELS_LAST))
