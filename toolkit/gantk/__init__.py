# SPDX-License-Identifier: Apache-2.0
"""Generative picture networks from PyTorch to a fast, verified, embeddable engine.

Importing gantk imports nothing heavy: what the names below need is loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gantk.bundle import Bundle as Bundle
    from gantk.errors import GantkError as GantkError
    from gantk.runtime.backends.gpu import GpuRunner as GpuRunner
    from gantk.runtime.registry import available as available
    from gantk.runtime.registry import open as open  # noqa: A004
    from gantk.runtime.runner import Runner as Runner

__version__ = "0.1.0"

__all__ = ["Bundle", "GantkError", "GpuRunner", "Runner", "__version__", "available", "open"]

_HOMES = {
    "Bundle": "gantk.bundle",
    "GantkError": "gantk.errors",
    "GpuRunner": "gantk.runtime.backends.gpu",
    "Runner": "gantk.runtime.runner",
    "available": "gantk.runtime.registry",
    "open": "gantk.runtime.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gantk' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
