# SPDX-License-Identifier: Apache-2.0
"""The kernels against PyTorch on an NVIDIA GPU: `python benchmarks/kernels/run.py`.

    --list                 the cases, with the least time of each on an H200; needs no GPU
    --suite full           all sizes and batches; the default, `quick`, is what goals need most
    --max-autotune         also torch.compile's slowest-to-compile mode, minutes a case
    --only TEXT            cases whose label contains it

Every contender is compared with float64 before it is timed. Writes benchmarks/results/kernels-GPU.json; then
`python benchmarks/tables.py` makes the tables.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_cases import Case, plan

HERE = Path(__file__).resolve().parent
H200 = {"copy_bytes_per_s": 4.3e12, "bf16_flops_per_s": 790e12, "tf32_flops_per_s": 395e12}
CASE_S = 0.4  # To time one case, beside compiling and checking it.


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--suite", choices=("quick", "full"), default="quick")
    parser.add_argument("--only", default="")
    parser.add_argument("--max-autotune", action="store_true")
    parser.add_argument("--budget", type=float, default=150.0, help="seconds in all; default: %(default)s")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/kernels-GPU.json")
    options = parser.parse_args()
    cases = [case for case in plan(options.suite) if options.only in case.label]
    if options.list:
        for case in cases:
            print(
                f"{case.label:55} {case.least_bytes / 1e6:9.1f} MB  at least {case.floor_us(H200):8.1f} us on an H200"
            )
        return 0
    from gantk.runtime.driver import probe

    if not probe().works:
        print(f"error: no GPU here: {probe().reason}", file=sys.stderr)
        return 1
    import torch

    if not torch.cuda.is_available():
        print("error: this PyTorch cannot use the GPU; install one that is built for CUDA", file=sys.stderr)
        return 1
    document = run(
        cases,
        options.budget,
        max_autotune=options.max_autotune,
        keep=lambda document: write(document, options.output),
    )
    print(f"wrote {place_of(document, options.output)}", file=sys.stderr)
    for goal in document["goals"]:
        print(f"Goal {'met' if goal['holds'] else 'NOT met'}: {goal['text']}")
    return 0


def write(document: dict[str, Any], output: Path | None) -> None:
    from gantk.files import write_text

    write_text(place_of(document, output), json.dumps(document, indent=1, allow_nan=False) + "\n")


def place_of(document: dict[str, Any], output: Path | None) -> Path:
    from gpu_machine import slug

    return output or HERE.parent / "results" / f"kernels-{slug(document['machine']['gpu']['name'])}.json"


def run(
    cases: list[Case],
    budget_s: float,
    *,
    max_autotune: bool,
    keep: Callable[[dict[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:
    """Measure cases in their order until the time is up; what is left then is named.

    Args:
        cases: What to measure.
        budget_s: In all.
        max_autotune: See `contenders`.
        keep: Given what there is after each case: a run may be ended, or hang, in the next one.
    """
    import gpu_machine
    import torch
    from gpu_goals import judge
    from gpu_timing import cache_sweep, event_floor_us, peaks

    from gantk.bench import machine

    until = time.monotonic() + budget_s
    sweep = cache_sweep()
    found_peaks, events_us, samples = peaks(), event_floor_us(sweep), [gpu_machine.clocks()]
    rows: list[dict[str, Any]] = []
    left = [case.label for case in cases]
    start = {
        "schema": 1,
        "benchmark": "kernels",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "versions": machine.versions("cuda"),
        "machine": {**machine.describe(), "gpu": gpu_machine.describe()},
        "peaks": found_peaks,
        "event_floor_us": events_us,
    }

    def document() -> dict[str, Any]:
        clocks = [sample for sample in samples if sample]
        found = {"rows": rows, "goals": judge(rows), "warnings": warnings(left, clocks, len(cases))}
        return {**start, "clocks": clocks, **found}

    for case in cases:
        if time.monotonic() > until:
            break
        try:
            rows += measure(case, sweep, found_peaks, max_autotune=max_autotune)
            torch.cuda.empty_cache()
        except (
            Exception
        ) as error:  # After an illegal address nothing runs any more; what there is must be kept.
            rows.append(row(case, "gantk", found_peaks, status="failed", reason=first_line(error)))
        samples.append(gpu_machine.clocks())
        left.remove(case.label)
        keep(document())
        print(f"{case.label}: {brief(rows, case)}", file=sys.stderr)
    keep(document())
    return document()


def warnings(left: list[str], clocks: list[dict[str, Any]], cases: int) -> list[str]:
    """What to be wary of."""
    from gpu_machine import throttled

    found = []
    if left:
        found.append(
            f"the time was up before {len(left)} of {cases} cases, from {left[0]} on; give more with --budget"
        )
    if not clocks:
        found.append("the clocks are not known: nvidia-smi says nothing")
    elif throttled(clocks):
        found.append("something held the clocks down (power, heat, or a limit that was set); see `clocks`")
    return found


def measure(
    case: Case, sweep: Any, found_peaks: dict[str, float], *, max_autotune: bool, budget_s: float = CASE_S
) -> list[dict[str, Any]]:
    """The rows of one case: check every contender, then time the ones that run, in turns."""
    import torch
    from gpu_contenders import contenders, make_inputs, set_precision
    from gpu_timing import Lane, make_lane, rounds

    set_precision(case)
    torch._dynamo.reset()
    free_bytes = torch.cuda.mem_get_info()[0]
    if 8 * case.input_bytes > free_bytes:
        reason = f"wants some {8 * case.input_bytes / 2**30:.0f} GiB, {free_bytes / 2**30:.0f} are free"
        return [row(case, "gantk", found_peaks, status="skipped", reason=reason)]
    inputs = make_inputs(case)
    lanes: dict[str, Lane] = {}
    rows = {}
    for name, function in contenders(case, inputs, max_autotune=max_autotune).items():
        try:
            rows[name] = row(case, name, found_peaks, **checked(case, name, inputs, function()))
            lanes[name] = make_lane(function)
        except Exception as error:  # A contender that fails does not end the benchmark.
            rows[name] = row(case, name, found_peaks, status="failed", reason=first_line(error))
    rounds(lanes, budget_s, sweep)
    for name, lane in lanes.items():
        rows[name].update(cold_us=in_us(lane.cold), warm_us=in_us(lane.warm))
    return list(rows.values())


def checked(case: Case, name: str, inputs: Any, found: list[Any]) -> dict[str, Any]:
    """Whether results are those of float64, within the tolerance; a copy has none."""
    from gpu_checks import errors, tolerances

    if not found:
        return {"right": True, "error": None}
    found_errors, allowed = errors(case, inputs, found), tolerances(case, name)
    right = all(error is None or error <= most for error, most in zip(found_errors, allowed, strict=True))
    known = [error for error in found_errors if error is not None]
    return {"right": right, "error": max(known) if all(map(math.isfinite, known)) else None}


def row(case: Case, contender: str, found_peaks: dict[str, float], **fields: Any) -> dict[str, Any]:
    start = {
        "case": case.label,
        **case.to_json(),
        "contender": contender,
        "floor_us": case.floor_us(found_peaks),
    }
    empty = {"status": "ok", "reason": None, "right": False, "error": None, "cold_us": None, "warm_us": None}
    return {**start, **empty, **fields}


def in_us(blocks: list[Any]) -> dict[str, Any]:
    """`gantk.bench.stats.summarise` in us."""
    from gantk.bench.stats import summarise

    found = summarise(blocks)
    scaled = {name: scale(found[name]) for name in ("mean", "min", "p50", "p50_ci95", "stddev")}
    return {**scaled, "cv": found["cv"]}


def scale(value: Any) -> Any:
    return (
        None if value is None else [1e3 * each for each in value] if isinstance(value, list) else 1e3 * value
    )


def brief(rows: list[dict[str, Any]], case: Case) -> str:
    told = []
    for each in rows:
        if each["case"] == case.label:
            time_us = "-" if each["cold_us"] is None else f"{each['cold_us']['p50']:.1f} us"
            told.append(
                f"{each['contender']} {time_us}{'' if each['right'] else ' ' + (each['reason'] or 'WRONG')}"
            )
    return ", ".join(told)


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


if __name__ == "__main__":
    sys.exit(main())
