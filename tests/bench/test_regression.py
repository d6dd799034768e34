# SPDX-License-Identifier: Apache-2.0
"""Slower than before, or only noise?"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from bench_helpers import make_document, make_row

from gantk.bench import run
from gantk.bench.regression import changes, lost, parse_share, read_document, regressions
from gantk.cli.main import main
from gantk.errors import GantkError, UsageError


def test_only_sure_and_large_changes_count() -> None:
    old = make_document([make_row("a fp32", 1.0), make_row("b fp32", 1.0), make_row("c fp32", 1.0)])
    wide = make_row("b fp32", 1.5)
    wide["latency_ms"]["p50_ci95"] = [0.9, 2.0]
    new = make_document([make_row("a fp32", 1.2), wide, make_row("c fp32", 1.03)])
    found, doubts = changes(old, new)
    assert doubts == []
    assert [change.label for change in regressions(found, 0.05)] == ["a fp32, latent 1x100"]
    assert str(regressions(found, 0.05)[0]) == "a fp32, latent 1x100: 20.0% slower (1 -> 1.2 ms)"
    assert [change.label[0] for change in regressions(found, 0.02)] == ["a", "c"]


def test_another_machine_and_missing_rows_raise_doubts() -> None:
    old = make_document([make_row("a fp32", 1.0), make_row("b fp32", 1.0)])
    new = copy.deepcopy(make_document([make_row("a fp32", 0.5)]))
    new["machine"]["cpu"], new["versions"]["torch"] = "Another", "2.14"
    found, doubts = changes(old, new)
    assert "50.0% faster" in str(found[0])
    assert "another processor: A processor then, Another now" in doubts
    assert "another torch: 2.13 then, 2.14 now" in doubts
    assert any("b fp32" in doubt for doubt in doubts)


def test_other_settings_and_packages_that_are_gone_raise_doubts() -> None:
    old = make_document([make_row("a fp32", 1.0)])
    new = copy.deepcopy(old)
    new["settings"].update(threads=4, device="cuda")
    new["machine"].update(usable_cores=4, kernel="Linux 7")
    new["versions"] = {"python": "3.11", "gantk": "0.2.0", "onnx": "1.23"}
    assert changes(old, new)[1] == [
        "another number of cores: 2 then, 4 now",
        "another kernel: Linux 6 then, Linux 7 now",
        "other threads: 2 then, 4 now",
        "other device: cpu then, cuda now",
        "another torch: 2.13 then, none now",
    ]


def test_changes_come_slowest_first_and_faster_ones_are_sure_too() -> None:
    old = make_document([make_row(f"{name} fp32", 1.0) for name in "abc"])
    new = make_document([make_row("a fp32", 0.5), make_row("b fp32", 2.0), make_row("c fp32", 1.0)])
    found, _ = changes(old, new)
    assert [(change.label[0], change.significant) for change in found] == [
        ("b", True),
        ("c", False),
        ("a", True),
    ]
    assert str(found[2]) == "a fp32, latent 1x100: 50.0% faster (1 -> 0.5 ms)"
    assert str(found[1]).endswith("(1 -> 1 ms, within the confidence intervals)")


def test_another_gpu_raises_a_doubt() -> None:
    old, new = (make_document([make_row("a fp32", 1.0)]) for _ in range(2))
    old["machine"] = {**old["machine"], "gpu": {"names": ["H100"], "targets": ["sm_90"], "cuda": "13.0"}}
    assert changes(old, old)[1] == []
    assert changes(old, new)[1] == ["another GPU: H100 then, none now"]


def test_what_is_right_no_more_is_lost() -> None:
    old = make_document([make_row(f"{name} fp32", 1.0) for name in "abc"])
    new = copy.deepcopy(old)
    new["rows"][1].update(status="failed", reason="it died")
    new["rows"][2]["parity"].update(passed=False, reason="12.0 dB PSNR")
    assert lost(old, old) == []
    assert lost(old, new) == ["b fp32, latent 1x100: it died", "c fp32, latent 1x100: 12.0 dB PSNR"]
    assert lost(new, old) == []
    found, doubts = changes(old, new)
    assert ([change.label for change in found], doubts) == (["a fp32, latent 1x100"], [])


def test_the_only_contender_that_is_right_no_more_is_no_stranger() -> None:
    old = make_document([make_row("a fp32", 1.0)])
    new = copy.deepcopy(old)
    new["rows"][0].update(status="failed", reason="it died")
    assert changes(old, new) == ([], [])
    assert lost(old, new) == ["a fp32, latent 1x100: it died"]


def test_the_command_fails_for_what_is_right_no_more_and_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = make_document([make_row("a fp32", 1.0)])
    new = copy.deepcopy(old)
    new["rows"][0]["parity"].update(passed=False, reason="12.0 dB PSNR")
    (tmp_path / "old.json").write_text(json.dumps(old))
    monkeypatch.setattr(run, "compare", lambda *_, **__: new)
    arguments = ["bench", "x.onnx", "--compare", str(tmp_path / "old.json"), "--json", "-"]
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert "and now: a fp32, latent 1x100: 12.0 dB PSNR" in output.err
    assert json.loads(output.out)["comparison"]["lost"] == ["a fp32, latent 1x100: 12.0 dB PSNR"]
    monkeypatch.setattr(run, "compare", lambda *_, **__: old)
    assert main(arguments) == 0


def test_what_was_measured_is_told_where_nothing_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.json").write_text(json.dumps(make_document([make_row("a fp32", 1.0)])))
    new = make_document([make_row("b fp32", 1.0)])
    monkeypatch.setattr(run, "compare", lambda *_, **__: new)
    assert main(["bench", "x.onnx", "--compare", str(tmp_path / "old.json"), "--json", "-"]) == 1
    output = capsys.readouterr()
    assert "no contender in common" in output.err
    assert json.loads(output.out)["rows"] == new["rows"]


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(GantkError, match="no contender in common"):
        changes(make_document([make_row("a fp32", 1.0)]), make_document([make_row("b fp32", 1.0)]))


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.1", 0.1), ("150%", 1.5)])
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "-5%", "fast", "nan", "0"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(UsageError, match="is not a share"):
        parse_share(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "not a benchmark"), ('{"kind": "gantk bench", "schema": 9}', "schema 9")],
)
def test_files_that_are_no_benchmark(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(GantkError, match=message):
        read_document(path)


def test_a_damaged_document_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"kind": "gantk bench", "schema": 1, "rows": [{}]}))
    with pytest.raises(GantkError, match="damaged"):
        changes(read_document(path), make_document([make_row("a fp32", 1.0)]))
