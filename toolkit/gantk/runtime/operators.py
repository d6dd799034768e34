# SPDX-License-Identifier: Apache-2.0
"""Where the library of native operators for ONNX Runtime is, which `kernels` builds.

ONNX Runtime takes its kernels in place of the portable bodies that a file has for nodes of the domain `gantk`.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from gantk.errors import GantkError

OPERATORS = "GANTK_ONNXRUNTIME_OPS"
"""The environment variable that names the library; empty, none is used."""

PACKAGE = "gantk_onnxruntime"
"""The package that has it, where the variable is not set."""

INSTALL = "pip install ./kernels, in gantk's source tree"
"""What makes the package."""


def native_operators(device: str) -> Path | None:
    """The library whose kernels sessions on a device use: what `OPERATORS` names, else that of `PACKAGE`.

    Args:
        device: ``cpu`` or ``cuda``. The package says for which it was built; a library that is named is believed.

    Raises:
        GantkError: What is named does not exist, or the package is incomplete.
    """
    named = os.environ.get(OPERATORS)
    if named is None:
        return _packaged(device)
    if not named:
        return None
    if not Path(named).is_file():
        raise GantkError(
            f"`{named}`, the library of native operators, does not exist",
            where=OPERATORS,
            hint="build it (kernels/onnxruntime/README.md), or set the variable to nothing: the file's own bodies do "
            "without",
        )
    return Path(named).absolute()


def has_native_operators(device: str) -> bool:
    """Whether sessions on a device are to use a library, be it one that does not load."""
    try:
        return native_operators(device) is not None
    except GantkError:
        return True


def _packaged(device: str) -> Path | None:
    if find_spec(PACKAGE) is None:
        return None
    try:
        package = import_module(PACKAGE)
        library, devices = Path(package.get_library_path()), package.DEVICES
    except (ImportError, AttributeError) as error:
        raise _incomplete(str(error)) from error
    if device not in devices:
        return None
    if not library.is_file():
        raise _incomplete(f"`{library}` does not exist")
    return library


def _incomplete(what: str) -> GantkError:
    return GantkError(
        f"the package gantk-onnxruntime is incomplete: {what}",
        where=PACKAGE,
        hint=f"pip uninstall gantk-onnxruntime, or install it again: {INSTALL}",
    )
