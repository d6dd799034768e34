# SPDX-License-Identifier: Apache-2.0
"""What the backends share in dealing with a vendor's library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from gantk.errors import GantkError
from gantk.tensors import TensorSpec

TEXT_LIMIT = 300

# importlib.metadata reads a file at every call. What is missing is not kept, and is looked for again.
_version = cache(version)


def installed(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed, without importing them."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = _version(package)
        except PackageNotFoundError:
            continue
    return found


def shortened(error: BaseException) -> str:
    """A vendor's message on one line, without source positions, at most `TEXT_LIMIT` characters."""
    text = re.sub(r"\S*/\S+\.(?:cpp|cc|h|hpp|py):\d+:?|^\[ONNXRuntimeError\] : \d+ : ", "", str(error))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 3] + "..."


@contextmanager
def vendor_errors(what: str, where: str, hint: str | None = None) -> Iterator[None]:
    """Turn whatever a vendor's library raises into a `GantkError` with its text, shortened."""
    try:
        yield
    except GantkError:
        raise
    except Exception as error:
        raise GantkError(f"{what}: {shortened(error)}", where=where, hint=hint) from error


class Declared(Protocol):
    """A file and what is said of it."""

    @property
    def where(self) -> str: ...
    @property
    def inputs(self) -> Sequence[TensorSpec]: ...
    @property
    def outputs(self) -> Sequence[TensorSpec]: ...


def check_interface(model: Declared, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Refuse a file whose inputs and outputs, name to dtype, are not those that its manifest declares."""
    for kind, specs, found in (("inputs", model.inputs, inputs), ("outputs", model.outputs, outputs)):
        declared = {spec.name: spec.dtype for spec in specs}
        if declared != dict(found):
            raise GantkError(
                f"`{model.where}` has {kind} {_listed(found)}; declared are {_listed(declared)}",
                where=model.where,
                hint="the manifest does not belong to this file; export the bundle again",
            )
        for name, dtype in declared.items():
            if dtype == "bfloat16":
                raise GantkError(
                    f"{name!r} of `{model.where}` is bfloat16, which numpy does not have",
                    where=model.where,
                    hint="export it with float32 inputs and outputs, as gantk does",
                )


def _listed(tensors: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {dtype}" for name, dtype in tensors.items()) or "none"
