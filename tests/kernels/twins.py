# SPDX-License-Identifier: Apache-2.0
"""Compiles the programs that plan in C++, for comparison: once for each state of the sources."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parents[1] / "kernels" / "include"


def twin(name: str, *warnings: str) -> Path:
    """The program of `name`.cpp, in which a warning is an error."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no g++ or clang++ on this machine")
    source = HERE / f"{name}.cpp"
    digest = hashlib.sha256(repr((compiler, warnings)).encode())
    for path in sorted((source, *INCLUDE.rglob("*.h*"))):
        digest.update(path.read_bytes())
    program = Path(tempfile.gettempdir()) / f"gantk-{name}-{os.getuid()}-{digest.hexdigest()[:16]}"
    with program.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Two workers of pytest want the same one.
        if not program.exists():
            made = program.with_suffix(".new")
            flags = ("-std=c++17", "-O0", "-Wall", "-Wextra", *warnings, "-Werror", f"-I{INCLUDE}")
            command = [compiler, source, *flags, "-o", made]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made.rename(program)
    return program
