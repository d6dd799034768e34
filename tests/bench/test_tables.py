# SPDX-License-Identifier: Apache-2.0
"""Documents show what was measured: every table is made from a JSON file, and a stale one fails here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bench_helpers import make_document, make_row

from gantk.bench.contenders import TORCH_MODES
from gantk.runtime.driver import Driver

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_tables_are_those_of_the_committed_results() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "tables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stderr}run: python benchmarks/tables.py"


def test_a_changed_number_makes_a_table_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = load("tables")
    monkeypatch.setattr(tables, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    extra = {"title": "A network", "claims": [], "overhead": []}
    write = (tmp_path / "results" / "x.json").write_text
    write(json.dumps(make_document([make_row("onnxruntime fp32", 1.25)]) | extra))
    page = tables.filled("before\n<!-- results:x -->\nold\n<!-- /results -->\nafter\n")
    assert "| 1 | onnxruntime fp32 | 1.25 |" in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert tables.filled(page) == page
    write(json.dumps(make_document([make_row("onnxruntime fp32", 1.5)]) | extra))
    assert "| 1 | onnxruntime fp32 | 1.5 |" in tables.filled(page)


def test_the_time_on_a_gpu_has_a_table_of_its_own_where_a_row_knows_it() -> None:
    parts = {"copy_in": 0.0021, "device": 0.0712, "enqueue": 0.0113, "copy_out": 0.0032, "calls": 100}
    rows = [make_row("onnxruntime fp16", 0.0954, gpu_ms=parts), make_row("torch eager tf32", 0.31, rank=2)]
    extra = {"title": "A network, on a GPU", "claims": [], "overhead": []}
    page = load("tables").section(make_document(rows) | extra)
    assert (
        "| 1 | onnxruntime fp16 | - | 0.0954 | 0.0712 | 0.0113 | 0.0021 | 0.0032 | - |" in page.splitlines()
    )
    assert page.count("torch eager tf32") == 1, "a row without such times is in the first table alone"
    without = load("tables").section(make_document(rows[1:]) | extra)
    assert "device ms" in page
    assert "device ms" not in without


@pytest.mark.parametrize("name", ["dcgan64-cuda", "dcgan128-cuda", "style512-cuda", "style1024-cuda"])
def test_a_suite_of_a_gpu_has_a_place_for_its_table(name: str) -> None:
    assert f"<!-- results:{name} -->" in (BENCHMARKS / "README.md").read_text()


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"measured": 2.0, "holds": True}, "met"),
        ({"measured": 1.0, "holds": False}, "NOT met"),
        ({"measured": None, "holds": False}, "not measured"),
    ],
)
def test_what_was_not_measured_is_neither_met_nor_missed(claim: dict[str, Any], words: str) -> None:
    assert load("tables").verdict(claim) == words


def wrong(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "parity": {**row["parity"], "passed": False}}


def near(row: dict[str, Any], psnr_db: float) -> dict[str, Any]:
    return {**row, "parity": {**row["parity"], "psnr_db": psnr_db}}


@pytest.mark.parametrize(
    ("claim", "measured"),
    [
        ({"precision": "fp32", "over": "onnxruntime", "form": "plain"}, 3.0),
        ({"precision": "bf16", "over": ["torch", "torch-compile"]}, 4.0),
        ({"precision": "any", "over": "torch", "over_precision": "fp32", "mode": "eager"}, 80.0),
        (
            {"precision": "any", "psnr_db": 45.0, "over": "torch", "over_precision": "fp32", "mode": "eager"},
            8.0,
        ),
        ({"precision": "bf16", "psnr_db": 45.0, "over": "torch"}, None),
    ],
)
def test_claims_may_be_narrowed(claim: dict[str, Any], measured: float | None) -> None:
    rows = [
        {**make_row("onnxruntime fp32", 3.0), "form": "plain"},
        {**make_row("onnxruntime fp32", 1.0), "form": "rewritten"},
        near({**make_row("openvino bf16", 0.1), "form": "plain"}, 43.0),
        {**make_row("torch eager fp32", 8.0), "mode": "eager"},
        {**make_row("torch channels_last fp32", 6.0), "mode": "channels_last"},
        {**make_row("torch eager bf16", 0.5), "mode": "eager"},
        {**make_row("torch-compile default bf16", 0.4), "mode": "default"},
    ]
    judged = load("run").judge({"batch": 1, "factor": 2.0, **claim}, rows)
    assert judged["measured"] == (None if measured is None else pytest.approx(measured))
    assert judged["holds"] is (measured is not None)


@pytest.mark.parametrize(("factor", "holds"), [(1.9, True), (2.1, False)])
def test_claims_are_judged_within_one_precision_and_batch(factor: float, holds: bool) -> None:
    rows = [
        make_row("onnxruntime fp32", 1.0),
        make_row("openvino bf16", 0.1),
        make_row("torch eager fp32", 2.0),
        make_row("torch eager bf16", 0.5),
        wrong(make_row("torch channels_last fp32", 1.5)),
        make_row("torch eager fp32", 0.1, batch=16),
    ]
    claim = load("run").judge({"batch": 1, "precision": "fp32", "over": "torch", "factor": factor}, rows)
    assert claim["measured"] == pytest.approx(2.0)
    assert claim["holds"] is holds


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("suites/*.toml")), ids=lambda path: path.stem)
def test_suites_are_whole(path: Path) -> None:
    suite = load("run").load(path.stem)
    assert suite["name"] == path.stem
    batches = suite["bench"].get("batch") or [shape[0] for shape in suite["bench"]["shapes"].values()]
    assert {claim["batch"] for claim in suite["claim"]} <= set(batches)
    assert {claim["precision"] for claim in suite["claim"]} <= {*suite["network"]["precisions"], "any"}


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("suites/*-cuda.toml")), ids=lambda path: path.stem)
def test_suites_of_a_gpu_compare_with_what_pytorch_does_there_by_itself(path: Path) -> None:
    suite, original = load("run").load(path.stem), load("run").load(path.stem.replace("128", "64")[:-5])
    assert suite["device"] == "cuda"
    assert set(suite["bench"]["modes"]) <= {mode for modes in TORCH_MODES.values() for mode in modes["cuda"]}
    assert suite["network"]["family"] == original["network"]["family"]
    assert suite["network"]["seed"] == original["network"]["seed"]
    assert suite["network"]["precisions"] == ["fp32", "fp16"]
    assert suite["bench"]["torch_precisions"] == ["tf32", "fp16"]
    fast = [claim for claim in suite["claim"] if claim["factor"] == 3.0]
    assert {(claim["over_precision"], claim["mode"]) for claim in fast} == {("tf32", "eager")}


def test_a_result_that_lacks_a_case_says_so_and_shows_the_others() -> None:
    suite = load("run").load("dcgan64")
    document = make_document([make_row("onnxruntime fp32", 1.0)])
    document["settings"]["cases"] = ["latent 1x100", "latent 16x100"]
    kept = load("run").result(suite, document, [], load("run").missing(document))
    page = load("tables").section(kept)
    assert "- Warning: the run ended before these were measured: latent 16x100." in page.splitlines()
    assert page.count(f"**{suite['title']}: ") == 1
    assert page.count("Goal not measured") == len(suite["claim"])
    assert document["warnings"] == []
    brief = load("tables").section(kept, brief=True)
    assert [line for line in page.splitlines() if "Goal" not in line] == brief.splitlines()


def test_a_goal_over_tf32_is_judged_by_it_and_says_so() -> None:
    rows = [
        make_row("onnxruntime fp16", 1.0),
        {**make_row("torch eager tf32", 2.9), "mode": "eager"},
        {**make_row("torch eager fp32", 9.0), "mode": "eager"},
    ]
    claim = {"batch": 1, "precision": "fp16", "over": "torch", "over_precision": "tf32", "mode": "eager"}
    judged = load("run").judge({**claim, "factor": 3.0}, rows)
    assert judged["measured"] == pytest.approx(2.9)
    assert judged["holds"] is False
    assert "as the best of torch (eager tf32)" in judged["text"]


def test_a_suite_of_a_gpu_is_refused_before_the_export_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load("run")
    monkeypatch.setattr("gantk.runtime.driver.probe", lambda: Driver(works=False, reason="no NVIDIA driver"))
    monkeypatch.setattr(run, "run", lambda *_: pytest.fail("it went on"))
    monkeypatch.setattr(sys, "argv", ["run.py", "dcgan64-cuda"])
    assert run.main() == 1
    assert capsys.readouterr().err == "error: no GPU here: no NVIDIA driver\n"
