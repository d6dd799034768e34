# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the CUDA kernels, as far as it goes without a GPU: cases, checks and its loop."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from kernel_results import (
    BENCHMARKS,
    H200,
    gpu_cases,
    gpu_contenders,
    gpu_goals,
    gpu_machine,
    gpu_table,
    gpu_timing,
    rows_of,
    runner,
)

from gantk.runtime.driver import probe


@pytest.mark.parametrize("suite", ["quick", "full"])
def test_suites_have_each_case_once_and_all_that_goals_are_about(suite: str) -> None:
    cases = gpu_cases.plan(suite)
    assert len({case.label for case in cases}) == len(cases)
    rows = [row for case in cases for row in rows_of(case, gantk=1.0)]
    for goal in gpu_goals.GOALS:
        assert any(goal.chosen(row) for row in rows), goal.text
    if suite == "full":
        assert set(gpu_cases.plan("quick")) <= set(cases)
        assert {case.pictures for case in cases} == {1, 2, 4, 8}
        assert {case.size for case in cases} == {256, 512, 1024, 2048}


@pytest.mark.parametrize(
    ("channels", "bf16_us", "tf32_us"),
    [(64, 31.2, 62.4), (128, 15.6, 31.2), (256, 7.9, 15.7), (512, 6.1, 12.2)],
)
def test_floors_of_the_gram_matrix_are_those_computed_by_hand(
    channels: int, bf16_us: float, tf32_us: float
) -> None:
    for precision, wanted in (("bf16", bf16_us), ("tf32", tf32_us)):
        case = gpu_cases.Case("gram", precision, 1, 1024, channels)
        assert case.floor_us(H200) == pytest.approx(wanted, rel=0.02)
    assert gpu_cases.Case("gram", "fp32", 1, 1024, 512).floor_us(H200) == pytest.approx(3 * 12.2, rel=0.02)


def test_floors_of_other_operations() -> None:
    value = gpu_cases.Case("variation", "fp32", 1, 2048, 3, "l1")
    both = gpu_cases.Case("variation", "fp32", 1, 2048, 3, "l1", True)
    assert value.least_bytes == 3 * 2048 * 2048 * 4
    assert both.least_bytes == 2 * value.least_bytes
    assert value.floor_us(H200) == pytest.approx(11.7, rel=0.01)
    style = gpu_cases.Case("style", "bf16", 2, 256, gradient=True)
    features = sum(c * (256 // s) ** 2 for c, s in gpu_cases.STYLE_LAYERS)
    assert style.least_bytes == 2 * (3 * 2 * features + 4 * sum(c * c for c, _ in gpu_cases.STYLE_LAYERS))
    assert style.input_bytes == 2 * 2 * features


SMALL = [gpu_cases.Case("gram", p, 2, 32, 64) for p in gpu_cases.PRECISIONS]
SMALL += [gpu_cases.Case("style", p, 2, 32, gradient=True) for p in gpu_cases.PRECISIONS]
SMALL += [
    gpu_cases.Case("variation", p, 2, 24, 3, kind, gradient)
    for p in ("fp32", "bf16")
    for kind in gpu_cases.KINDS
    for gradient in (False, True)
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.label)
def test_right_contenders_pass_and_wrong_ones_do_not(case: gpu_cases.Case) -> None:
    inputs = gpu_contenders.make_inputs(case, "cpu")
    found = gpu_contenders.contenders(case, inputs)
    others = {"gram": {"bmm"}, "style": {"eager"}, "variation": {"eager", "copy"}}[case.operation]
    assert set(found) - {"gantk", "gantk autograd"} == others | {"compile"}
    for name, function in found.items():
        if name == "compile":
            continue  # Compiles for seconds; it is made of what `eager` is.
        results = [each.detach() for each in function()]
        if name == "copy":
            assert runner.checked(case, name, inputs, results) == {"right": True, "error": None}
            continue
        assert len(results) == 1 + len(inputs.features) * case.gradient
        verdict = runner.checked(case, name, inputs, results)
        assert verdict["right"], (name, verdict)
        for place in range(len(results)):
            for spoil in (lambda each: each * 1.5, lambda each: each * math.nan):
                spoiled = [spoil(each) if i == place else each for i, each in enumerate(results)]
                assert not runner.checked(case, name, inputs, spoiled)["right"], (name, place)


def test_gantk_is_held_to_its_own_precision() -> None:
    case = gpu_cases.Case("gram", "bf16", 1, 32, 64)
    inputs = gpu_contenders.make_inputs(case, "cpu")
    (gram,) = gpu_contenders.contenders(case, inputs)["gantk"]()
    rounded = [gram.bfloat16().float()]
    assert not runner.checked(case, "gantk", inputs, rounded)["right"]
    assert runner.checked(case, "bmm", inputs, rounded)["right"]


def test_clocks_are_read_and_throttling_is_seen() -> None:
    idle = gpu_machine.parse_clocks("345, 2619, 31, 71.05, 0x0000000000000001\n")
    assert idle == {
        "sm_mhz": 345.0,
        "memory_mhz": 2619.0,
        "temperature_c": 31.0,
        "power_w": 71.05,
        "limits": 1,
    }
    assert not gpu_machine.throttled([idle, {"limits": None}])
    assert gpu_machine.throttled([idle, gpu_machine.parse_clocks("900, 2619, 90, [N/A], 0x0000000000000044")])
    assert gpu_machine.slug("NVIDIA GeForce RTX 4090") == "rtx-4090"
    assert gpu_machine.slug("NVIDIA H200") == "h200"


class Clock:
    """Blocks of one contender, as `gpu_timing.timed` would give them."""

    def __init__(self, ns: list[int]) -> None:
        self.ns = ns
        self.blocks = 0

    def replay(self) -> None:
        raise AssertionError("only the timer calls this")


def test_rounds_take_turns_until_medians_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Any] = []

    def timed(call: Any, count: int, sweep: Any = None) -> Any:
        clock = call.__self__
        order.append((clock, sweep is not None))
        clock.blocks += 1
        return np.full(count, clock.ns[clock.blocks % len(clock.ns)], np.int64)

    monkeypatch.setattr(gpu_timing, "timed", timed)
    steady, noisy = Clock([1000]), Clock([1000, 3000, 2000, 5000, 900])
    lanes = {"steady": gpu_timing.Lane(steady, steady, 4)}
    count = gpu_timing.rounds(lanes, 60.0, lambda: None)
    assert count == gpu_timing.FEWEST_ROUNDS
    assert {tuple(block) for block in lanes["steady"].warm} == {(250, 250)}
    assert [cold for _, cold in order] == [True, False] * count
    lanes["noisy"] = gpu_timing.Lane(noisy, noisy, 1)
    assert gpu_timing.rounds(lanes, 60.0, lambda: None) == gpu_timing.MOST_ROUNDS
    assert len(lanes["noisy"].cold) == gpu_timing.MOST_ROUNDS
    order.clear()
    assert gpu_timing.rounds(lanes, 0.0, lambda: None) == gpu_timing.FEWEST_ROUNDS
    first = [clock for clock, _ in order][:: len(lanes) * 2]
    assert {steady, noisy} == set(first)  # Either begins a round now and then.


def test_a_case_is_checked_then_timed_and_a_failure_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    case = gpu_cases.Case("variation", "fp32", 1, 16, 3, "l1")
    made = gpu_contenders.make_inputs
    monkeypatch.setattr(gpu_contenders, "make_inputs", lambda case: made(case, "cpu"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**40, 2**40))
    monkeypatch.setattr(gpu_timing, "make_lane", lambda function: gpu_timing.Lane(Clock([]), Clock([]), 2))
    monkeypatch.setattr(
        gpu_timing, "timed", lambda call, count, sweep=None: np.arange(2000, 2000 + count, dtype=np.int64)
    )

    def contenders(case: Any, inputs: Any, *, max_autotune: bool) -> dict[str, Any]:
        value = gpu_contenders.plain_variation(case, inputs.features, [])

        def fails() -> Any:
            raise RuntimeError("out of memory\nand more")

        return {"gantk": lambda: [value], "eager": lambda: [value * 2], "compile": fails}

    monkeypatch.setattr(gpu_contenders, "contenders", contenders)
    ours, wrong, failed = runner.measure(case, None, H200, max_autotune=False, budget_s=0)
    assert (ours["status"], ours["right"]) == ("ok", True)
    assert ours["cold_us"]["p50"] == pytest.approx(2.0035)
    assert ours["warm_us"]["p50"] == pytest.approx(1.0)
    assert not wrong["right"]
    assert wrong["error"] == pytest.approx(1.0)
    assert (failed["status"], failed["reason"]) == ("failed", "RuntimeError: out of memory")
    json.dumps([ours, wrong, failed], allow_nan=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1024, 2**40))
    (skipped,) = runner.measure(case, None, H200, max_autotune=False)
    assert skipped["status"] == "skipped"


def test_a_run_keeps_what_it_has_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = gpu_cases.plan("quick")[:3]

    def measure(case: gpu_cases.Case, *_: Any, **__: Any) -> list[dict[str, Any]]:
        if case == cases[1]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors ...")
        return rows_of(case, gantk=12.0, eager=300.0, compile=15.0)

    monkeypatch.setattr(runner, "measure", measure)
    for name, value in (("peaks", H200), ("event_floor_us", 1.5), ("cache_sweep", None)):
        monkeypatch.setattr(gpu_timing, name, lambda *_, value=value: value)
    sample = {"sm_mhz": 1980.0, "limits": 0}
    monkeypatch.setattr(gpu_machine, "describe", lambda: {"name": "NVIDIA H200", "multiprocessors": 132})
    monkeypatch.setattr(gpu_machine, "clocks", lambda: sample)
    kept: list[dict[str, Any]] = []
    found = runner.run(cases, 60.0, max_autotune=False, keep=lambda document: kept.append(deepcopy(document)))
    assert [row["status"] for row in found["rows"]] == ["ok"] * 3 + ["failed"] + ["ok"] * 3
    assert found["rows"][3]["reason"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert found["warnings"] == []
    assert [len(document["rows"]) for document in kept] == [3, 4, 7, 7]
    assert "before 2 of 3 cases" in kept[0]["warnings"][0]
    assert kept[-1] == found
    assert len(found["goals"]) == len(gpu_goals.GOALS)
    assert "an illegal memory access" in gpu_table.section(json.loads(json.dumps(found, allow_nan=False)))
    late = runner.run(cases, -1.0, max_autotune=False, keep=kept.append)
    assert kept[-1] == late
    assert late["rows"] == []
    assert "before 3 of 3 cases" in late["warnings"][0]


def test_what_was_left_out_is_said() -> None:
    assert runner.warnings([], [{"sm_mhz": 1.0, "limits": 0}], 5) == []
    lines = runner.warnings(["a case"], [], 5)
    assert lines[0].startswith("the time was up before 1 of 5 cases, from a case on")
    assert "clocks are not known" in lines[1]
    assert "held the clocks down" in runner.warnings([], [{"limits": 4}], 5)[0]


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "kernels" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cases_are_listed_without_a_gpu() -> None:
    done = start("--list", "--only", "variation l1")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8
    assert "variation l1, fp32, 1 x 2048^2" in done.stdout
    assert "11.7 us on an H200" in done.stdout


@pytest.mark.skipif(probe().works, reason="there is a GPU here")
def test_without_a_gpu_one_line_says_so() -> None:
    done = start()
    assert done.returncode == 1
    assert done.stderr.startswith("error: no GPU here: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_gpu_session_is_a_script_of_less_than_ten_minutes() -> None:
    script = BENCHMARKS / "gpu.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    steps = re.findall(r"^(?:step|suite) \S+ (\d+)\b", script.read_text(), re.MULTILINE)
    assert len(steps) >= 7
    assert sum(map(int, steps)) <= 600  # What has `more` before it, or is sanitized, gets what is left.
