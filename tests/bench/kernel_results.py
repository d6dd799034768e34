# SPDX-License-Identifier: Apache-2.0
"""Results of the kernels' benchmark as it writes them, for tests; the benchmark's modules are here too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS / "kernels"))

import gpu_cases  # noqa: E402
import gpu_contenders  # noqa: E402, F401
import gpu_goals  # noqa: E402
import gpu_machine  # noqa: E402, F401
import gpu_table  # noqa: E402, F401
import gpu_timing  # noqa: E402, F401

H200 = {"copy_bytes_per_s": 4.3e12, "bf16_flops_per_s": 790e12, "tf32_flops_per_s": 395e12}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = load(BENCHMARKS / "kernels" / "run.py")


def rows_of(case: gpu_cases.Case, **times_us: float) -> list[dict[str, Any]]:
    """Right rows of some contenders."""
    return [
        runner.row(
            *(case, name.replace("_", " "), H200),
            right=True,
            error=1e-7,
            cold_us={"p50": time_us, "p50_ci95": [time_us * 0.99, time_us * 1.01]},
            warm_us={"p50": time_us / 2},
        )
        for name, time_us in times_us.items()
    ]


def measured(gain: float, share: float = 0.95) -> list[dict[str, Any]]:
    """Every case of the quick suite; gantk needs 1 / `share` of the floor, a copy just that, others `gain` as long."""
    rows = []
    for case in gpu_cases.plan("quick"):
        ours = case.floor_us(H200) / share
        base = "bmm" if case.operation == "gram" else "eager"
        others = {base: ours * gain, "compile": ours * gain}
        if case.operation == "variation":
            others["copy"] = case.floor_us(H200)
        rows += rows_of(case, gantk=ours, **others)
    return rows


def document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": 1,
        "benchmark": "kernels",
        "created": "2026-01-02T03:04:05+00:00",
        "commit": "abcdef",
        "versions": {"torch": "2.13.0", "gantk": "0.1.0"},
        "machine": {"gpu": {"name": "NVIDIA H200", "multiprocessors": 132}},
        "peaks": H200,
        "event_floor_us": 1.5,
        "clocks": [{"sm_mhz": 1980.0}, {"sm_mhz": 1755.0}],
        "rows": rows,
        "goals": gpu_goals.judge(rows),
        "warnings": ["it was warm"],
    }
