# SPDX-License-Identifier: Apache-2.0
"""The optimisation step of Gatys, Ecker and Bethge (arXiv 1508.06576) as ONNX graphs, forward and backward.

VGG is a chain, so its gradient is written down rather than traced: the derivative of a convolution of stride 1 by
its input is a convolution with the kernels turned by 180 degrees and their two channel axes swapped; that of ReLU
is where its output is above 0; of average pooling an enlargement; of max pooling the first of a window's four values
that is its maximum, as in PyTorch. So a graph holds for every size, and each node says where it belongs.

A step minimises ``content_weight * content_loss + style_weight * style_loss + variation_weight * variation_loss``,
each picture by itself. content_loss is half the sum of squared differences of features; style_loss the sum over
layers of ``layer_weights`` times the mean squared difference of Gram matrices; variation_loss the total variation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gantk.export.gatys.chain import (
    MOMENTS,
    Chain,
    StepConfig,
    adam_inputs,
    adam_state,
    loss_specs,
    picture_spec,
    step_inputs,
    target_specs,
)
from gantk.export.gatys.draft import Draft, StepGraph
from gantk.runtime.runner import Array
from gantk.stylize.descent import NEXT
from gantk.tensors import TensorSpec

_NEAREST = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}


def make_targets(chain: Chain, config: StepConfig, precision: str = "fp32") -> StepGraph:
    """Pictures to their features and Gram matrices, by the names of a step's targets."""
    draft = Draft(precision)
    features = _forward(draft, chain, config.pooling)
    content = draft.widen("content", features[config.content_layer])
    draft.add("Identity", "content", content, to=config.targets[0])
    for layer, name in zip(config.style_layers, config.targets[1:], strict=True):
        _gram(draft, layer, features[layer], to=name)
    outputs = tuple(
        TensorSpec(spec.name, spec.dtype, ("N", *spec.shape[1:])) for spec in target_specs(chain, config)
    )
    return draft.finish("targets", (picture_spec("picture"),), outputs, config.variation)


def make_gradient(chain: Chain, config: StepConfig, precision: str = "fp32") -> StepGraph:
    """The gradient of the weighted sum of the losses by the pictures, and the losses without their weights."""
    draft = Draft(precision)
    _step(draft, chain, config, gradient="gradient")
    outputs = (picture_spec("gradient", None), *loss_specs())
    return draft.finish("gradient", step_inputs(chain, config), outputs, config.variation)


def make_adam(chain: Chain, config: StepConfig, precision: str = "fp32") -> StepGraph:
    """One step of Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), whose outputs are the next one's inputs.

    In place of the step's number there are the `corrections` ``1 - beta^t``, zeros at first, which grow by
    ``beta * c + (1 - beta)``: float32 keeps that, and not a power next to 1. Pictures are kept in [0, 1].
    """
    draft = Draft(precision)
    _adam(draft, _step(draft, chain, config))
    following = (
        picture_spec(f"{NEXT}picture"),
        *(TensorSpec(f"{NEXT}{s.name}", s.dtype, s.shape, s.range, s.layout) for s in adam_state()),
    )
    return draft.finish("adam", adam_inputs(chain, config), (*following, *loss_specs()), config.variation)


def _forward(draft: Draft, chain: Chain, pooling: str) -> dict[str, str]:
    """The features of every layer, by its name; what a pooling yields is there as ``pool.`` and the layer after."""
    # The mean cannot be folded into the first convolution: its borders are 0, and not the mean.
    value = draft.add("Sub", "picture", "picture", draft.constant("picture/mean", chain.mean))
    value = draft.narrow("picture", value)
    found: dict[str, str] = {}
    for index, layer in enumerate(chain.layers):
        where = f"forward/{layer.name}"
        if layer.pooled:
            if pooling == "max":
                value = draft.call("MaxPool2x2", where, [value], [f"{where}/MaxPool"])[0]
            else:
                value = draft.add("AveragePool", where, value, kernel_shape=[2, 2], strides=[2, 2])
            found[f"pool.{layer.name}"] = value
        value = draft.convolve_relu(where, value, _kernels(chain, index), layer.offsets)
        found[layer.name] = value
    return found


def _kernels(chain: Chain, index: int) -> Array:
    """A layer's; the division of pictures by their deviation goes into the first ones."""
    kernels = chain.layers[index].kernels
    return kernels if index > 0 else kernels / chain.std


def _gram(draft: Draft, layer: str, features: str, to: str | None = None) -> str:
    # The scale of 0, which stands for the mean over places, is written out: an inliner forgets defaults.
    name = f"style/{layer}"
    return draft.call("GramMatrix", name, [features], [to or f"{name}/GramMatrix"], scale=0.0)[0]


def _step(draft: Draft, chain: Chain, config: StepConfig, gradient: str | None = None) -> str:
    """The losses as outputs, and the gradient, called `gradient`."""
    features = _forward(draft, chain, config.pooling)
    slopes = _style(draft, chain, config, features)
    content = _content(draft, config, features)
    layer = config.content_layer
    slopes[layer] = (
        draft.add("Add", f"slopes/{layer}", slopes[layer], content) if layer in slopes else content
    )
    backward = _backward(draft, chain, config, features, slopes)
    _, slope = draft.call(
        "TotalVariation",
        "variation",
        ["picture"],
        ["variation_loss", "variation/slope"],
        kind=config.variation,
        epsilon=config.epsilon,
    )
    weighted = draft.add("Mul", "variation", slope, "variation_weight")
    return draft.add("Add", "gradient", backward, weighted, to=gradient)


def _content(draft: Draft, config: StepConfig, features: Mapping[str, str]) -> str:
    """The content loss, and its weighted derivative by the features."""
    where = f"content/{config.content_layer}"
    wide = draft.widen(where, features[config.content_layer])
    difference = draft.add("Sub", where, wide, config.targets[0])
    total = _sum_of_squares(draft, where, difference, draft.constant("feature_axes", np.array([1, 2, 3])))
    draft.add("Mul", "content/half", total, draft.constant("half", np.float32(0.5)), to="content_loss")
    return draft.narrow(where, draft.add("Mul", where, difference, "content_weight"))


def _style(draft: Draft, chain: Chain, config: StepConfig, features: Mapping[str, str]) -> dict[str, str]:
    """The style loss, and by layer its weighted derivative by the features."""
    slopes: dict[str, str] = {}
    losses = []
    axes, two = draft.constant("gram_axes", np.array([1, 2])), draft.constant("two", np.float32(2.0))
    for index, (layer, target) in enumerate(zip(config.style_layers, config.targets[1:], strict=True)):
        where = f"style/{layer}"
        weight = draft.add(
            "Gather", where, "layer_weights", draft.constant(f"{where}/index", np.int64(index))
        )
        elements = draft.constant(f"{where}/per_element", np.float32(chain.channels(layer) ** -2))
        share = draft.add("Mul", f"{where}/share", weight, elements)
        difference = draft.add("Sub", where, _gram(draft, layer, features[layer]), target)
        losses.append(
            draft.add("Mul", f"{where}/loss", _sum_of_squares(draft, where, difference, axes), share)
        )
        factor = draft.add("Mul", f"{where}/factor", share, "style_weight")
        twice = draft.add("Mul", f"{where}/twice", factor, two)
        slope = draft.add("Mul", f"{where}/slope", difference, twice)
        slopes[layer] = draft.call(
            "GramMatrixGrad", where, [slope, features[layer]], [f"{where}/GramMatrixGrad"], scale=0.0
        )[0]
    draft.add("Sum", "style", *losses, to="style_loss")
    return slopes


def _sum_of_squares(draft: Draft, where: str, values: str, axes: str) -> str:
    # ONNX Runtime's ReduceSumSquare adds up one by one and loses four digits.
    squares = draft.add("Mul", f"{where}/squares", values, values)
    return draft.add("ReduceSum", where, squares, axes, keepdims=0)


def _backward(
    draft: Draft, chain: Chain, config: StepConfig, features: Mapping[str, str], slopes: Mapping[str, str]
) -> str:
    """The derivative by the pictures, given those by some layers' features; the last layer's is among them."""
    layers = chain.layers
    value = slopes[layers[-1].name]
    for index in reversed(range(len(layers))):
        layer, where = layers[index], f"backward/{layers[index].name}"
        if index < len(layers) - 1 and layer.name in slopes:
            value = draft.add("Add", where, value, slopes[layer.name])
        kernels, stored = _kernels(chain, index), f"forward/{layer.name}/kernels"
        if layer.pooled and config.pooling == "average":
            # The share of each value in a mean of four; exact.
            kernels, stored = kernels / 4, f"{where}/kernels"
        value = draft.convolve_relu_grad(where, value, features[layer.name], kernels, stored)
        if layer.pooled and config.pooling == "average":
            value = _enlarge(draft, where, features[layers[index - 1].name], value)
        elif layer.pooled:
            entered, pooled = features[layers[index - 1].name], features[f"pool.{layer.name}"]
            value = draft.call(
                "MaxPool2x2Grad", where, [value, entered, pooled], [f"{where}/MaxPool2x2Grad"]
            )[0]
    return draft.widen("gradient", value)


def _enlarge(draft: Draft, where: str, entered: str, slope: str) -> str:
    """Every slope of a window at the window's four places; 0 where an odd last row or column is in none.

    A border of 0 there makes the small tensor half the size of the large one rounded up, from which the nearest
    place is ``floor(i / 2)`` for even and odd sizes alike. The border is put on the small one, which costs less.
    """
    size = draft.add("Shape", f"{where}/entered", entered)
    odd = draft.add("Mod", f"{where}/odd", size, draft.constant("by_two", np.array([1, 1, 2, 2])))
    pads = draft.add("Concat", where, draft.constant("no_pads", np.zeros(4, np.int64)), odd, axis=0)
    bordered = draft.add("Pad", where, slope, pads)
    return draft.add("Resize", where, bordered, "", "", size, **_NEAREST)


def _adam(draft: Draft, gradient: str) -> None:
    one = draft.constant("one", np.float32(1.0))
    rests = draft.add("Sub", "adam/rests", one, "betas")
    kept = draft.add("Mul", "adam/corrections", "corrections", "betas")
    draft.add("Add", "adam/corrections", kept, rests, to=f"{NEXT}corrections")
    powers = (gradient, draft.add("Mul", "adam/power", gradient, gradient))
    first, second = (
        _moment(draft, moment, index, power, rests)
        for index, (moment, power) in enumerate(zip(MOMENTS, powers, strict=True))
    )
    divisor = draft.add("Add", "adam/divisor", draft.add("Sqrt", "adam", second), "epsilon")
    direction = draft.add("Div", "adam", first, divisor)
    moved = draft.add("Sub", "adam", "picture", draft.add("Mul", "adam", direction, "learning_rate"))
    draft.add("Clip", "adam", moved, draft.constant("black", np.float32(0.0)), one, to=f"{NEXT}picture")


def _moment(draft: Draft, moment: str, index: int, power: str, rests: str) -> str:
    """A moment's next value as an output, and that value without the bias of its start."""
    place = draft.constant(f"adam/{moment}/index", np.int64(index))
    beta, rest, correction = (
        draft.add("Gather", f"adam/{moment}/{name}", values, place)
        for name, values in (("beta", "betas"), ("rest", rests), ("correction", f"{NEXT}corrections"))
    )
    kept = draft.add("Mul", f"adam/{moment}/kept", moment, beta)
    added = draft.add("Mul", f"adam/{moment}/added", power, rest)
    total = draft.add("Add", f"adam/{moment}", kept, added, to=f"{NEXT}{moment}")
    return draft.add("Div", f"adam/{moment}", total, correction)
