# SPDX-License-Identifier: Apache-2.0
"""`gantk` itself: exit statuses, errors in words and in JSON, and verbs that keep the house's rules."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gantk.cli import main as cli
from gantk.errors import BackendMissingError, GantkError

ROOT = Path(__file__).resolve().parents[2]


def shell(line: str) -> subprocess.CompletedProcess[str]:
    line = line.replace("gantk ", f"{sys.executable} -m gantk ", 1)
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


def test_without_a_verb_help_is_shown(gantk: Callable[..., Any]) -> None:
    done = gantk()
    assert done.status == 2
    assert all(verb in done.out for verb in cli.VERBS)
    assert gantk("-h").status == gantk("--help").status == 0


def test_version(gantk: Callable[..., Any]) -> None:
    assert gantk("--version").out == "gantk 0.1.0\n"


@pytest.mark.parametrize(
    ("line", "says", "command"),
    [
        ("inof", "Did you mean 'info'", "gantk"),
        ("info", "missing argument", "gantk info"),
        ("info a b", "unexpected extra argument", "gantk info"),
        ("info --nope a", "no such option: --nope", "gantk info"),
        ("generate x -n many", "integer", "gantk generate"),
        ("generate x -n 0", "greater than or equal to 1", "gantk generate"),
        ("generate x --backend", "requires an argument", "gantk generate"),
        ("train gan", "Did you mean 'dcgan'", "gantk train"),
        ("train dcgan --steps many", "integer", "gantk train dcgan"),
        ("train dcgan --baths 4", "no such option: --baths", "gantk train dcgan"),
    ],
)
def test_usage_errors(gantk: Callable[..., Any], line: str, says: str, command: str) -> None:
    done = gantk(*line.split())
    assert done.status == 2
    assert says in done.err
    assert done.err.startswith("error: ")
    assert done.err.endswith(f"  hint: {command} -h\n")
    assert done.out == ""


@pytest.mark.parametrize(
    ("cores", "already", "threads"), [(1.5, None, "2"), (1.5, "7", "7"), (float("inf"), None, None)]
)
def test_what_is_told_no_threads_keeps_to_the_quota(
    cores: float, already: str | None, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", already or "")  # So that it comes back.
    if already is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(cli, "quota", lambda: cores)
    monkeypatch.setattr(cli, "core_count", lambda: 2)
    assert cli.main(["--version"]) == 0
    assert os.environ.get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(("line", "status"), [("info nothing --json -", 1), ("info --nope --json=-", 2)])
def test_errors_as_json(gantk: Callable[..., Any], line: str, status: int) -> None:
    done = gantk(*line.split())
    assert done.status == done.json["exit_code"] == status
    assert done.json["error"] in done.err


def test_errors_as_json_in_a_file(gantk: Callable[..., Any], tmp_path: Path) -> None:
    assert gantk("info", "nothing", "--json", "error.json").status == 1
    assert "nothing" in json.loads((tmp_path / "error.json").read_text())["error"]
    done = gantk("info", "nothing", "--json", "no/such\0/error.json")
    assert (done.status, done.err.count("error: ")) == (1, 1)
    assert "is not a path: it holds a NUL" in done.err


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (
            GantkError("it broke", where="here", hint="mend it"),
            1,
            "error: it broke\n  in: here\n  hint: mend it\n",
        ),
        (BackendMissingError("no such thing"), 3, "error: no such thing\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ZeroDivisionError("oops"), 1, "error: ZeroDivisionError: oops\n  hint: this is a bug in gantk"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "hint: pip install 'gantk[train]'"),
        (ModuleNotFoundError("No module named 'x'", name="x"), 1, "this is a bug in gantk"),
    ],
)
def test_what_a_verb_raises(
    gantk: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, says: str
) -> None:
    def fail(_: object) -> None:
        raise raised

    monkeypatch.setattr("gantk.runtime.describe.describe", fail)
    done = gantk("info", "x", "--json", "-")
    assert done.status == status
    assert says in done.err
    assert done.json["exit_code"] == status
    assert done.json["error"] in done.err
    assert ("Traceback" in done.err) == ("bug" in done.err)


def test_a_reader_that_leaves(onnx_file: Path) -> None:
    for line in (
        f"gantk info {onnx_file} --json - | true",
        f"gantk info {onnx_file} | head -1",
        "gantk -h | true",
    ):
        assert shell(line).stderr == ""
    said = shell("gantk info nothing --json - | (exec 0<&-; sleep 2)").stderr
    assert said.startswith("error: cannot read `nothing`")


@pytest.mark.parametrize("line", ["doctor", "doctor --json -", "info {} --json -", "-h"])
def test_output_to_a_full_disk(onnx_file: Path, line: str) -> None:
    done = shell(f"gantk {line.format(onnx_file)} > /dev/full")
    assert done.stderr.startswith("error: cannot write to standard output: No space left on device\n")
    assert done.returncode == 1
    assert "bug" not in done.stderr


@pytest.mark.parametrize(
    ("encoding", "name", "said"),
    [
        ("ascii", "flü.gantk".encode(), b"fl\\xfc.gantk"),
        ("latin-1", "flü.gantk".encode(), b"fl\xfc.gantk"),
        ("utf-8", b"fl\xfc.gantk", b"fl\xfc.gantk"),
    ],
)
def test_any_name_can_be_printed(encoding: str, name: bytes, said: bytes) -> None:
    """In the encoding of the terminal or, where names are of an old disk's, as the very bytes that they are."""
    code = "import os, sys, gantk.cli.main as m\n"
    code += "m.app = lambda *_, **__: print(os.fsdecode(bytes.fromhex(sys.argv[1])))\n"
    code += "sys.exit(m.main(['doctor']))"
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, name.hex()], env=environment, capture_output=True, check=False
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == (said, b"", 0)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_lead_nowhere(tmp_path: Path, closed: str) -> None:
    command = f"exec {sys.executable} -m gantk doctor --json report.json {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "report.json").read_text())["works"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted(tmp_path: Path, number: int, status: int) -> None:
    code = "import signal, time, gantk.runtime.describe as d\nfrom gantk.cli.main import main\nimport sys\n"
    # What a shell runs in the background is born deaf to it.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "d.describe = lambda _: (print('on', flush=True), time.sleep(60))\n"
    code += "sys.exit(main(['info', 'x', '--json', 'error.json']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "on\n"
        time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(10) == status
        assert process.stderr.read() == "interrupted\n"
    told = json.loads((tmp_path / "error.json").read_text())
    assert (told["error"], told["exit_code"]) == ("interrupted", status)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted_amid_an_import(tmp_path: Path, number: int, status: int) -> None:
    """A library that takes what is raised there for its own fault does not swallow it."""
    (tmp_path / "vendor.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(0.3)\n"
        "except BaseException: print('initialization failed')\n"
    )
    code = "import signal, sys, time, gantk.runtime.describe as d\nfrom gantk.cli.main import main\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "d.describe = lambda _: (__import__('vendor'), print('imported', flush=True), time.sleep(60))\n"
    code += "sys.exit(main(['info', 'x']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (status, "interrupted\n")
    assert done.stdout in ("", "imported\n")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(gantk: Callable[..., Any], verb: str) -> None:
    if importlib.util.find_spec(f"gantk.cli.{verb}") is None:
        pytest.skip("not merged yet")
    for flag in ("-h", "--help"):
        done = gantk(verb, flag)
        assert done.status == 0
        assert f"gantk {verb}" in done.out
        assert "Examples" in done.out or "COMMAND" in done.out
    assert "--json" in done.out or "COMMAND" in done.out


@pytest.mark.parametrize(
    "verb", ["demo", "bench", "export", "refit", "stylize", "train dcgan", "train adain"]
)
def test_help_fills_the_lines_of_the_terminal(
    gantk: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """A docstring's own line breaks are for its readers: each would cut a line of the terminal short."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 90)
    lines = [line.strip() for line in gantk(*verb.split(), "-h").out.partition("╭")[0].splitlines()]
    for line, following in pairwise(lines):
        assert not line or not following or len(f" {line} {following.split()[0]}") > 90 - 2


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_is_in_the_readme(verb: str) -> None:
    text = (ROOT / "README.md").read_text()
    if len(text) < 1000:
        pytest.skip("the README is not written yet")
    assert f"gantk {verb}" in text


def test_every_command_is_a_verb() -> None:
    stems = {path.stem for path in (ROOT / "toolkit" / "gantk" / "cli").glob("*.py")} - {"__init__", "main"}
    commands = {stem for stem in stems if hasattr(importlib.import_module(f"gantk.cli.{stem}"), "app")}
    assert commands <= set(cli.VERBS)
