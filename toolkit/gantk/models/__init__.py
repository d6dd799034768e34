# SPDX-License-Identifier: Apache-2.0
"""Networks and their frozen configurations: one family a file, imported when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gantk.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

    from gantk.models.config import NetworkConfig

# A family, and its module. The module has `Config`, `Generator(config)` and `Discriminator(config)`.
_MODULES = {
    "dcgan": "gantk.models.dcgan",
    "mlp": "gantk.models.mlp",
}

FAMILIES = tuple(_MODULES)


def configure(family: str, config: Mapping[str, Any]) -> NetworkConfig:
    """The checked configuration of a family.

    Raises:
        UsageError: The family or a field is unknown, or a value is not allowed.
    """
    configuration: NetworkConfig = _module(family).Config.from_json(config)
    return configuration


def build(family: str, config: Mapping[str, Any]) -> nn.Module:
    """A generator with fresh weights: float[N, latent_size] -> float[N, channels, size, size] in [-1, 1].

    Raises:
        UsageError: As `configure`.
    """
    generator: nn.Module = _module(family).Generator(configure(family, config))
    return generator


def build_discriminator(family: str, config: Mapping[str, Any]) -> nn.Module:
    """Its discriminator with fresh weights: float[N, channels, size, size] -> logits float[N].

    Raises:
        UsageError: As `configure`.
    """
    discriminator: nn.Module = _module(family).Discriminator(configure(family, config))
    return discriminator


def _module(family: str) -> ModuleType:
    if family not in _MODULES:
        raise UsageError(f"there is no network {family!r}; there are {', '.join(FAMILIES)}")
    return import_module(_MODULES[family])
