# SPDX-License-Identifier: Apache-2.0
"""A nearest enlargement to twice the size and a 3x3 convolution, as one layer that works on the small picture.

Of the nine values that such a convolution reads, only four are different: row 2i + a of its output (a = 0 or 1)
sums rows i - 1 + a and i + a of the small picture, and columns alike, so four 2x2 kernels hold all there is to
compute, with 2.25 times fewer multiplications. Reflecting the enlarged picture by one pixel repeats the border
of the small one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    Float64,
    Replacement,
    constant,
    drop_unused_weights,
    enlargement,
    has_computed_bias,
    ints,
    is_simple,
    only_user,
    optional,
    padding,
    text,
)

# By phase: which taps of a kernel of 3 fall on its first and on its second value of the small picture.
_TAPS = {0: ([0], [1, 2]), 1: ([0, 1], [2])}
# By phase: the taps of a transposed kernel of 4 and stride 2 that meet these two.
_TRANSPOSED_TAPS = {0: (3, 1), 1: (2, 0)}

# By where the pixels of an enlarged picture lie in the small one: how to round so that each pixel is repeated.
_NEAREST = {
    "asymmetric": ("floor", "round_prefer_floor"),  # At 0, 0.5, 1, 1.5, ...
    "half_pixel": ("round_prefer_floor", "round_prefer_ceil"),  # At -0.25, 0.25, 0.75, 1.25, ...
}


@dataclass(frozen=True)
class Place:
    """Where the rewrites apply: enlargement, padding and convolution.

    Args:
        nodes: In order; the padding may be part of the convolution.
        phases: The four kernels, float64[2, 2, outputs, inputs, 2, 2]: of output rows 2i + a and columns 2j + b.
        bias: float64[outputs], or `None` where there is none.
        mode: How the small picture is padded: ``edge``, or ``constant`` with zeros.
    """

    nodes: tuple[ir.Node, ...]
    phases: Float64
    bias: Float64 | None
    mode: str


def enlarged_to_transposed(graph: ir.Model) -> int:
    """Turn each such pair into a transposed convolution of kernel 4 and stride 2 on the padded small picture.

    Returns:
        The number of convolutions turned.
    """
    places = find_places(graph.graph)
    for place in places:
        new = Replacement(graph.graph, place.nodes[-1])
        weights = [new.weight("weight", transposed_kernel(place))]
        if place.bias is not None:
            weights.append(new.weight("bias", place.bias))
        picture, border = bordered(new, place)
        how = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1 + 2 * border] * 4}
        new.finish(new.add("ConvTranspose", [picture, *weights], "ConvTranspose", **how), place.nodes)
    drop_unused_weights(graph.graph)
    return len(places)


def enlarged_to_subpixel(graph: ir.Model) -> int:
    """Turn each such pair into one 2x2 convolution that yields all four phases, and a depth-to-space.

    The phases that look up and to the left go last, so that each block of 2x2 pixels is cut from between four
    blocks of the picture, and cropping one pixel all around leaves every phase where it belongs.

    Returns:
        The number of convolutions turned.
    """
    places = find_places(graph.graph)
    for place in places:
        new = Replacement(graph.graph, place.nodes[-1])
        kernel = place.phases[::-1, ::-1].reshape(-1, *place.phases.shape[3:])
        weights = [new.weight("weight", kernel)]
        if place.bias is not None:
            weights.append(new.weight("bias", np.tile(place.bias, 4)))
        picture, border = bordered(new, place)
        pads = [1 - border] * 4
        value = new.add("Conv", [picture, *weights], "phases", kernel_shape=[2, 2], pads=pads)
        value = new.add("DepthToSpace", [value], "DepthToSpace", blocksize=2, mode="DCR")
        crop = {"starts": [1, 1], "ends": [-1, -1], "axes": [2, 3]}
        bounds = [new.weight(name, np.array(numbers)) for name, numbers in crop.items()]
        new.finish(new.add("Slice", [value, *bounds], "crop"), place.nodes)
    drop_unused_weights(graph.graph)
    return len(places)


def pointwise_before_enlargement(graph: ir.Model) -> int:
    """Let convolutions of single pixels see a picture before it is enlarged, and not each of its pixels several times.

    Both are linear, and what an enlargement takes of pixels adds up to one: they may change places. Shortcuts of
    residual generators are such pairs (Miyato et al., arXiv 1802.05957, figure 7a; StarGAN v2).

    Returns:
        The number of convolutions turned.
    """
    turned = 0
    for resize in [node for node in graph.graph if node.op_type == "Resize"]:
        convolution, picture = only_user(resize.outputs[0]), resize.inputs[0]
        if picture is None or convolution is None or not _enlarges(resize) or not _is_pointwise(convolution):
            continue
        new = Replacement(graph.graph, convolution)
        made = new.add("Conv", [picture, *convolution.inputs[1:]], "Conv", **convolution.attributes)
        made.type = convolution.outputs[0].type
        weight, sizes = convolution.inputs[1], picture.shape
        assert weight is not None and weight.shape is not None
        made.shape = None if sizes is None else ir.Shape([sizes[0], weight.shape[0], *sizes[2:]])
        inputs = [made, *resize.inputs[1:]]
        new.finish(new.add("Resize", inputs, "Resize", **resize.attributes), (resize, convolution))
        turned += 1
    return turned


def transposed_kernel(place: Place) -> Float64:
    """The kernel (C_in, C_out, 4, 4) of a transposed convolution of stride 2 that has a place's four phases."""
    kernel = np.zeros((*place.phases.shape[3:1:-1], 4, 4))
    for a, b, i, j in np.ndindex(2, 2, 2, 2):
        row, column = _TRANSPOSED_TAPS[a][i], _TRANSPOSED_TAPS[b][j]
        kernel[:, :, row, column] = place.phases[a, b, :, :, i, j].T
    return kernel


def bordered(new: Replacement, place: Place) -> tuple[ir.Value | None, int]:
    """The small picture with its border, and how wide that is: 0 for zeros, which convolutions add themselves."""
    picture = place.nodes[0].inputs[0]
    if place.mode == "constant":
        return picture, 0
    pads = new.weight("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    return new.add("Pad", [picture, pads], "Pad", mode=place.mode), 1


def find_places(graph: ir.Graph) -> list[Place]:
    """Every enlargement by two whose convolution can be done at the size before."""
    places = (_place(node) for node in graph if node.op_type == "Resize" and _doubles(node))
    return [place for place in places if place is not None]


def _place(resize: ir.Node) -> Place | None:
    """The enlargement with its convolution, unless something else needs what is between them."""
    pad, convolution = None, only_user(resize.outputs[0])
    if convolution is not None and convolution.op_type == "Pad":
        pad, convolution = convolution, only_user(convolution.outputs[0])
    if convolution is None or convolution.op_type != "Conv" or not is_simple(convolution):
        return None
    weight, bias = constant(convolution.inputs[1]), constant(optional(convolution, 2))
    mode = _mode(pad, convolution)
    if weight is None or weight.shape[2:] != (3, 3) or mode is None:
        return None
    if has_computed_bias(convolution):
        return None
    nodes = (resize, convolution) if pad is None else (resize, pad, convolution)
    return Place(nodes, _phases(weight), bias, mode)


def _mode(pad: ir.Node | None, convolution: ir.Node) -> str | None:
    """How the small picture is to be padded, or `None` where the large one is not padded by one pixel."""
    if pad is None:
        return "constant" if ints(convolution, "pads") == [1, 1, 1, 1] else None
    value, mode = optional(pad, 2), text(pad, "mode", "constant")
    if padding(pad) != [0, 0, 1, 1, 0, 0, 1, 1] or ints(convolution, "pads") not in ([], [0, 0, 0, 0]):
        return None
    if mode in ("reflect", "edge"):
        return "edge"
    zero = value is None or ((found := constant(value)) is not None and not found.any())
    return "constant" if mode == "constant" and zero else None


def _enlarges(resize: ir.Node) -> bool:
    """Whether pictures become larger, by pixels as they are or what lies between them."""
    scales, mode = enlargement(resize), text(resize, "mode", "nearest")
    if scales is None or scales[:2] != [1, 1] or min(scales) < 1 or max(scales) == 1:
        return False
    place = text(resize, "coordinate_transformation_mode", "half_pixel")
    return mode in ("nearest", "linear") and place != "tf_crop_and_resize"


def _is_pointwise(convolution: ir.Node) -> bool:
    """Whether a node is a convolution of single pixels with constant weights."""
    if convolution.op_type != "Conv" or not is_simple(convolution) or has_computed_bias(convolution):
        return False
    weight = constant(convolution.inputs[1])
    return weight is not None and weight.shape[2:] == (1, 1) and not any(ints(convolution, "pads"))


def times_as_large(resize: ir.Node) -> tuple[int, int] | None:
    """How many rows and columns each pixel becomes; `None` where pixels are not just repeated."""
    scales = enlargement(resize)
    if scales is None or scales[:2] != [1, 1] or min(scales) < 1 or any(scale % 1 for scale in scales):
        return None
    place, rounded = (
        text(resize, name, default)
        for name, default in (
            ("coordinate_transformation_mode", "half_pixel"),
            ("nearest_mode", "round_prefer_floor"),
        )
    )
    if text(resize, "mode", "nearest") != "nearest" or rounded not in _NEAREST.get(place, ()):
        return None
    # From three on, thirds and quarters are at places that only rounding down takes back to the pixel.
    if place == "asymmetric" and rounded != "floor" and max(scales) > 2:
        return None
    return int(scales[2]), int(scales[3])


def _doubles(resize: ir.Node) -> bool:
    """Whether each pixel becomes two by two."""
    return times_as_large(resize) == (2, 2)


def _phases(weight: Float64) -> Float64:
    """The four kernels of a 3x3 one (outputs, inputs, 3, 3)."""
    phases = np.zeros((2, 2, *weight.shape[:2], 2, 2))
    for a, b, i, j in np.ndindex(2, 2, 2, 2):
        taps = weight[:, :, _TAPS[a][i]][:, :, :, _TAPS[b][j]]
        phases[a, b, :, :, i, j] = taps.sum((2, 3))
    return phases
