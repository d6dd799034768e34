# SPDX-License-Identifier: Apache-2.0
"""What gantk keeps in the user's cache folder: how much of it there is, and which data sets go first."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from gantk.errors import GantkError, UsageError
from gantk.files import cache_folder, is_locked

DATA_SET = ".u8"
"""The suffix of a decoded data set, mapped by trainings, which hold its lock; its index is a ``.json`` beside it."""

VARIABLE = "GANTK_DATA_CACHE_GIB"
"""Names the environment variable that says how much all data sets may take, in GiB."""

LIMIT_GIB = 32.0


def limit_bytes() -> int:
    """What all data sets may take.

    Raises:
        UsageError: `VARIABLE` is no number from 0 on.
    """
    text = os.environ.get(VARIABLE) or str(LIMIT_GIB)
    with suppress(ValueError):
        if 0 <= (limit := float(text)) < math.inf:
            return int(limit * 2**30)
    raise UsageError(f"{VARIABLE} is {text!r}; a number of GiB from 0 on is wanted")


def make_room(folder: Path, wanted_bytes: int, limit: int) -> None:
    """Remove data sets until another of `wanted_bytes` fits below `limit`: those used longest ago go first.

    Those in use stay; so do all other files, some of which were downloaded.
    """
    found = sorted(_data_sets(folder))
    excess = sum(size for _, size, _ in found) + wanted_bytes - limit
    for _, size, path in found:
        if excess <= 0:
            break
        with suppress(OSError):  # Gone meanwhile, or somebody else's.
            if not is_locked(path):
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
                excess -= size


def examine() -> dict[str, Any] | None:
    """The cache folder as a JSON object; `None` for a user without a home.

    Returns:
        ``folder``; whether it is ``writable``; ``data_sets_bytes`` and ``other_bytes``, what data sets and all else
        take; ``limit_bytes`` of the former, or `None` and the ``reason``.
    """
    try:
        folder = cache_folder()
    except GantkError:
        return None
    limit, reason = None, None
    try:
        limit = limit_bytes()
    except UsageError as error:
        reason = error.what
    data_sets, every = sum(size for _, size, _ in _data_sets(folder)), 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                every += Path(root, name).lstat().st_size
    return {
        "folder": str(folder),
        "writable": may_write(folder),
        "data_sets_bytes": data_sets,
        "other_bytes": every - data_sets,
        "limit_bytes": limit,
        "reason": reason,
    }


def may_write(folder: Path) -> bool:
    """Whether a folder takes files, or can be made; nothing is tried."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    by_effective_user = os.access in os.supports_effective_ids
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK, effective_ids=by_effective_user)


def _data_sets(folder: Path) -> list[tuple[float, int, Path]]:
    """When each was used last, its size and path."""
    found = []
    for path in folder.glob(f"*{DATA_SET}"):
        with suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    return found
