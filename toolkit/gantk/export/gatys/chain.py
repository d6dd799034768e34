# SPDX-License-Identifier: Apache-2.0
"""What a step optimises, and the convolutions that judge it, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gantk.errors import UsageError
from gantk.export.functions import KINDS
from gantk.models.vgg import LAYERS, POOLINGS, Vgg19, check_layer, smallest_size
from gantk.runtime.runner import Array
from gantk.tensors import TensorSpec

PICTURE = ("N", 3, "H", "W")
LOSSES = ("content_loss", "style_loss", "variation_loss")
MOMENTS = ("mean", "square")
"""Before the name of what an Adam step gives back to be put in again."""


@dataclass(frozen=True)
class StepConfig:
    """What is optimised.

    Args:
        style_layers: Of `gantk.models.vgg.LAYERS`, whose Gram matrices tell the style; they are put in order.
        content_layer: Whose features tell the content.
        pooling: ``max`` or ``average``.
        variation: The kind of total variation, one of `gantk.export.functions.KINDS`.
        epsilon: Of an isotropic variation.

    Raises:
        UsageError: A value is not allowed.
    """

    style_layers: tuple[str, ...]
    content_layer: str
    pooling: str = "max"
    variation: str = "l1"
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        for layer in (*self.style_layers, self.content_layer):
            check_layer(layer)
        if not self.style_layers or len({*self.style_layers}) < len(self.style_layers):
            named = ", ".join(self.style_layers) or "none"
            raise UsageError(f"the style layers are {named}; one or more different ones are wanted")
        if self.pooling not in POOLINGS or self.variation not in KINDS:
            raise UsageError(
                f"pooling is {self.pooling!r} and the variation {self.variation!r}; "
                f"allowed are {', '.join(POOLINGS)} and {', '.join(KINDS)}"
            )
        object.__setattr__(self, "style_layers", tuple(sorted(self.style_layers, key=LAYERS.index)))

    @property
    def last(self) -> str:
        """The last layer that is needed."""
        return max((*self.style_layers, self.content_layer), key=LAYERS.index)

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the tensors that tell what to approach: the content's features, then Gram matrices."""
        return (f"content.{self.content_layer}", *(f"gram.{layer}" for layer in self.style_layers))

    def to_json(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "style_layers": list(self.style_layers),
            "smallest_size": smallest_size(self.last),
        }


@dataclass(frozen=True)
class Layer:
    """A convolution with its activation.

    Args:
        name: Of the activation, e.g. ``relu1_1``.
        kernels: float32[after, before, 3, 3].
        offsets: float32[after].
        pooled: Whether a pooling comes before it.
    """

    name: str
    kernels: Array
    offsets: Array
    pooled: bool


@dataclass(frozen=True)
class Chain:
    """The part of VGG-19 that is needed.

    Args:
        layers: In order; each is needed.
        mean: float32[3, 1, 1], what is taken from a picture in [0, 1].
        std: float32[3, 1, 1], what it is then divided by.
    """

    layers: tuple[Layer, ...]
    mean: Array
    std: Array

    @classmethod
    def of(cls, network: Vgg19) -> Chain:
        stored = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        layers = (
            Layer(
                name,
                stored[f"convolutions.{name}.weight"],
                stored[f"convolutions.{name}.bias"],
                pooled=index > 0 and name.endswith("_1"),
            )
            for index, name in enumerate(network.layers)
        )
        return cls(tuple(layers), network.mean.numpy(), network.std.numpy())

    def channels(self, name: str) -> int:
        return next(len(layer.kernels) for layer in self.layers if layer.name == name)


def target_specs(chain: Chain, config: StepConfig) -> tuple[TensorSpec, ...]:
    """What is approached. M is 1, or N where each picture has a style of its own."""
    content, layer = config.targets[0], config.content_layer
    features = TensorSpec(content, "float32", ("N", chain.channels(layer), "h", "w"))
    grams = (
        TensorSpec(name, "float32", ("M", chain.channels(layer), chain.channels(layer)))
        for name, layer in zip(config.targets[1:], config.style_layers, strict=True)
    )
    return (features, *grams)


def picture_spec(name: str, limits: tuple[float, float] | None = (0.0, 1.0)) -> TensorSpec:
    return TensorSpec(name, "float32", PICTURE, limits, "NCHW")


def step_inputs(chain: Chain, config: StepConfig) -> tuple[TensorSpec, ...]:
    """Pictures, what they approach, and how much each loss weighs (see `gantk.export.gatys.graphs`)."""
    weights = (
        TensorSpec("content_weight", "float32", ()),
        TensorSpec("style_weight", "float32", ()),
        TensorSpec("variation_weight", "float32", ()),
        TensorSpec("layer_weights", "float32", (len(config.style_layers),)),
    )
    return (picture_spec("picture"), *target_specs(chain, config), *weights)


def adam_state() -> tuple[TensorSpec, ...]:
    """What an Adam step gets from the one before, beside the pictures."""
    moments = (picture_spec(name, None) for name in MOMENTS)
    return (*moments, TensorSpec("corrections", "float32", (2,), (0.0, 1.0)))


def adam_inputs(chain: Chain, config: StepConfig) -> tuple[TensorSpec, ...]:
    """A step's inputs, and with them Adam's state and settings."""
    settings = (
        TensorSpec("learning_rate", "float32", ()),
        TensorSpec("betas", "float32", (2,), (0.0, 1.0)),
        TensorSpec("epsilon", "float32", ()),
    )
    return (*step_inputs(chain, config), *adam_state(), *settings)


def loss_specs() -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", ("N",)) for name in LOSSES)
