# SPDX-License-Identifier: Apache-2.0
"""Run one suite and keep what it measured: `python benchmarks/run.py dcgan64`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import tomllib
from pathlib import Path
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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    arguments = parser.parse_args()
    suite = load(arguments.suite)
    if arguments.budget is not None:
        suite["bench"]["budget_s"] = arguments.budget
    document = run(suite, arguments.device)
    from gantk.files import write_text

    suffix = "" if arguments.device == "cpu" else f"-{arguments.device}"
    output = arguments.output or HERE / "results" / f"{suite['name']}{suffix}.json"
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


def run(suite: Suite, device: str = "cpu") -> dict[str, Any]:
    """Make the suite's network, export it, measure it on a device, and judge the suite's claims."""
    from gantk.bench.run import compare
    from gantk.export import export
    from overhead import measure_all

    with tempfile.TemporaryDirectory() as folder:
        weights, bundle = (
            Path(folder) / f"{suite['name']}.safetensors",
            Path(folder) / f"{suite['name']}.gantk",
        )
        weights.write_bytes(make_weights(suite["network"]))
        export(weights, bundle, precisions=suite["network"]["precisions"])
        document = compare(
            bundle, **suite["bench"], device=device, progress=lambda line: print(line, file=sys.stderr)
        )
        overhead = measure_all(bundle, suite["bench"]["threads"]) if device == "cpu" else []
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


if __name__ == "__main__":
    sys.exit(main())
