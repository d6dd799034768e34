# SPDX-License-Identifier: Apache-2.0
"""Ranking, speed-ups and advice."""

from __future__ import annotations

from typing import Any

import numpy as np
from bench_helpers import make_row

from gantk.bench.verdict import rank, recommend, warnings

Blocks = dict[int, list[np.ndarray[Any, np.dtype[np.int64]]]]


def race(
    times: dict[str, float], wrong: tuple[str, ...] = (), jitter: float = 0.0
) -> tuple[list[dict[str, Any]], Blocks]:
    """Rows and blocks of contenders with these p50s in ms."""
    generator = np.random.default_rng(0)
    rows, blocks = [], {}
    for number, (label, p50) in enumerate(times.items()):
        row = make_row(label, p50, id=number)
        if label in wrong:
            row["parity"] = {**row["parity"], "passed": False, "psnr_db": 10.0, "reason": "10 dB"}
        rows.append(row)
        blocks[number] = [
            np.array([int(1e6 * p50 * (1 + jitter * generator.standard_normal()))]) for _ in range(10)
        ]
    rank(rows, blocks)
    return rows, blocks


def by_label(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in rows}


TIMES = {
    "torch eager fp32": 2.0,
    "torch channels_last fp32": 1.8,
    "torch-compile default fp32": 8.0,
    "torch-compile freezing fp32": 0.9,
    "onnxruntime fp32": 0.6,
    "torch eager bf16": 1.5,
    "openvino bf16": 0.3,
}


def test_only_the_best_mode_of_a_backend_is_ranked() -> None:
    rows = by_label(race(TIMES)[0])
    unranked = [label for label, row in rows.items() if row["rank"] is None]
    assert unranked == ["torch eager fp32", "torch-compile default fp32"]
    assert rows["openvino bf16"]["rank"] == 1
    assert rows["torch channels_last fp32"]["rank"] == 5


def test_speedups_are_against_torchs_best_of_the_same_precision() -> None:
    rows = by_label(race(TIMES)[0])
    assert rows["onnxruntime fp32"]["speedup"]["against"] == "torch-compile freezing fp32"
    assert abs(rows["onnxruntime fp32"]["speedup"]["factor"] - 1.5) < 1e-6
    assert rows["openvino bf16"]["speedup"]["against"] == "torch eager bf16"
    assert rows["torch-compile freezing fp32"]["speedup"] is None
    assert rows["torch channels_last fp32"]["speedup"]["factor"] < 1


def test_what_is_wrong_has_no_rank_no_speedup_and_is_no_yardstick() -> None:
    rows = by_label(race(TIMES, wrong=("openvino bf16", "torch-compile freezing fp32"))[0])
    assert rows["openvino bf16"]["rank"] is None
    assert rows["openvino bf16"]["speedup"] is None
    assert rows["onnxruntime fp32"]["rank"] == 1
    assert rows["onnxruntime fp32"]["speedup"]["against"] == "torch channels_last fp32"


def test_a_wrong_mode_gives_way_to_the_next_best() -> None:
    rows = by_label(race(TIMES, wrong=("torch-compile freezing fp32",))[0])
    assert rows["torch-compile default fp32"]["rank"] is not None


def test_advice_names_the_fastest_and_the_fastest_exact() -> None:
    rows, blocks = race(TIMES)
    lines = recommend(rows, blocks, "latent 1x100")
    assert lines[0].startswith(
        "latent 1x100: use openvino bf16, 0.3 ms (5.00 times as fast as torch's best bf16"
    )
    assert "140 dB from torch float32" in lines[0]
    assert "if it must be fp32: use onnxruntime fp32, 0.6 ms" in lines[1]


def test_advice_says_what_cannot_be_told_apart() -> None:
    rows, blocks = race(
        {"onnxruntime fp32": 1.0, "openvino fp32": 1.001, "torch eager fp32": 3.0}, jitter=0.05
    )
    assert "indistinguishable from it: openvino fp32" in recommend(rows, blocks, "x")[0]


def test_what_is_less_exact_is_no_tie() -> None:
    times = {"onnxruntime fp32": 1.0, "openvino bf16": 1.001}
    assert "indistinguishable" not in recommend(*race(times, jitter=0.05), "x")[0]
    times["openvino bf16"] = 0.999
    assert "indistinguishable from it: onnxruntime fp32" in recommend(*race(times, jitter=0.05), "x")[0]


def test_advice_says_how_sure_a_gain_is() -> None:
    rows, blocks = race({"torch eager fp32": 24.0, "onnxruntime fp32": 2.0})
    assert (
        "2 ms (12 times as fast as torch's best fp32, torch eager fp32)." in recommend(rows, blocks, "x")[0]
    )
    few = {number: found[:3] for number, found in blocks.items()}
    rank(rows, few)
    assert "(roughly 12 times as fast as torch's best fp32, torch" in recommend(rows, few, "x")[0]
    rows, blocks = race({"torch eager fp32": 1.001, "onnxruntime fp32": 1.0}, jitter=0.05)
    assert (
        "(as fast as torch's best fp32, torch eager fp32, as far as can be told)"
        in (recommend(rows, blocks, "x")[0])
    )


def test_of_a_gain_that_differs_from_round_to_round_the_least_is_told() -> None:
    rows, blocks = race({"torch eager fp32": 24.0, "onnxruntime fp32": 2.0})
    torch = next(row["id"] for row in rows if row["label"].startswith("torch"))
    blocks[torch] = [block * (100 if number % 2 else 1) for number, block in enumerate(blocks[torch])]
    rank(rows, blocks)
    assert (
        "(at least 12 times as fast as torch's best fp32, torch eager fp32)"
        in recommend(rows, blocks, "x")[0]
    )


def test_on_a_busy_machine_no_gain_without_an_interval_is_told() -> None:
    rows, blocks = race({"torch eager fp32": 24.0, "onnxruntime fp32": 2.0})
    busy = "Measured on a busy machine: do not rely on it."
    (advice,) = recommend(rows, blocks, "x", disturbed=True)
    assert "12 times" in advice
    assert advice.endswith(busy)
    few = {number: found[:3] for number, found in blocks.items()}
    rank(rows, few)
    assert recommend(rows, few, "x", disturbed=True) == [f"x: use onnxruntime fp32, 2 ms. {busy}"]


def test_advice_when_torch_wins_and_when_nothing_is_right() -> None:
    rows, blocks = race({"torch-compile freezing fp32": 1.0, "onnxruntime fp32": 2.0})
    assert recommend(rows, blocks, "x") == ["x: use torch-compile freezing fp32, 1 ms."]
    rows, blocks = race({"onnxruntime fp32": 2.0}, wrong=("onnxruntime fp32",))
    assert "no contender can be recommended" in recommend(rows, blocks, "x")[0]


def test_noise_is_flagged() -> None:
    rows, _ = race({"onnxruntime fp32": 1.0})
    assert warnings(rows, 8) == []
    rows[0]["noisy"], rows[0]["latency_ms"]["cv"] = True, 0.3
    assert "1 of 1 contenders spread by more than 2.5% (worst: onnxruntime fp32, 30%)" in warnings(rows, 8)[0]


def test_too_few_rounds_are_said() -> None:
    rows, _ = race({"onnxruntime fp32": 1.0, "openvino fp32": 2.0})
    rows[1]["latency_ms"]["p50_ci95"] = None
    said = "5 rounds carry no confidence interval of the p50; give more time with --budget"
    assert warnings(rows, 5) == [said]
    assert warnings(rows, 1) == [said.replace("5 rounds carry", "1 round carries")]
    rows[1]["status"] = "failed"
    assert warnings(rows, 5) == []
