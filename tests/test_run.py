# SPDX-License-Identifier: Apache-2.0
"""`run.py` sets up once, and says what to do where it cannot."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Shell:
    """Records the commands in place of running them, and makes what they would make."""

    def __init__(self, run: ModuleType) -> None:
        self.run = run
        self.commands: list[list[str]] = []
        self.failing = ""

    def __call__(self, command: list[object], *, quiet: bool = False) -> int:
        words = [str(part) for part in command]
        self.commands.append(words)
        if self.failing and self.failing in words:
            return 1
        if "import pip" in words:
            return 0 if self.run.PYTHON.exists() else 127
        if "venv" in words:
            self.run.PYTHON.parent.mkdir(parents=True, exist_ok=True)
            self.run.PYTHON.touch()
        return 0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("gantk_run", ROOT / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp")
    monkeypatch.delenv("GANTK_EXTRAS", raising=False)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("one")
    yield module


@pytest.fixture
def shell(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell = Shell(run)
    monkeypatch.setattr(run, "call", shell)
    return shell


def installs(shell: Shell) -> list[list[str]]:
    return [command for command in shell.commands if "install" in command]


def test_the_first_start_installs_and_the_second_does_not(run: ModuleType, shell: Shell) -> None:
    assert run.set_up(["cpu"], cpu_torch=False) == 0
    assert len(installs(shell)) == 1
    assert installs(shell)[0][-1].endswith("[cpu]")
    shell.commands.clear()
    assert run.set_up(["cpu"], cpu_torch=False) == 0
    assert shell.commands == []


def test_a_change_of_pins_extras_or_torch_installs_again(
    run: ModuleType, shell: Shell, tmp_path: Path
) -> None:
    run.set_up(["cpu"], cpu_torch=False)
    run.set_up(["cpu", "train"], cpu_torch=False)
    run.set_up(["cpu", "train"], cpu_torch=True)
    (tmp_path / "constraints.txt").write_text("two")
    run.set_up(["cpu", "train"], cpu_torch=True)
    assert len([command for command in installs(shell) if "-e" in command]) == 4


def test_an_install_that_fails_is_tried_again_and_keeps_the_environment(
    run: ModuleType, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.failing = "install"
    assert run.set_up(["cpu"], cpu_torch=False) == 1
    assert "hint: read pip's lines above" in capsys.readouterr().err
    assert not run.STAMP.exists()
    shell.failing, shell.commands = "", []
    assert run.set_up(["cpu"], cpu_torch=False) == 0
    assert [command for command in shell.commands if "venv" in command] == []


def test_python_without_ensurepip_gets_the_line_that_mends_it(
    run: ModuleType, shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert run.set_up(["cpu"], cpu_torch=False) == 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"hint: sudo apt install python{version}-venv" in capsys.readouterr().err
    assert shell.commands == []


def test_small_torch_comes_from_its_own_index_only_where_asked_for(run: ModuleType, shell: Shell) -> None:
    run.set_up(["cpu"], cpu_torch=False)
    run.set_up(["cpu"], cpu_torch=True)
    plain, small, rest = installs(shell)
    assert small[small.index("--index-url") + 1] == run.CPU_TORCH_INDEX
    assert small[-1] == "torch"
    assert run.CPU_TORCH_INDEX not in plain + rest
    assert plain == rest


def test_an_index_that_is_not_reached_is_told(
    run: ModuleType, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.failing = run.CPU_TORCH_INDEX
    assert run.set_up(["cpu"], cpu_torch=True) == 1
    assert (
        "hint: read pip's lines above; without --cpu-torch PyTorch comes from PyPI" in capsys.readouterr().err
    )
    assert len(installs(shell)) == 1


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("", ["cpu", "dev", "openvino", "train"]),
        ("gpu", ["dev", "gpu", "openvino", "train"]),
        ("tensorboard, gpu", ["dev", "gpu", "openvino", "tensorboard", "train"]),
    ],
)
def test_gpu_takes_the_place_of_cpu(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, asked: str, wanted: list[str]
) -> None:
    monkeypatch.setenv("GANTK_EXTRAS", asked)
    assert run.extras() == wanted
