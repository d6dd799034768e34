# SPDX-License-Identifier: Apache-2.0
"""Networks and their frozen configurations: one family a file, imported when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from gantk.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

    from gantk.tensors import TensorSpec

# A family, and its module. The module has `Config` and `Generator(config)`, in a pair `Discriminator(config)` too.
_MODULES = {
    "adain": "gantk.models.adain",
    "dcgan": "gantk.models.dcgan",
    "mlp": "gantk.models.mlp",
    "style": "gantk.models.style",
}

FAMILIES = tuple(_MODULES)
"""All networks that make pictures."""

PAIRS = ("dcgan", "mlp")
"""Those that are trained against a discriminator and make pictures of latent vectors."""


class Config(Protocol):
    """What the configuration of every family says."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def to_json(self) -> dict[str, Any]: ...


def configure(family: str, config: Mapping[str, Any]) -> Config:
    """The checked configuration of a family.

    Raises:
        UsageError: The family or a field is unknown, or a value is not allowed.
    """
    configuration: Config = _module(family).Config.from_json(config)
    return configuration


def build(family: str, config: Mapping[str, Any]) -> nn.Module:
    """A generator with fresh weights; its configuration's `inputs` and `outputs` say what it maps to what.

    Raises:
        UsageError: As `configure`.
    """
    generator: nn.Module = _module(family).Generator(configure(family, config))
    return generator


def build_discriminator(family: str, config: Mapping[str, Any]) -> nn.Module:
    """The discriminator of one of `PAIRS`, with fresh weights: float[N, channels, size, size] -> logits float[N].

    Raises:
        UsageError: As `configure`.
    """
    discriminator: nn.Module = _module(family).Discriminator(configure(family, config))
    return discriminator


def _module(family: str) -> ModuleType:
    if family not in _MODULES:
        raise UsageError(f"there is no network {family!r}; there are {', '.join(FAMILIES)}")
    return import_module(_MODULES[family])
