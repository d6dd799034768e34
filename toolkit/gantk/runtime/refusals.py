# SPDX-License-Identifier: Apache-2.0
"""Why a network is not opened with a backend, or with any, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from gantk.bundle import Variant
from gantk.errors import BackendMissingError, GantkError


def refuse_tf32(backend: str, device: str) -> NoReturn:
    """Stands for the search of a file in tf32: there is none, for backends that run files."""
    raise GantkError(
        f"{backend} has no tf32, a way in which engines compute fp32 files",
        where="precision",
        hint="precision='fp32' takes the file itself",
    )


def right(variant: Variant, backend: str, device: str, path: Path) -> Variant:
    """`variant`, unless its outputs there were found wrong when the bundle was made."""
    failed = variant.failed_on(backend, device)
    if failed is None:
        return variant
    able = "computes it right" if failed.loaded else "can"
    raise GantkError(
        failed.complaint(variant.file.path), where=str(path), hint=f"backend='auto' takes one that {able}"
    )


def none_left(path: Path, failures: Mapping[str, GantkError]) -> GantkError:
    """The error that says why no backend would do; a `BackendMissingError` where one is only missing."""
    reasons = "; ".join(error.what for error in failures.values())
    missing = [error for error in failures.values() if isinstance(error, BackendMissingError)]
    if missing:
        return BackendMissingError(
            f"no backend runs `{path}` here: {reasons}",
            where=str(path),
            hint=missing[0].hint or "gantk doctor",
        )
    tried = [f"backend={name!r}" for name in failures]  # A backend that failed as well is no way out.
    hints = (error.hint for error in failures.values() if error.hint)
    hint = next((hint for hint in hints if not any(name in hint for name in tried)), None)
    return GantkError(f"no backend runs `{path}` here: {reasons}", where=str(path), hint=hint)
