# SPDX-License-Identifier: Apache-2.0
"""What may have happened to a bundle's file since it was written."""

from __future__ import annotations

import os
from pathlib import Path

FAULTS = ("flipped", "cut", "longer", "empty", "missing", "folder", "pipe", "link out", "loop")


def tamper(path: Path, fault: str, outside: Path) -> None:
    """Put what one of `FAULTS` says in the place of a file; a link out leads to `outside`, with the right bytes.

    "short", of kept kernels, is less than the hash that they begin with.
    """
    data = path.read_bytes()
    path.unlink()
    if fault == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "cut":
        path.write_bytes(data[:-1])
    elif fault == "longer":
        path.write_bytes(data + b"\0")
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "short":
        path.write_bytes(data[:20])
    elif fault == "folder":
        path.mkdir()
    elif fault == "pipe":
        os.mkfifo(path)
    elif fault == "link out":
        outside.write_bytes(data)
        path.symlink_to(outside)
    elif fault == "loop":
        path.symlink_to(path.name)
    else:
        assert fault == "missing"
