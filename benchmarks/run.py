# SPDX-License-Identifier: Apache-2.0
"""Run one suite and keep what it measured: `python benchmarks/run.py dcgan64`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGAN = time.monotonic()
Suite = dict[str, Any]
Document = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", help="the name of a file in benchmarks/suites, without .toml")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/SUITE.json")
    parser.add_argument(
        "--budget", type=float, help="seconds to measure each batch size; default: the suite's"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        help="of the suite's network, made there if it is not: suites of one network may share it",
    )
    arguments = parser.parse_args()
    suite = load(arguments.suite)
    if arguments.budget is not None:
        suite["bench"]["budget_s"] = arguments.budget
    if suite.get("device") == "cuda" and (fault := gpu_fault()):
        print(f"error: {fault}", file=sys.stderr)
        return 1
    from gantk.files import write_text
    from tables import verdict

    output = arguments.output or HERE / "results" / f"{suite['name']}.json"

    def keep(document: Document) -> None:
        write_text(output, json.dumps(document, indent=1, allow_nan=False) + "\n")
        print(f"wrote {output}", file=sys.stderr)

    # Of timeout(1): workers and temporary folders go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    document = run(suite, keep, arguments.bundle)
    for line in (*document["warnings"], *document["recommendation"]):
        print(line)
    for claim in document["claims"]:
        print(f"{verdict(claim)}: {claim['text']}")
    return 0


def load(name: str) -> Suite:
    """Read a suite; its network may be that of another, but for what it says itself."""
    suite = tomllib.loads((HERE / "suites" / f"{name}.toml").read_text())
    like = suite["network"].pop("like", None)
    if like is not None:
        suite["network"] = {**load(like)["network"], **suite["network"]}
    return suite


def run(suite: Suite, keep: Callable[[Document], None], bundle: Path | None = None) -> Document:
    """Make the suite's network, export it, measure it on the suite's device, and judge the suite's claims.

    Args:
        suite: From `load`.
        keep: Given what there is after each case, and in the end: a run may fail, or be ended, in between.
        bundle: Of the suite's network, or where to make it; by default in a temporary folder.
    """
    from gantk import models
    from gantk.bench.run import compare
    from gantk.export import export
    from overhead import measure_all

    device = suite.get("device", "cpu")
    with tempfile.TemporaryDirectory(prefix="gantk-suite-") as folder:
        bundle = bundle or Path(folder) / f"{suite['name']}.gantk"
        if not bundle.exists():
            weights = Path(folder) / f"{suite['name']}.safetensors"
            weights.write_bytes(make_weights(suite["network"]))
            export(weights, bundle, precisions=suite["network"]["precisions"], report=tell)
        options = dict(suite["bench"])
        shapes = [(name, tuple(shape)) for name, shape in options.pop("shapes", {}).items()]
        # What the runner itself costs is nothing beside a network of seconds.
        extra = ["what the runner itself costs"] if suite["network"]["family"] in models.PAIRS else []
        document = compare(
            bundle,
            **options,
            shapes=shapes,
            device=device,
            progress=tell,
            keep=lambda document: keep(result(suite, document, [], missing(document) + extra)),
        )
        overhead: list[dict[str, Any]] = []
        if extra:
            try:
                overhead = measure_all(bundle, suite["bench"]["threads"], device=device)
            except Exception as error:  # What took minutes to measure is not to be lost by it.
                document["warnings"].append(f"what the runner itself costs was not measured: {error}")
    document = result(suite, document, overhead, [])
    keep(document)
    return document


def result(
    suite: Suite, document: Document, overhead: list[dict[str, Any]], lacking: Sequence[str]
) -> Document:
    """A benchmark's document as a suite's result: with its claims, and a warning of what is lacking, if anything is."""
    ended = [f"the run ended before these were measured: {', '.join(lacking)}"] if lacking else []
    return {
        **document,
        "warnings": [*document["warnings"], *ended],
        "suite": suite["name"],
        "title": suite["title"],
        "overhead": overhead,
        "claims": [judge(claim, document["rows"]) for claim in suite["claim"]],
    }


def missing(document: Document) -> list[str]:
    """The cases of a benchmark that are not measured yet."""
    from gantk.bench.view import cases_of

    measured = cases_of(document)
    return [case for case in document["settings"]["cases"] if case not in measured]


def gpu_fault() -> str | None:
    """Why PyTorch, with which everything is compared, has no GPU here; asked before minutes of export."""
    from gantk.runtime.driver import probe

    if not probe().works:
        return f"no GPU here: {probe().reason}"
    import torch

    if not torch.cuda.is_available():
        return "this PyTorch cannot use the GPU; install one that is built for CUDA"
    return None


def tell(line: str) -> None:
    print(f"{time.monotonic() - BEGAN:6.1f} s  {line}", file=sys.stderr)


def make_weights(network: dict[str, Any]) -> bytes:
    """A generator with random weights whose pictures look like pictures: neither flat nor all black and white."""
    import torch

    from gantk import models
    from gantk.checkpoint import generator_bytes

    torch.manual_seed(network["seed"])
    module: Any = models.build(network["family"], network["config"])
    with torch.no_grad():
        if network["family"] in models.PAIRS:
            settle_statistics(module, network["config"]["latent_size"])
        else:
            settle_contrast(module)
    return generator_bytes(module.eval())


def settle_statistics(module: Any, latent_size: int) -> None:
    """Give batch norms the statistics of the network's own activations."""
    import torch

    module.train()
    for _ in range(20):
        module(torch.randn(64, latent_size))


def settle_contrast(module: Any) -> None:
    """Scale the last convolution until colours have the mean 0.5 and the deviation 0.2."""
    import torch

    from gantk.runtime.arrays import random_feeds

    feeds = random_feeds(module.config.inputs, {"N": 2, "H": 128, "W": 128})
    painted = module(*(torch.from_numpy(array) for array in feeds.values()))
    scale = 0.2 / painted.std((0, 2, 3))
    last = module.paint.conv
    last.weight.mul_(scale[:, None, None, None])
    last.bias.sub_(painted.mean((0, 2, 3))).mul_(scale).add_(0.5)


def judge(claim: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether a claim holds, and by what factor; only rows whose pictures are right count.

    Args:
        claim: ``factor`` is what the best exported network is to reach, in ``precision`` (``any`` for all) at
            ``batch``, over the best of the backends ``over``. ``over_precision``, ``form`` and ``mode`` narrow
            what it is compared with; ``psnr_db`` is how near to PyTorch in float32 it must be.
        rows: Of the benchmark.
    """
    others = [claim["over"]] if isinstance(claim["over"], str) else claim["over"]
    precision = claim["precision"]
    right = [row for row in rows if row["status"] == "ok" and row["parity"]["passed"]]
    right = [row for row in right if row["batch"] == claim["batch"]]
    exported = [
        row
        for row in right
        if row["backend"] not in ("torch", "torch-compile")
        and precision in ("any", row["precision"])
        and row["parity"]["psnr_db"] >= claim.get("psnr_db", 0.0)
    ]
    other = [
        row
        for row in right
        if row["backend"] in others
        and row["precision"] == claim.get("over_precision", precision)
        and all(row[key] == claim[key] for key in ("form", "mode") if key in claim)
    ]
    measured = fastest(other) / fastest(exported) if other and exported else None
    against = " ".join(claim[key] for key in ("mode", "over_precision", "form") if key in claim)
    near = f" within {claim['psnr_db']:g} dB" if "psnr_db" in claim else ""
    text = (
        f"batch {claim['batch']}, {precision} precision{near}: the exported network is at least "
        f"{claim['factor']:g} times as fast as the best of {' and '.join(others)}{against and f' ({against})'}; "
        f"measured {'nothing' if measured is None else f'{measured:.2f}'}"
    )
    return {
        **claim,
        "measured": measured,
        "holds": measured is not None and measured >= claim["factor"],
        "text": text,
    }


def fastest(rows: list[dict[str, Any]]) -> float:
    """The smallest median latency, in ms."""
    return min(float(row["latency_ms"]["p50"]) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
