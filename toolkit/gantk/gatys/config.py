# SPDX-License-Identifier: Apache-2.0
"""Everything that an optimisation can be told, checked as soon as it is said, and the presets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from gantk.errors import UsageError

STARTS = ("content", "noise", "blend")
OPTIMIZERS = ("lbfgs", "adam")
POOLINGS = ("max", "average")
VARIATIONS = ("l1", "l2", "isotropic")
MEASURES = ("relative", "sums")
PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")
SIZE_LIMIT = 4096

Layers = tuple[tuple[str, float], ...]
"""Names of VGG-19's layers, each with its weight."""

# The smallest and largest value of each number; a field that may be `None` is checked where it is not.
_LIMITS: dict[str, tuple[float, float]] = {
    "size": (16, SIZE_LIMIT),
    "style_size": (16, SIZE_LIMIT),
    "steps": (1, 1_000_000),
    "scales": (1, 10),
    "noise": (0.0, 1.0),
    "content_weight": (0.0, 1e12),
    "style_weight": (0.0, 1e12),
    "variation_weight": (0.0, 1e12),
    "lr": (1e-9, 100.0),
    "beta1": (0.0, 0.999_999),
    "adam_eps": (1e-12, 10.0),
    "seed": (0, 2**31 - 1),
    "preview_every": (0, 1_000_000),
    "threads": (1, 4096),
}
_CHOICES = {
    "init": STARTS,
    "optimizer": OPTIMIZERS,
    "pooling": POOLINGS,
    "variation": VARIATIONS,
    "measure": MEASURES,
    "precision": PRECISIONS,
    "device": DEVICES,
}


@dataclass(frozen=True)
class GatysConfig:
    """An optimisation of one picture.

    Args:
        content: The file of the picture to stylise.
        styles: The files of one or more pictures in the style.
        shares: The share of each style, of any sum above 0; by default all the same.
        masks: Of each style a grey picture that is white where the result takes that style; or none.
        style_masks: Of each style a grey picture that is white where the style is taken from; or none.
        size: The longer side of the result in pixels.
        style_size: The longer side to which the style pictures are brought; by default `size`. Smaller makes
            finer strokes.
        steps: At each size from the coarsest to `size`; above 512 pixels half as many with each doubling.
        scales: The number of sizes, each twice the one before; by default as many as begin at 64 pixels.
        init: One of `STARTS`.
        noise: The share of noise in a blend.
        content_layers: By default relu4_2, or what the weights have.
        style_layers: By default relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, or what the weights have.
        content_weight: Of the content loss.
        style_weight: Of the style loss.
        variation_weight: Of the variation loss.
        variation: One of `VARIATIONS`.
        measure: ``relative``: features and Gram matrices are compared relative to the size of those wanted, and
            the variation is a mean, so that weights mean the same for all pictures, layers and sizes. ``sums``:
            as in the lesson, half the sum of squared differences of features, the mean over layers of the mean
            squared difference of Gram matrices, and the sum of absolute differences, for colours of 0 to 255.
        optimizer: One of `OPTIMIZERS`.
        lr: The learning rate; by default 1 for L-BFGS and 0.02 for Adam, which then falls to a tenth.
        beta1: Adam's first decay.
        adam_eps: Adam's epsilon.
        pooling: One of `POOLINGS`.
        keep_colors: Whether to take the strokes of the style but the colours of the content.
        seed: Of the noise.
        preview_every: Steps between previews; 0: none.
        vgg: A file of weights; by default the public one, fetched once.
        precision: One of `PRECISIONS`: the type that VGG computes in (`auto`: as `gantk.train.options` has it).
            Optimisations in bf16 come to within 2 % of the losses of those in float32.
        device: One of `DEVICES`.
        threads: CPU threads; by default as many as there are cores.

    Raises:
        UsageError: A value is not allowed; the message says which are.
    """

    content: str
    styles: tuple[str, ...]
    shares: tuple[float, ...] = ()
    masks: tuple[str, ...] = ()
    style_masks: tuple[str, ...] = ()
    size: int = 256
    style_size: int | None = None
    steps: int = 200
    scales: int | None = None
    init: str = "content"
    noise: float = 0.3
    content_layers: Layers | None = None
    style_layers: Layers | None = None
    content_weight: float = 1.0
    style_weight: float = 30.0
    variation_weight: float = 0.3
    variation: str = "l1"
    measure: str = "relative"
    optimizer: str = "lbfgs"
    lr: float | None = None
    beta1: float = 0.9
    adam_eps: float = 1e-8
    pooling: str = "max"
    keep_colors: bool = False
    seed: int = 0
    preview_every: int = 0
    vgg: str | None = None
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and lowest <= value <= highest):
                raise UsageError(
                    f"{name} is {value}; {lowest:g} to {highest:g} is allowed", where=_option(name)
                )
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}",
                    where=_option(name),
                )
        if not self.styles:
            raise UsageError("there is no style", hint="--style PICTURE")
        self._check_styles()
        if self.content_weight == 0 and self.style_weight == 0:
            raise UsageError("both --content-weight and --style-weight are 0: there is nothing to paint")

    def _check_styles(self) -> None:
        for name, option in (
            ("shares", "--style-share"),
            ("masks", "--mask"),
            ("style_masks", "--style-mask"),
        ):
            given = getattr(self, name)
            if given and len(given) != len(self.styles):
                raise UsageError(
                    f"{len(given)} times {option} and {len(self.styles)} times --style; one for each is wanted",
                    where=option,
                )
        if self.shares and not (
            all(math.isfinite(s) and s >= 0 for s in self.shares) and sum(self.shares) > 0
        ):
            raise UsageError(f"shares are {list(self.shares)}; numbers from 0, not all 0, are wanted")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


PRESETS: dict[str, dict[str, Any]] = {}
"""By name, the fields in which a preset differs from the defaults: the three runs of the lesson."""

_LESSON: dict[str, Any] = {
    "measure": "sums",
    "optimizer": "adam",
    "lr": 0.002,
    "beta1": 0.99,
    "adam_eps": 0.1,
    "steps": 1000,
    "scales": 1,
    "preview_every": 100,
    "content_weight": 1.0,
    "variation_weight": 0.0,
}
PRESETS["lesson-content-noise"] = {**_LESSON, "init": "noise", "style_weight": 0.0}
PRESETS["lesson-style-noise"] = {**_LESSON, "init": "noise", "content_weight": 2.0, "style_weight": 1.0}
PRESETS["lesson-blend"] = {**_LESSON, "init": "blend", "style_weight": 150.0, "variation_weight": 30.0}


def find_preset(name: str | None) -> dict[str, Any]:
    """The fields of a preset; none where no name is given.

    Raises:
        UsageError: There is no preset of that name.
    """
    if name is not None and name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}", where="--preset")
    return PRESETS.get(name or "", {})


def parse_layers(text: str, option: str) -> Layers:
    """Read ``relu1_1:0.5,relu2_1``; a layer without a number weighs 1.

    Raises:
        UsageError: It is not of that form, a layer comes twice or is none of VGG-19's, or all weigh nothing.
    """
    from gantk.models.vgg import check_layer

    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition(":")
        check_layer(name)
        try:
            weight = float(number or 1)
        except ValueError:
            weight = math.nan
        if name in found or not 0 <= weight < math.inf:
            raise UsageError(
                f"{part!r} in {text!r}: each layer comes once, with a weight from 0",
                where=option,
                hint=f"{option} relu1_1:0.5,relu2_1:1",
            )
        found[name] = weight
    if not sum(found.values()) > 0:
        raise UsageError(f"{text!r} names no layer that weighs anything", where=option)
    return tuple(found.items())


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
