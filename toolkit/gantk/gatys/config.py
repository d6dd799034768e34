# SPDX-License-Identifier: Apache-2.0
"""Everything that an optimisation can be told, checked as soon as it is said, and the presets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from gantk.errors import UsageError
from gantk.options import check_options
from gantk.stylize.settings import Settings

Layers = tuple[tuple[str, float], ...]
"""Names of VGG-19's layers, each with its weight."""

_LIMITS = {"threads": (1, 4096)}
_CHOICES = {
    "pooling": ("max", "average"),
    "variation": ("l1", "l2", "isotropic"),
    "precision": ("auto", "fp32", "bf16"),
    "device": ("auto", "cpu", "cuda"),
}


@dataclass(frozen=True)
class GatysConfig(Settings):
    """An optimisation of one picture by PyTorch: beside `Settings`, what an exported step has decided.

    Args:
        content: The file of the picture to stylise.
        styles: The files of one or more pictures in the style.
        masks: Of each style a grey picture that is white where the result takes that style; or none.
        style_masks: Of each style a grey picture that is white where the style is taken from; or none.
        content_layers: By default relu4_2, or what the weights have.
        style_layers: By default relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, or what the weights have.
        variation: The kind of total variation: ``l1``, ``l2`` or ``isotropic``.
        pooling: ``max`` or ``average``.
        keep_colors: Whether to take the strokes of the style but the colours of the content.
        vgg: A file of weights; by default the public one, fetched once.
        precision: The type that VGG computes in: ``fp32``, ``bf16`` or ``auto``, which is as `gantk.train.options` has
            it.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads; by default as many as there are cores.

    Raises:
        UsageError: A value is not allowed; the message says which are.
    """

    content: str
    styles: tuple[str, ...]
    masks: tuple[str, ...] = ()
    style_masks: tuple[str, ...] = ()
    content_layers: Layers | None = None
    style_layers: Layers | None = None
    variation: str = "l1"
    pooling: str = "max"
    keep_colors: bool = False
    vgg: str | None = None
    precision: str = "auto"
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, _LIMITS, _CHOICES)
        if not self.styles:
            raise UsageError("there is no style", hint="--style PICTURE")
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
