# SPDX-License-Identifier: Apache-2.0
"""Whole benchmarks: of fakes that misbehave, and of a stranger's ONNX file on real backends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_fakes as fakes
import numpy as np
import pytest
from bench_helpers import MakeFake, make_onnx

from gantk.bench import case, contenders, load, machine, run, view
from gantk.bench.contender import Contender
from gantk.bench.load import Interference
from gantk.bench.measure import Progress
from gantk.bench.subject import Case, describe
from gantk.bundle import STEP_FAMILY
from gantk.cli.main import main
from gantk.errors import BackendMissingError, GantkError, UsageError


def run_fakes(
    tmp_path: Path,
    found: list[Contender],
    budget_s: float = 0.3,
    load_timeout_s: float = 20.0,
    family: str = "",
    progress: Progress = lambda line: None,
) -> case.Result:
    feeds = {"latent": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}
    np.savez(tmp_path / "feeds.npz", **feeds)
    right = {"picture": np.tanh(feeds["latent"][:, :2])}
    shapes = Case({"latent": (2, 4)}, 2)
    task = case.Task(
        shapes, tmp_path / "feeds.npz", right, "torch float32", [fakes.PICTURE], tmp_path, family
    )
    return case.run_case(task, found, case.Settings("cpu", 1, budget_s, load_timeout_s, 0), 0, progress)


def test_contenders_that_fail_do_not_stop_the_others(tmp_path: Path, fake: MakeFake) -> None:
    result = run_fakes(
        tmp_path,
        [
            fake("good", nap_s=0.004),
            fake("quick", nap_s=0.001),
            fake("wrong", scale=1.5),
            fake("raises", trouble="raise", when="open"),
            fake("aborts", trouble="abort"),
        ],
    )
    rows = {row["backend"]: row for row in result.rows}
    assert [rows[name]["status"] for name in ("good", "quick", "wrong")] == ["ok"] * 3
    assert rows["raises"]["reason"] == "ValueError: no such kernel"
    assert rows["aborts"]["status"] == "failed"
    assert "SIGABRT" in rows["aborts"]["reason"]
    assert rows["good"]["parity"]["passed"]
    assert not rows["wrong"]["parity"]["passed"]
    assert rows["good"]["latency_ms"]["min"] >= 4.0
    assert rows["quick"]["latency_ms"]["min"] < rows["good"]["latency_ms"]["min"]
    assert rows["good"]["throughput"] == pytest.approx(2000.0 / rows["good"]["latency_ms"]["p50"])
    json.dumps(result.rows, allow_nan=False)


def test_a_row_tells_what_its_load_took_and_progress_what_is_done(tmp_path: Path, fake: MakeFake) -> None:
    lines: list[str] = []
    found = [fake("slow", nap_s=0.05), fake("torch-compile"), fake("raises", trouble="raise", when="open")]
    row = run_fakes(tmp_path, found, budget_s=0.1, progress=lines.append).rows[0]
    assert 50 <= row["load"]["first_call_ms"] < 5000
    assert row["load_ms"] == row["load"]["open_ms"] + row["load"]["first_call_ms"]
    assert [line for line in lines if "round" not in line] == [
        "latent 2x4: loading slow fp32",
        "latent 2x4: loading raises fp32",
        "  raises fp32 failed: ValueError: no such kernel",
        "latent 2x4: compiling torch-compile fp32",
    ]


def test_a_contender_that_hangs_is_given_up(tmp_path: Path, fake: MakeFake) -> None:
    result = run_fakes(tmp_path, [fake("hangs", trouble="hang"), fake("good")], load_timeout_s=3.0)
    assert [row["status"] for row in result.rows] == ["failed", "ok"]
    assert "no answer to `run` within 3 s" in result.rows[0]["reason"]


def test_blocks_rotate_and_only_one_contender_runs(tmp_path: Path, fake: MakeFake) -> None:
    result = run_fakes(tmp_path, [fake("a"), fake("b")], budget_s=1.5)
    assert result.rounds >= 6
    assert {len(blocks) for blocks in result.blocks.values()} == {result.rounds}
    assert all(row["latency_ms"]["p50_ci95"] is not None for row in result.rows)


def test_what_compiles_is_loaded_one_after_another_where_there_is_one_thread(
    tmp_path: Path, fake: MakeFake
) -> None:
    rows = run_fakes(tmp_path, [fake("torch-compile"), fake("torch-compile")], budget_s=0.1).rows
    assert [(row["reason"], row["load"]["at_once"]) for row in rows] == [(None, 1), (None, 1)]


def test_an_interruption_leaves_no_worker(
    tmp_path: Path, fake: MakeFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = case._start

    def watched(*arguments: Any) -> Any:
        worker = start(*arguments)
        started.append(worker.pid)
        return worker

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(case, "_start", watched)
    monkeypatch.setattr(case, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_fakes(tmp_path, [fake("a"), fake("b")])
    assert len(started) == 2
    assert fakes.wait_dead(started)


def test_foreign_onnx_on_every_backend(tmp_path: Path) -> None:
    path = make_onnx(tmp_path / "style.onnx")
    document = run.compare(path, shapes=[("content", (1, 3, 24, 20))], threads=1, budget_s=0.5)
    assert document["schema"] == 2
    assert document["model"] == {"kind": "onnx", "path": "style.onnx", "name": "style"}
    assert {row["backend"] for row in document["rows"]} <= {"onnxruntime", "openvino"}
    assert document["rows"]
    for row in document["rows"]:
        assert row["status"] == "ok", row["reason"]
        assert row["parity"]["passed"]
        assert row["parity"]["psnr_db"] > 100
        assert row["memory_bytes"]["peak_rss"] >= row["memory_bytes"]["baseline_rss"]
        assert row["artefact_bytes"] == path.stat().st_size
        assert row["shape"] == {"content": [1, 3, 24, 20]}
    assert any("holds no PyTorch network" in skip["reason"] for skip in document["skipped"])
    assert "use " in document["recommendation"][0]
    json.dumps(document, allow_nan=False)


def test_what_was_measured_is_kept_before_the_next_case(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_the_second(task: case.Task, *arguments: Any) -> case.Result:
        if task.case.batch == 2:
            raise OSError("no more processes")
        return case.run_case(task, *arguments)

    kept: list[list[str]] = []
    monkeypatch.setattr(run, "run_case", fail_at_the_second)
    with pytest.raises(OSError, match="no more processes"):
        run.compare(
            onnx_file,
            backends=["onnxruntime"],
            shapes=[("content", (batch, 3, 8, 8)) for batch in (1, 2)],
            threads=1,
            budget_s=0.2,
            keep=lambda document: kept.append(view.cases_of(document)),
        )
    assert kept == [["content 1x3x8x8"]]


def test_free_sizes_and_unknown_names_are_usage_errors(onnx_file: Path) -> None:
    with pytest.raises(UsageError, match="sizes that are free: H"):
        run.compare(onnx_file)
    with pytest.raises(UsageError, match="'tensorflow' is not a backend; known are torch, torch-compile"):
        run.compare(onnx_file, backends=["tensorflow"], shapes=[("content", (1, 3, 8, 8))])
    with pytest.raises(UsageError, match="'fp4' is not a precision; known are fp32"):
        run.compare(onnx_file, precisions=["fp4"], shapes=[("content", (1, 3, 8, 8))])


def test_a_missing_backend_that_was_asked_for(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "has_torch", lambda: False)
    with pytest.raises(BackendMissingError, match="torch was asked for and .*: PyTorch is not installed"):
        run.compare(onnx_file, backends=["torch"], shapes=[("content", (1, 3, 8, 8))])


def test_without_a_compiler_torch_compile_is_skipped_in_words(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    _, skipped = contenders.find(describe(onnx_file), None, None, "cpu", 1)
    reasons = {skip.name: skip.reason for skip in skipped}
    assert "there is no C++ compiler `no-such-compiler`" in reasons["torch-compile"]


def test_modes_are_those_of_the_device(onnx_file: Path) -> None:
    says = "PyTorch has no mode reduce-overhead on cpu; there it has eager, channels_last, default, freezing, max"
    with pytest.raises(UsageError, match=says) as caught:
        contenders.find(describe(onnx_file), None, None, "cpu", 1, modes=["reduce-overhead"])
    assert caught.value.where == "--mode"
    contenders.find(describe(onnx_file), None, None, "cpu", 1, modes=["reduce-overhead", "eager"])


def test_nobody_left_says_why(onnx_file: Path) -> None:
    with pytest.raises(GantkError, match="nothing here can run .* in bf16"):
        run.compare(onnx_file, precisions=["bf16"], shapes=[("content", (1, 3, 8, 8))])


def test_contenders_are_judged_as_their_family_is(
    tmp_path: Path, fake: MakeFake, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [fake("step", scale=1.003)]
    assert [run_fakes(tmp_path, found, family=f).rows[0]["parity"]["passed"] for f in ("", STEP_FAMILY)] == [
        False,
        True,
    ]
    seen: list[str] = []

    def watched(task: case.Task, *arguments: Any) -> case.Result:
        seen.append(task.family)
        return case.run_case(task, *arguments)

    subject = describe(onnx_file)
    monkeypatch.setattr(
        run, "describe", lambda path: replace(subject, about={**subject.about, "family": "x"})
    )
    monkeypatch.setattr(run, "run_case", watched)
    shapes = [("content", (1, 3, 8, 8))]
    run.compare(onnx_file, backends=["onnxruntime"], shapes=shapes, threads=1, budget_s=0.1)
    assert seen == ["x"]


def test_a_worker_has_caches_of_its_own(
    tmp_path: Path, fake: MakeFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compiled is neither a user's nor another contender's: a load time is that of a first start."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    notes = [tmp_path / name for name in "ab"]
    found = [fake(note.name, note=str(note), factory="bench_fakes:make_that_keeps") for note in notes]
    assert [row["status"] for row in run_fakes(tmp_path, found, budget_s=0.1).rows] == ["ok", "ok"]
    kept = {note.read_text() for note in notes}
    assert len(kept) == 2
    assert str(tmp_path / "user" / "gantk") not in kept


def test_the_machine_names_no_host() -> None:
    import socket

    found = machine.describe()
    assert found["usable_cores"] >= 1
    assert found["memory_bytes"] > 2**20
    assert socket.gethostname() not in json.dumps(found)


def test_other_work_is_a_share_of_the_usable_cores_time(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/stat": ["cpu  9 9 9 9 9 9 9 9", "cpu0 0 0 0 0 0 0 0 0 0 0", "cpu3 0 0 0 0 0 0 0 0 0 0"]}
    monkeypatch.setattr(load, "_lines", lambda path: files.get(path, []))
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda _: {0})
    files["/proc/7/stat"] = ["7 (a) b) S 0 0 0 0 0 0 0 0 0 0 100 50 0"]
    watch = Interference([7])
    files["/proc/stat"][1:] = ["cpu0 10 5 5 60 10 2 3 5 0 0", "cpu3 500 0 0 0 0 0 0 0 0 0"]
    files["/proc/7/stat"] = ["7 (a) b) S 0 0 0 0 0 0 0 0 0 0 108 52 0"]
    assert watch.share() == (30 - 10) / 100
    del files["/proc/7/stat"]  # It is gone.
    assert watch.share() == 30 / 100
    files.clear()
    assert watch.share() == 0


def test_other_work_is_told_from_our_own() -> None:
    """A busy process counts as other work, unless it is named as ours."""
    program = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", program]) as busy:
        try:
            theirs, ours = Interference([]), Interference([busy.pid])
            time.sleep(0.6)
            with_it, without_it = theirs.share(), ours.share()
        finally:
            busy.kill()
    assert 0.0 <= without_it < with_it <= 1.0
    assert with_it > 0.1 / len(os.sched_getaffinity(0))


def test_the_command_writes_every_form_and_compares(
    onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "md", "html")}
    arguments = ["bench", str(onnx_file), "--shape", "content=1x3x16x16", "--threads", "1"]
    arguments += ["--backend", "onnxruntime", "--budget", "300ms"]
    forms = ["--json", str(files["json"]), "--markdown", str(files["md"]), "--html", str(files["html"])]
    assert main([*arguments, *forms]) == 0
    assert "onnxruntime fp32" in capsys.readouterr().out
    document = json.loads(files["json"].read_text())
    assert document["kind"] == "gantk bench"
    assert files["md"].read_text().startswith("# Benchmark of style")
    assert "<svg" in files["html"].read_text()

    for row in document["rows"]:  # as if it had been a hundred times as fast
        latency = row["latency_ms"]
        latency["p50"], latency["p50_ci95"] = (
            latency["p50"] / 100,
            [latency["p50"] / 101, latency["p50"] / 99],
        )
    files["json"].write_text(json.dumps(document))
    capsys.readouterr()
    arguments[-1] = "1500ms"  # enough rounds for an interval
    assert main([*arguments, "--compare", str(files["json"]), "--fail-slower", "50%", "--json", "-"]) == 1
    output = capsys.readouterr()
    assert "slower than in" in output.err
    assert json.loads(output.out)["comparison"]["slower"] == ["onnxruntime fp32, content 1x3x16x16"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--shape", "content=1x3"], 2, "does not fit"),
        (["--shape", "content"], 2, "is not a shape"),
        (["--backend", "tensorflow"], 2, "known are torch"),
        (["--precision", "fp4"], 2, "known are fp32"),
        (["--budget", "soon"], 2, "is not a time"),
        (["--batch", "one"], 2, "is not a list of batch sizes"),
        (["--compare", "nowhere.json"], 1, "cannot read"),
        (["--fail-slower", "5%"], 2, "--fail-slower wants --compare"),
        (["--html", "{file}/page.html"], 1, "cannot write"),
        (["--markdown", "{file}/page.md"], 1, "cannot write"),
    ],
)
def test_bad_options(
    onnx_file: Path, arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.format(file=onnx_file) for argument in arguments]
    assert main(["bench", str(onnx_file), *arguments]) == status
    told = capsys.readouterr().err
    assert message in told
    assert "round 1" not in told  # Nothing is measured for what cannot be.


def test_a_missing_file_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nowhere.gantk"]) == 1
    assert "nowhere.gantk" in capsys.readouterr().err
