# SPDX-License-Identifier: Apache-2.0
"""The optimisation step of style transfer: exported, against PyTorch's autograd. Writes results/gatys.json.

    python benchmarks/gatys.py [--vgg FILE] [--size 256,512] [--budget 120] [--output FILE]

One step is the three losses of one picture and their gradient by its pixels. PyTorch runs eagerly, with channels
last, and compiled; each exported contender is timed through gantk's runner with all its checks. Without --vgg the
weights are random, which speed does not depend on, and the layers are those of `gantk stylize`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent

CLAIMS = {256: 1.7, 512: 3.0}
"""By the picture's side, how many times as fast as PyTorch's best eager mode the best exported step is to be."""


_PLACES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
"""Where torchvision has the convolutions up to relu5_1."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vgg", type=Path, help="VGG-19's weights; may end early")
    parser.add_argument("--size", default="256,512", help="sides of the picture")
    parser.add_argument("--pooling", default="max", choices=("max", "average"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=120.0, help="seconds to measure each size")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out, which takes minutes"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gatys.json")
    arguments = parser.parse_args()
    from gantk.files import write_text

    document = run(arguments)
    write_text(arguments.output, json.dumps(document, indent=1, allow_nan=False) + "\n")
    print(f"wrote {arguments.output}", file=sys.stderr)
    for line in (*document["warnings"], *document["recommendation"]):
        print(line)
    for claim in document["claims"]:
        print(f"{'holds' if claim['holds'] else 'DOES NOT HOLD'}: {claim['text']}")
    return 0


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Export the step and measure every way to run it, at every size."""
    from gantk.bench import run as bench
    from gantk.bench.case import Settings
    from gantk.bench.contender import Skipped
    from gantk.bench.subject import describe
    from gantk.export import verify
    from gantk.export.gatys.pipeline import PRECISIONS, export_step

    sizes = [int(size) for size in arguments.size.split(",")]
    settings = Settings("cpu", arguments.threads, arguments.budget, 900.0, 0)
    with tempfile.TemporaryDirectory(prefix="gantk-bench-") as name:
        folder = Path(name)
        vgg = arguments.vgg or make_weights(folder / "vgg.safetensors")
        precisions = [precision for precision in PRECISIONS if verify.working_backends(precision)]
        bundle = export_step(
            vgg, folder / "step.gantk", pooling=arguments.pooling, precisions=precisions, report=progress
        )
        subject = describe(bundle.root)
        document = bench.start_document(
            subject,
            bench.machine.describe(),
            settings,
            [],
            [Skipped("freezing", "it is for networks without gradients")],
        )
        if bench.machine.busy(document["machine"]):
            load = document["machine"]["load_average"][0]
            document["warnings"].append(
                f"the machine was busy before the benchmark began: load average {load:.1f}"
            )
        for size in sizes:
            measure(document, subject, vgg, size, settings, folder, compile_too=not arguments.no_compile)
    document.update(suite="gatys", title="One step of style transfer by optimisation", overhead=[])
    document["claims"] = [claim for size in sizes for claim in judge(size, document["rows"])]
    return document


def make_weights(path: Path) -> Path:
    """VGG-19 with random weights that keep the size of features (He et al., arXiv 1502.01852)."""
    import torch
    from safetensors.torch import save_file

    from gantk.models.vgg import Vgg19

    torch.manual_seed(0)
    network, tensors = Vgg19("relu5_1"), {}
    for index, convolution in zip(_PLACES, network.convolutions.values(), strict=True):
        weight = torch.empty_like(convolution.weight)
        torch.nn.init.kaiming_normal_(weight)
        tensors |= {f"features.{index}.weight": weight, f"features.{index}.bias": torch.zeros(len(weight))}
    save_file(tensors, path)
    return path


def measure(
    document: dict[str, Any],
    subject: Any,
    vgg: Path,
    size: int,
    settings: Any,
    folder: Path,
    *,
    compile_too: bool,
) -> None:
    """Add the rows of one size."""
    import torch

    from gantk.bench import verdict
    from gantk.bench.case import Task, run_case
    from gantk.bench.subject import Case
    from gantk.export.gatys import trials
    from gantk.export.gatys.chain import StepConfig
    from gantk.export.gatys.reference import compute_gradient, to_arrays
    from gantk.models.vgg import load_vgg19

    config = {name: subject.about["config"][name] for name in StepConfig.__dataclass_fields__}
    step = StepConfig(**{**config, "style_layers": tuple(config["style_layers"])})
    network = load_vgg19(vgg, step.last, step.pooling)
    torch.set_num_threads(settings.threads)
    progress(f"{size} px: computing the reference")
    trial = trials.make_trial(network, step, 0, 1, size, size, 0)
    feeds = to_arrays({spec.name: trial[spec.name] for spec in subject.inputs})
    reference = to_arrays(compute_gradient(network, step, trial))
    del network, trial
    np.savez(folder / f"feeds-{size}.npz", **feeds)  # type: ignore[arg-type]
    case = Case({"picture": (1, 3, size, size)}, 1)
    task = Task(case, folder / f"feeds-{size}.npz", reference, "torch float32", subject.outputs[:1], folder)
    contenders = find(subject, str(vgg), config, settings.threads, compile_too=compile_too)
    result = run_case(task, contenders, settings, len(document["rows"]), progress)
    for row in result.rows:
        accept_cut_offs(row)
    verdict.rank(result.rows, result.blocks)
    document["rows"] += result.rows
    document["settings"]["cases"].append(case.label)
    document["recommendation"] += verdict.recommend(result.rows, result.blocks, case.label)
    document["warnings"] += [f"{case.label}: {line}" for line in verdict.warnings(result.rows, result.rounds)]
    document["interference"][case.label] = round(result.interference, 4)


def find(subject: Any, vgg: str, config: dict[str, Any], threads: int, *, compile_too: bool) -> list[Any]:
    """PyTorch in each of its modes and precisions, and the files."""
    from gantk.baselines.step import MODES
    from gantk.bench import contenders
    from gantk.bench.contender import Contender
    from gantk.runtime.registry import available

    found = []
    for precision in subject.precisions:
        for mode in MODES[: None if compile_too else 2]:
            backend = "torch" if mode in MODES[:2] else "torch-compile"
            options = {"vgg": vgg, "config": config, "mode": mode, "precision": precision, "threads": threads}
            size_bytes = Path(vgg).stat().st_size
            factory = "gantk.baselines.step:open_step"
            found.append(
                Contender(backend, precision, precision, None, mode, size_bytes, factory, options, ("torch",))
            )
    backends = [status.name for status in available() if status.works]
    return found + contenders.find(subject, backends, None, "cpu", threads)[0]


def accept_cut_offs(row: dict[str, Any]) -> None:
    """Judge a row by the thresholds of the export, which know that activations next to 0 change slopes."""
    from gantk.runtime.parity import STEP_THRESHOLDS

    parity = row["parity"]
    if parity is not None and parity["psnr_db"] is not None:
        parity["passed"] = parity["psnr_db"] >= STEP_THRESHOLDS[row["precision"]].psnr_db
        parity["reason"] = None if parity["passed"] else parity["reason"]


def judge(size: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How fast and how large the best exported step is against PyTorch's best eager mode in float32."""
    here = [row for row in rows if row["shape"]["picture"][2] == size and row["rank"] is not None]
    eager = min(
        (row for row in rows if row["shape"]["picture"][2] == size and row["backend"] == "torch"
         and row["precision"] == "fp32" and row["latency_ms"]),
        key=lambda row: row["latency_ms"]["p50"],
    )  # fmt: skip
    claims = []
    for precision in ("fp32", "bf16"):
        exported = [
            row
            for row in here
            if row["backend"] not in ("torch", "torch-compile") and row["precision"] == precision
        ]
        if not exported:
            continue
        best = min(exported, key=lambda row: row["latency_ms"]["p50"])
        factor = eager["latency_ms"]["p50"] / best["latency_ms"]["p50"]
        memory = best["memory_bytes"]["peak_rss"] / eager["memory_bytes"]["peak_rss"]
        wanted = CLAIMS.get(size, 1.0)
        claims += [
            {
                "size": size, "precision": precision, "factor": wanted, "measured": factor, "holds": factor >= wanted,
                "text": f"{size} px: the step exported in {precision} ({best['label']}) is at least {wanted:g} times "
                f"as fast as torch eager in fp32 ({eager['mode']}); measured {factor:.2f}",
            },
            {
                "size": size, "precision": precision, "factor": 1.0, "measured": memory, "holds": memory < 1,
                "text": f"{size} px: its peak memory in {precision} is less than torch eager's; "
                f"measured {memory:.2f} of it",
            },
        ]  # fmt: skip
    return claims


def progress(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
