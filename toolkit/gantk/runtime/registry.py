# SPDX-License-Identifier: Apache-2.0
"""The backends: which there are, which work here, and how a network is opened with one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.runtime.runner import Runner

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class BackendEntry:
    """A backend's place in the table.

    Args:
        module: The module that implements it, imported when it is chosen. It has
            ``probe() -> BackendStatus``, ``executed(precision, device) -> str | None`` and
            ``open(model, device, threads) -> Runner``.
        install: The command that makes it work.
    """

    module: str
    install: str


# In the order in which `auto` tries them.
BACKENDS = {
    "onnxruntime": BackendEntry("gantk.runtime.backends.onnxruntime", "pip install 'gantk[cpu]' (or 'gantk[gpu]')"),
    "openvino": BackendEntry("gantk.runtime.backends.openvino", "pip install 'gantk[openvino]'"),
}


@dataclass(frozen=True)
class BackendStatus:
    """What a backend said of itself on this machine.

    Args:
        name: The backend's name.
        version: Of the package, or `None` where it is not installed.
        devices: Where it can run here; empty where it does not work.
        reason: Why it does not work.
        hint: What to do about it.
    """

    name: str
    version: str | None
    devices: tuple[str, ...]
    reason: str | None = None
    hint: str | None = None

    @property
    def works(self) -> bool:
        return bool(self.devices)
