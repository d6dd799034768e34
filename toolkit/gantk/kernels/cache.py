# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels on disk, so that each is compiled once for a machine and not once for a process."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gantk.errors import GantkError
from gantk.files import PARTIAL, cache_folder, read_bytes, write_bytes

VARIABLE = "GANTK_KERNEL_CACHE"
"""Names the environment variable that moves the cache: a folder, or ``off``."""

LIMIT_BYTES = 256 * 2**20
_ABANDONED_S = 3600.0
_SUFFIX = ".kernel"
_DIGEST_BYTES = hashlib.sha256().digest_size


def kernel_cache() -> DiskCache | None:
    """The cache of this user: where `VARIABLE` says, else in gantk's cache folder; `None` where it is off."""
    place = os.environ.get(VARIABLE)
    if place == "off":
        return None
    try:
        return DiskCache(Path(place) if place else cache_folder() / "kernels")
    except GantkError:  # A user without a home, as in some containers.
        return None


@dataclass(frozen=True)
class DiskCache:
    """Files that appear whole or not at all, each after its hash; processes share a folder without a lock.

    Two processes that miss the same entry both make it, and the later one replaces the other's equal file.

    Args:
        folder: Made when first written to.
        limit_bytes: What all entries may take; those used longest ago go first.
    """

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    def get(self, name: str) -> bytes | None:
        """An entry, or `None` where there is none that is whole; a damaged one is removed."""
        path = self._path(name)
        try:
            content = read_bytes(path)
        except GantkError:
            return None
        digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        whole = hashlib.sha256(data).digest() == digest
        with suppress(OSError):  # Another process may have removed it, and the folder may be read-only.
            if whole:
                os.utime(path)
            else:
                path.unlink()
        return data if whole else None

    def put(self, name: str, data: bytes) -> None:
        """Keep an entry, durably. Where the folder cannot be written, it is not kept, and a warning says so."""
        try:
            write_bytes(self._path(name), hashlib.sha256(data).digest() + data)
            self._trim()
        except (GantkError, OSError) as error:
            what = error.what if isinstance(error, GantkError) else str(error)
            warnings.warn(
                f"compiled kernels are not kept, every process compiles them again: {what}; "
                f"{VARIABLE} names another folder",
                RuntimeWarning,
                stacklevel=2,
            )

    def size_bytes(self) -> int:
        """What the entries take on disk."""
        return sum(size for _, size, _ in self._entries())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """When each entry was used last, its size and path; the oldest first."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def _trim(self) -> None:
        """Remove what is over the limit, and what processes that died left half written."""
        entries = self._entries()
        excess = sum(size for _, size, _ in entries) - self.limit_bytes
        for _, size, path in entries[:-1]:  # The newest stays, however large.
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
        for path in self.folder.glob(f".*{PARTIAL}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()
