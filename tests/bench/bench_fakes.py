# SPDX-License-Identifier: Apache-2.0
"""Runners for workers that behave, or misbehave, as told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gantk.files import cache_folder
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec

LATENT = TensorSpec("latent", "float32", ("N", 4))
PICTURE = TensorSpec("picture", "float32", ("N", 2), (-1.0, 1.0))


class Fake(Runner):
    """Yields `scale` times the first two values of each latent, after a nap."""

    def __init__(self, nap_s: float, scale: float, trouble: str | None) -> None:
        self.nap_s, self.scale, self.trouble, self.calls = nap_s, scale, trouble, 0
        kind = {
            "backend": "fake",
            "version": "1",
            "device": "cpu",
            "precision": "fp32",
            "file_precision": "fp32",
        }
        super().__init__([LATENT], [PICTURE], **kind)

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        self.calls += 1
        print("a vendor's greeting on standard output")
        os.write(1, b"and one from C\n")
        if self.calls > 3 and self.trouble is not None:
            misbehave(self.trouble)
        time.sleep(self.nap_s)
        return {"picture": np.tanh(arrays["latent"][:, :2] * self.scale)}

    def close(self) -> None:
        pass


def misbehave(how: str) -> None:
    if how == "abort":
        print("the vendor's last words", file=sys.stderr, flush=True)
        os.abort()
    if how == "hang":
        time.sleep(3600)
    if how == "raise":
        raise ValueError("no such kernel")
    if how == "exit":
        os._exit(7)


def make(nap_s: float = 0.001, scale: float = 1.0, trouble: str | None = None, when: str = "run") -> Fake:
    """A runner; its trouble begins at the fourth call, or already when it is opened."""
    if trouble is not None and when == "open":
        misbehave(trouble)
    return Fake(nap_s, scale, trouble)


def make_with_child(note: str, **options: Any) -> Fake:
    """A runner that started a process of its own, whose number it leaves in the file `note`."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    Path(note).write_text(str(child.pid))
    return make(**options)


def make_that_keeps(note: str, **options: Any) -> Fake:
    """A runner that leaves in the file `note` where gantk would keep what it compiles."""
    Path(note).write_text(str(cache_folder()))
    return make(**options)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is more than an entry that nobody has collected."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_dead(pids: list[int], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


__all__ = ["LATENT", "PICTURE", "Fake", "is_alive", "make", "make_with_child", "misbehave", "wait_dead"]
