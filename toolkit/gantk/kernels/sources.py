# SPDX-License-Identifier: Apache-2.0
"""The CUDA sources: where they are, and what they are, by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gantk.errors import GantkError
from gantk.files import named_errors

_HEADERS = (".h", ".hpp", ".cuh")


@dataclass(frozen=True)
class Sources:
    """All that a kernel is compiled from, in memory: what is hashed is what is compiled.

    Args:
        units: The translation units by name, e.g. ``gram``.
        headers: By the name that an `#include` gives.
        digest: The SHA-256 of all of these, in hexadecimal.
    """

    units: Mapping[str, str]
    headers: Mapping[str, str]
    digest: str


@cache
def sources() -> Sources:
    """The sources that belong to this installation, read once."""
    return read_sources(source_folder())


def source_folder() -> Path:
    """The folder that holds ``include/`` and ``cuda/``: inside the package in a wheel, else in the source tree.

    Raises:
        GantkError: Neither is there.
    """
    here = Path(__file__).resolve()
    places = (here.parent / "source", here.parents[3] / "kernels")
    for place in places:
        if (place / "cuda").is_dir():
            return place
    raise GantkError(
        "the CUDA sources of the kernels are not there: " + " and ".join(f"`{place}`" for place in places),
        hint="install gantk again",
    )


def read_sources(folder: Path) -> Sources:
    """Read the units ``cuda/*.cu`` and the headers under ``cuda/`` and ``include/``."""
    with named_errors(folder, "read"):
        units = {path.stem: path.read_text("utf-8") for path in sorted((folder / "cuda").glob("*.cu"))}
        headers = {
            path.relative_to(root).as_posix(): path.read_text("utf-8")
            for root in (folder / "include", folder / "cuda")
            for path in sorted(root.rglob("*"))
            if path.suffix in _HEADERS
        }
    digest = hashlib.sha256()
    for name, text in sorted({**headers, **{f"{unit}.cu": text for unit, text in units.items()}}.items()):
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return Sources(units, headers, digest.hexdigest())
