# SPDX-License-Identifier: Apache-2.0
"""Engines are built in a process of their own, which may die."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from bench_fakes import wait_dead

import engine_graphs as graphs
import networks
from gantk.errors import GantkError
from gantk.export.engines import apart
from gantk.export.engines.apart import build_apart
from gantk.export.engines.build import BuildOptions
from gantk.export.engines.worker import fix_addresses, take_turns
from gantk.runtime.products import Product

ADA = BuildOptions(("sm_89",))
MEMORY = "a smaller --max, or a --workspace limit, takes less memory"


def test_two_builds_are_equal_byte_for_byte(rtx: Product) -> None:
    """In a process of their own; in one process the builder numbers its names on."""
    data = networks.generator("fp16")
    profiles = graphs.profiles_of(data)
    first, second = (build_apart(rtx, data, "fp16", profiles, ADA, "x.onnx") for _ in range(2))
    assert first.data == second.data
    assert first == second


@pytest.mark.parametrize(
    ("dies", "how", "hint"),
    [
        ("os.abort()", "was killed by SIGABRT", None),
        ("sys.exit(3)", "ended with status 3", None),
        ("sys.exit(0)", "ended with status 0", None),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL", MEMORY),
        ("print('[1, 2', end='', flush=True); os.abort()", "was killed by SIGABRT", None),
    ],
    ids=["abort", "exit", "without-a-word", "kill", "amid-a-line"],
)
def test_a_worker_that_dies_is_an_error_and_leaves_nothing(
    rtx: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str, how: str, hint: str | None
) -> None:
    crash = f"""
import os, pathlib, subprocess, sys
child = subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL)
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
print("out of paper", file=sys.stderr)
{dies}
"""
    start = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", crash], **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("gantk.export.engines.apart.subprocess.Popen", popen)
    data = networks.generator()
    with pytest.raises(GantkError, match=f"built `x.onnx` {how}: out of paper") as caught:
        build_apart(rtx, data, "fp32", graphs.profiles_of(data), ADA, "x.onnx")
    assert (caught.value.where, caught.value.hint) == ("x.onnx", hint)
    assert wait_dead([int((tmp_path / "child").read_text())])


def test_a_worker_that_can_write_no_file_says_so(rtx: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        limited = f"ulimit -f 0; exec {shlex.join(command)}"
        return start(["sh", "-c", limited], **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("gantk.export.engines.apart.subprocess.Popen", popen)
    data = networks.generator()
    with pytest.raises(GantkError, match="cannot build in `.*gantk-build-.*`: File too large"):
        build_apart(rtx, data, "fp32", graphs.profiles_of(data), ADA, "x.onnx")


def test_what_keeps_a_worker_from_its_work_is_no_bug(rtx: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on files, before there is a worker; and one on processes."""
    data = networks.generator()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(GantkError, match="cannot build in `.*gantk-build-.*`: File too large") as caught:
            build_apart(rtx, data, "fp32", graphs.profiles_of(data), ADA, "x.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ulimit -f" in (caught.value.hint or "")

    def popen(command: list[str], **options: object) -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("gantk.export.engines.apart.subprocess.Popen", popen)
    with pytest.raises(GantkError, match="cannot start `.*`: Resource temporarily unavailable"):
        build_apart(rtx, data, "fp32", graphs.profiles_of(data), ADA, "x.onnx")


def test_the_worker_sees_the_same_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert said.items() <= apart._environment().items()


def test_the_worker_in_its_folder_finds_packages_beside_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["libraries", "", "/opt/more"]))
    (ours, *paths) = apart._environment()["PYTHONPATH"].split(os.pathsep)
    assert paths == [str(Path("libraries").absolute()), "/opt/more"]
    assert (Path(ours) / "gantk/errors.py").is_file()


def test_a_worker_speaks_at_once_and_libraries_elsewhere() -> None:
    code = (
        "import os; from gantk.export.engines.worker import _own_output; tell = _own_output(); "
        "tell(['timing', 0, 2]); os.write(1, b'a library speaks'); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ('["timing", 0, 2]\n', "a library speaks")


@pytest.mark.parametrize(("personality", "same"), [(0x0040000, True), (0, False), (-1, False)])
def test_without_the_same_addresses_nothing_is_called_reproducible(
    monkeypatch: pytest.MonkeyPatch, personality: int, same: bool
) -> None:
    """Some systems do not even tell: then the call fails."""
    asked: list[object] = []
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {5, 3})
    monkeypatch.setattr("os.sched_setaffinity", lambda *given: asked.append(given))
    monkeypatch.setattr("os.sched_setscheduler", lambda *given: asked.append(given[:2]))
    libc = SimpleNamespace(personality=lambda query: personality)
    monkeypatch.setattr("gantk.export.engines.worker.ctypes.CDLL", lambda name: libc)
    with nullcontext() if same else pytest.raises(GantkError, match="gives every process other addresses"):
        take_turns()
    assert asked == [(0, {3}), (0, os.SCHED_FIFO)]


@pytest.mark.parametrize(
    ("now", "then", "asked", "again"),
    [
        (0x0008, 0x0008, [0xFFFFFFFF, 0x0040008], True),
        (0, 0, [0xFFFFFFFF, 0x0040000], True),
        (0, -1, [0xFFFFFFFF, 0x0040000], False),
        (0x0040000, None, [0xFFFFFFFF], False),
        (-1, None, [0xFFFFFFFF], False),
    ],
    ids=["of-another-kind", "random", "not-allowed", "fixed", "unknown"],
)
def test_a_process_begins_again_with_the_same_addresses_where_it_may(
    monkeypatch: pytest.MonkeyPatch, now: int, then: int | None, asked: list[int], again: bool
) -> None:
    calls, begun = list[int](), list[list[str]]()

    def personality(flags: int) -> int:
        calls.append(flags)
        found = now if len(calls) == 1 else then
        assert found is not None
        return found

    libc = SimpleNamespace(personality=personality)
    monkeypatch.setattr("gantk.export.engines.worker.ctypes.CDLL", lambda name: libc)
    monkeypatch.setattr("os.execv", lambda path, command: begun.append(command))
    fix_addresses()
    assert calls == asked
    assert begun == ([[sys.executable, "-m", "gantk.export.engines.worker"]] if again else [])
