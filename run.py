#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Set gantk up in `.venv` and run it: `python3 run.py demo` or `python3 run.py test`. Standard library only."""

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "gantk-installed.sha256"
EXTRAS = ("train", "cpu", "openvino", "dev")
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Set gantk up in .venv, once, and run it. What follows the verb is passed on.",
        epilog="GANTK_EXTRAS=gpu,tensorboard installs further extras; gpu takes the place of cpu.",
    )
    parser.add_argument(
        "verb", choices=("demo", "test"), help="demo: the whole path on a small data set; test: the suite"
    )
    parser.add_argument(
        "--cpu-torch",
        action="store_true",
        help="take PyTorch's small CPU wheels from its own index, instead of the CUDA ones of several gigabytes",
    )
    chosen, rest = parser.parse_known_args()
    if sys.version_info < (3, 11):
        return fail(
            f"Python 3.11 or later is wanted, this is {sys.version.split()[0]}", "sudo apt install python3.11"
        )
    status = set_up(extras(), cpu_torch=chosen.cpu_torch)
    if status != 0:
        return status
    if chosen.verb == "demo":
        return call([PYTHON, "-m", "gantk", "demo", *rest])
    return call(
        [PYTHON, "-m", "pytest", *(rest or ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"])]
    )


def extras() -> list[str]:
    asked = {name.strip() for name in os.environ.get("GANTK_EXTRAS", "").split(",") if name.strip()}
    return sorted(asked.union(EXTRAS) - ({"cpu"} if "gpu" in asked else set()))


def set_up(wanted: list[str], *, cpu_torch: bool) -> int:
    """Make `.venv` hold the pinned packages; a stamp of what they were made from saves doing it twice."""
    stamp = fingerprint(wanted, cpu_torch=cpu_torch)
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == stamp:
        return 0
    try:
        import ensurepip  # noqa: F401  (Debian and Ubuntu ship Python without it)
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return fail(
            f"Python {version} has no ensurepip here, which a virtual environment wants",
            f"sudo apt install python{version}-venv",
        )
    print(f"setting up {VENV} (once; PyTorch is the large part)", file=sys.stderr, flush=True)
    STAMP.unlink(missing_ok=True)
    if call([PYTHON, "-c", "import pip"], quiet=True) != 0:
        status = call([sys.executable, "-m", "venv", "--clear", VENV])
        if status != 0:
            return fail("the virtual environment could not be made", "read the lines above")
    install = [PYTHON, "-m", "pip", "install", "-c", ROOT / "constraints.txt"]
    # First and alone: no other package is looked for in that index.
    if cpu_torch and call([*install, "--no-deps", "--index-url", CPU_TORCH_INDEX, "torch"]) != 0:
        return fail(
            "PyTorch's CPU build could not be installed",
            "read pip's lines above; without --cpu-torch PyTorch comes from PyPI",
        )
    if call([*install, "-e", f"{ROOT}[{','.join(wanted)}]"]) != 0:
        return fail(
            "the packages could not be installed",
            "read pip's lines above; without an NVIDIA GPU, --cpu-torch downloads far less",
        )
    STAMP.write_text(stamp)
    return 0


def fingerprint(wanted: list[str], *, cpu_torch: bool) -> str:
    digest = hashlib.sha256(f"{sys.version} {wanted} {cpu_torch}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def call(command: list, *, quiet: bool = False) -> int:
    """Run a command to its end and return its exit status; 127 where it does not exist."""
    sink = subprocess.DEVNULL if quiet else None
    try:
        process = subprocess.Popen([str(part) for part in command], cwd=ROOT, stdout=sink, stderr=sink)
    except FileNotFoundError:
        return 127
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # The command gets Ctrl-C too and ends in its own way; wait for it.


def fail(what: str, hint: str) -> int:
    print(f"error: {what}\n  hint: {hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
