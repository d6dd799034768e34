# SPDX-License-Identifier: Apache-2.0
"""The house is in order: style, types and the direction of imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent
SUFFIXES = (".py", ".c", ".cpp", ".cu", ".cuh", ".h", ".hpp")


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=" ".join,
)
def test_a_checker_finds_nothing(command: list[str]) -> None:
    tool = SCRIPTS / command[0]
    if not tool.exists():
        pytest.fail(f"{command[0]} is not installed; pip install -e '.[dev]'")
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_environment_variable_is_in_one_document() -> None:
    sources = [ROOT / "run.py", *(ROOT / "toolkit" / "gantk").rglob("*.py")]
    sources += [path for path in (ROOT / "toolkit" / "cpp" / "src").rglob("*") if path.suffix in SUFFIXES]
    read = {name for path in sources for name in re.findall(r'"(GANTK_[A-Z_]+)"', path.read_text())}
    assert len(read) > 5
    told = re.findall(r"`(GANTK_[A-Z_]+)`", (ROOT / "docs" / "environment.md").read_text())
    assert sorted(told) == sorted(read)


def test_every_source_file_says_its_licence() -> None:
    files = [
        path
        for folder in ("toolkit", "tests", "benchmarks", "kernels")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES and "__pycache__" not in path.parts
    ]
    assert len(files) > 30
    lacking = [
        str(path) for path in files if "SPDX-License-Identifier: Apache-2.0" not in path.read_text()[:200]
    ]
    assert lacking == []
