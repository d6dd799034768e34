# SPDX-License-Identifier: Apache-2.0
"""Goals of the CUDA kernels and the tables of their results, from results made up here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kernel_results import (
    BENCHMARKS,
    H200,
    document,
    gpu_cases,
    gpu_goals,
    gpu_table,
    load,
    measured,
    rows_of,
    runner,
)


def test_goals_hold_where_all_is_fast() -> None:
    assert all(goal["holds"] for goal in gpu_goals.judge(measured(20.0)))


@pytest.mark.parametrize(
    ("gain", "share", "met"),
    [
        (
            1.2,
            0.95,
            {"every case", "variation, against torch", "of the floor", "of a copy"},
        ),
        (20.0, 0.7, {"256 channels at", "512 channels at", "against"}),
    ],
)
def test_goals_do_not_hold_where_it_is_not(gain: float, share: float, met: set[str]) -> None:
    for goal in gpu_goals.judge(measured(gain, share)):
        assert goal["holds"] is any(words in goal["text"] for words in met), goal["text"]


def test_one_slow_case_spoils_every_but_not_the_mean() -> None:
    rows = measured(4.0)
    slow = next(row for row in rows if row["operation"] == "gram" and row["contender"] == "bmm")
    slow["cold_us"]["p50"] /= 5
    goals = {goal["text"].partition(":")[0]: goal for goal in gpu_goals.judge(rows)}
    every = goals["Gram bf16 and tf32, one picture, against bmm, every case"]
    assert not every["holds"]
    assert every["measured"] == pytest.approx(0.8)
    assert goals["Gram bf16 and tf32, one picture, against bmm"]["holds"]


def test_wrong_and_missing_rows_do_not_count() -> None:
    rows = measured(20.0)
    for row in rows:
        if row["operation"] == "style" and row["contender"] == "gantk":
            row["right"] = False
    rows = [row for row in rows if not (row["operation"] == "variation" and row["contender"] == "compile")]
    goals = {goal["text"].partition(":")[0]: goal for goal in gpu_goals.judge(rows)}
    style = goals["style loss with gradient, against eager"]
    assert not style["holds"]
    assert "6 WRONG" in style["text"]
    missing = goals["variation, against torch.compile"]
    assert (missing["holds"], missing["measured"]) == (False, None)
    assert "not measured" in missing["text"]


def test_a_fast_contender_that_is_wrong_is_not_compared_with() -> None:
    (case,) = [
        case for case in gpu_cases.plan("quick") if case.label == "style loss + gradient, bf16, 1 x 2048^2"
    ]
    rows = rows_of(case, gantk=10.0, eager=30.0, compile=1.0)
    rows[2]["right"] = False
    goal = next(
        goal for goal in gpu_goals.GOALS if goal.text.startswith("style loss with gradient, against torch")
    )
    assert gpu_goals.reached(goal, rows[0], rows) is None
    rows[2]["right"] = True
    assert gpu_goals.reached(goal, rows[0], rows) == pytest.approx(0.1)


def test_the_table_is_made_from_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = gpu_cases.Case("gram", "bf16", 1, 2048, 64)
    rows = [
        *rows_of(case, gantk=150.0, bmm=300.0),
        runner.row(case, "compile", H200, status="failed", reason="RuntimeError: no | yes"),
        *rows_of(case, gantk_autograd=140.0),
    ]
    rows[-1]["right"] = False
    tables = load(BENCHMARKS / "tables.py")
    monkeypatch.setattr(tables, "HERE", tmp_path)
    text = "<!-- results:kernels -->\nold\n<!-- /results -->\n"
    assert "Not measured yet." in tables.filled(text)
    (tmp_path / "results").mkdir()
    for name in ("h100", "h200"):
        (tmp_path / "results" / f"kernels-{name}.json").write_text(
            json.dumps(document(rows), allow_nan=False)
        )
    page = tables.filled(text)
    assert page.count("**Gram matrix: NVIDIA H200**") == 2
    assert (
        "| Gram 64 channels, bf16, 1 x 2048^2 | gantk | 150.0 | 148.5 - 151.5 | 75.0 | - | 83% | 1.0e-07 |"
        in page
    )
    assert "| bmm | 300.0 | 297.0 - 303.0 | 150.0 | 2.00x | 42% |" in page
    assert "| compile | failed | - | - | - | - | RuntimeError: no / yes |" in page
    assert "WRONG (1e-07)" in page
    assert (
        "- Goal met: Gram bf16 and tf32, one picture, against bmm: at least 1.3x; geometric mean of 1: 2x."
        in page
    )
    assert "- Goal NOT met: style loss with gradient, against eager: at least 2.2x; not measured." in page
    assert "1755 to 1980 MHz; copies 4.30 TB/s, bf16 790 and tf32 395 TFLOP/s measured" in page
    assert tables.filled(page) == page
    widths = {line.count("|") for line in page.splitlines() if line.startswith("|")}
    assert widths == {len(gpu_table.HEADINGS) + 1}
