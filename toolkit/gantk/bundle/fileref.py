# SPDX-License-Identifier: Apache-2.0
"""The name, length and hash of a file in a bundle."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from gantk.bundle.reading import TEXT_LIMIT, take
from gantk.errors import GantkError

MANIFEST = "manifest.json"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRef:
    """A file of the bundle.

    Args:
        path: Relative to the bundle, with forward slashes, without ``..``.
        sha256: Of its bytes, in lower-case hexadecimal.
        size_bytes: Its length.
    """

    path: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if len(parts) > 4 or not all(is_part(part) for part in parts) or self.path == MANIFEST:
            raise GantkError(f"{self.path[:TEXT_LIMIT]!r} is not the path of a file inside a bundle")
        check_sha256(self.sha256, f"`{self.path}`")
        if self.size_bytes < 0:
            raise GantkError(f"`{self.path}` cannot have {self.size_bytes} bytes")

    @classmethod
    def of(cls, path: str, data: bytes) -> FileRef:
        return cls(path, hashlib.sha256(data).hexdigest(), len(data))

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "sha256": self.sha256, "size_bytes": self.size_bytes}

    @classmethod
    def from_json(cls, data: Any) -> FileRef:
        return cls(take(data, "path", str), take(data, "sha256", str), take(data, "size_bytes", int))


def take_file(data: Any, key: str) -> FileRef | None:
    value = take(data, key, dict, optional=True)
    return None if value is None else FileRef.from_json(value)


def is_part(text: str) -> bool:
    """Whether a text names a file and no folder: it has no slash and begins with a letter, a digit or _."""
    return _PART.fullmatch(text) is not None


def check_sha256(text: str, what: str) -> None:
    """Refuse what is no hash; `what` says whose it should be."""
    if not _SHA256.fullmatch(text):
        raise GantkError(f"the sha256 of {what} is {text[:100]!r}; 64 hexadecimal digits are wanted")
