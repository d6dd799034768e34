# SPDX-License-Identifier: Apache-2.0
"""Run one suite and keep what it measured: `python benchmarks/run.py dcgan64`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
Suite = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", help="the name of a file in benchmarks/suites, without .toml")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/SUITE.json")
    parser.add_argument(
        "--budget", type=float, help="seconds to measure each batch size; default: the suite's"
    )
    arguments = parser.parse_args()
    suite = load(arguments.suite)
    if arguments.budget is not None:
        suite["bench"]["budget_s"] = arguments.budget
    document = run(suite)
    from gantk.files import write_text

    output = arguments.output or HERE / "results" / f"{suite['name']}.json"
    write_text(output, json.dumps(document, indent=1, allow_nan=False) + "\n")
    print(f"wrote {output}", file=sys.stderr)
    for line in (*document["warnings"], *document["recommendation"]):
        print(line)
    for claim in document["claims"]:
        print(f"{'holds' if claim['holds'] else 'DOES NOT HOLD'}: {claim['text']}")
    return 0


def load(name: str) -> Suite:
    """Read a suite."""
    return tomllib.loads((HERE / "suites" / f"{name}.toml").read_text())


def run(suite: Suite) -> dict[str, Any]:
    """Make the suite's network, export it, measure it, and judge the suite's claims."""
    from gantk.bench.run import compare
    from gantk.export import export

    with tempfile.TemporaryDirectory() as folder:
        weights, bundle = (
            Path(folder) / f"{suite['name']}.safetensors",
            Path(folder) / f"{suite['name']}.gantk",
        )
        weights.write_bytes(make_weights(suite["network"]))
        export(weights, bundle, precisions=suite["network"]["precisions"])
        document = compare(bundle, **suite["bench"], progress=lambda line: print(line, file=sys.stderr))
        overhead = [
            measure_overhead(bundle, batch, suite["bench"]["threads"]) for batch in suite["bench"]["batch"]
        ]
    document.update(suite=suite["name"], title=suite["title"], overhead=overhead)
    document["claims"] = [judge(claim, document["rows"]) for claim in suite["claim"]]
    return document


def make_weights(network: dict[str, Any]) -> bytes:
    """A generator with random weights and batch statistics of its own activations."""
    import torch

    from gantk import models
    from gantk.checkpoint import generator_bytes

    torch.manual_seed(network["seed"])
    module = models.build(network["family"], network["config"]).train()
    with torch.no_grad():
        for _ in range(20):
            module(torch.randn(64, network["config"]["latent_size"]))
    return generator_bytes(module.eval())


def judge(claim: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether a claim holds, and by what factor; only rows whose pictures are right count."""

    def best(names: set[str]) -> float | None:
        times = [
            row["latency_ms"]["p50"]
            for row in rows
            if row["rank"] is not None
            and (row["batch"], row["precision"]) == (claim["batch"], claim["precision"])
            and row["backend"] in names
        ]
        return min(times, default=None)

    exported, other = (
        best({row["backend"] for row in rows} - {"torch", "torch-compile"}),
        best({claim["over"]}),
    )
    measured = None if exported is None or other is None else other / exported
    text = (
        f"batch {claim['batch']}, {claim['precision']}: the exported network is at least {claim['factor']:g} times "
        f"as fast as {claim['over']}'s best; measured {'nothing' if measured is None else f'{measured:.2f}'}"
    )
    return {
        **claim,
        "measured": measured,
        "holds": measured is not None and measured >= claim["factor"],
        "text": text,
    }


def measure_overhead(
    bundle: Path, batch: int, threads: int, rounds: int = 15, round_s: float = 0.4
) -> dict[str, Any]:
    """What gantk's runner adds to calling ONNX Runtime directly: single calls take turns on one session."""
    import numpy as np

    import gantk
    from gantk.bench.stats import interval

    with gantk.open(bundle, "onnxruntime", "fp32", threads=threads) as runner:
        spec, names = runner.inputs[0], [output.name for output in runner.outputs]
        feeds = {
            spec.name: np.random.default_rng(0)
            .standard_normal(spec.concrete({"N": batch}))
            .astype(np.float32)
        }
        session: Any = runner._session  # type: ignore[attr-defined]
        calls = (lambda: session.run(names, feeds), lambda: runner.run(feeds))
        medians_ms = np.array([in_turns_ms(calls, round_s) for _ in range(rounds)])
        # Where ONNX Runtime's part is replaced by its ready result, what is left is the runner alone, without noise.
        ready = session.run(names, feeds)
        runner._session = SimpleNamespace(run=lambda *_: ready)  # type: ignore[attr-defined]
        own_us = min(in_turns_ms(calls[1:], 0.05)[0] for _ in range(rounds)) * 1000.0
    ratios = medians_ms[:, 1] / medians_ms[:, 0]
    found = interval(ratios, 0.5)
    return {
        "backend": "onnxruntime",
        "batch": batch,
        "share": float(np.median(ratios)) - 1.0,
        "share_ci95": None if found is None else [found[0] - 1.0, found[1] - 1.0],
        "direct_ms": float(np.median(medians_ms[:, 0])),
        "own_us": own_us,
    }


def in_turns_ms(calls: Sequence[Callable[[], Any]], round_s: float) -> list[float]:
    """The median duration of each of some calls, made in turns."""
    import numpy as np

    from gantk.bench.worker import time_calls

    durations: list[list[int]] = [[] for _ in calls]
    end = time.perf_counter() + round_s
    while time.perf_counter() < end:
        for call, kept in zip(calls, durations, strict=True):
            kept.extend(time_calls(call, 0.0, 1))
    return [float(np.median(kept)) / 1e6 for kept in durations]


if __name__ == "__main__":
    sys.exit(main())
