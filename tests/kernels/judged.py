# SPDX-License-Identifier: Apache-2.0
"""Trials of kernels in the interpreter, and of itself: run again where anything has changed that they depend on.

    python tests/kernels/judged.py     # runs them all and, where they pass, writes judged.json

The same PTX, of the same numbers, in the same interpreter gives the same results; it takes minutes to see that again.
`judged.json` has a hash of all that decides, as of when every trial passed: kernels, their compiler, the interpreter,
the plans and functions, the trials themselves. Where it is the same they belong to the slow tests, else to all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RECORD = HERE / "judged.json"
FILES = (
    "test_dependent_launches.py",
    "test_functions.py",
    "test_gram_gradient_kernels.py",
    "test_gram_kernels.py",
    "test_gram_sm90_kernels.py",
    "test_instance_norm_kernels.py",
    "test_interpreter.py",
    "test_interpreter_faults.py",
    "test_pycuda.py",
    "test_style_loss_kernels.py",
    "test_tensorrt_plugins.py",
    "test_to_picture_kernels.py",
    "test_torch_operators.py",
    "test_variation_kernels.py",
)
DECISIVE = (
    "kernels/cuda/*",
    "kernels/include/gantk/kernels/*",
    "toolkit/gantk/*.py",
    "toolkit/gantk/kernels/*.py",
    "toolkit/gantk/ops/*.py",
    "toolkit/gantk/runtime/*.py",
    "toolkit/gantk/export/functions/*.py",
    "toolkit/gantk/export/opset.py",
    "tests/variations.py",
    "tests/kernels/*.py",
    "tests/kernels/ptx/*.py",
)
PACKAGES = ("numpy", "ml-dtypes", "torch", "onnx", "nvidia-cuda-nvrtc", "cuda-bindings")


@cache
def judgement() -> str:
    """A hash of all that decides whether the trials pass."""
    found = hashlib.sha256()
    for pattern in DECISIVE:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    for package in PACKAGES:
        found.update(f"{package} {_version(package)}\0".encode())
    return found.hexdigest()[:24]


def is_judged() -> bool:
    """Whether they passed with just what is here now."""
    return bool(RECORD.exists() and json.loads(RECORD.read_text())["judged"] == judgement())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


TRIALS = [pytest.mark.slow] if is_judged() else []
"""The marks of tests, or of a file of them, whose inputs are all among `DECISIVE`."""


def main() -> int:
    """Run all trials, the slow ones too; keep the record where they pass."""
    files = [str(HERE / name) for name in FILES]
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(os.cpu_count() or 1), "-m", "not gpu", *files]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status == 0:
        RECORD.write_text(json.dumps({"judged": judgement()}) + "\n")
        print(f"wrote {RECORD.relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
