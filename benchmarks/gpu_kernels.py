# SPDX-License-Identifier: Apache-2.0
"""In which kernels a network's time goes on a GPU: `python benchmarks/gpu_kernels.py X.gantk`.

    --shape NAME=1x512x512x3     of an input; by default one sample of the size that gantk bench takes
    --form FORM --precision P    which file of the bundle
    --output FILE                default: benchmarks/results/gpu_kernels.json; what the same GPU and versions gave
                                 before is kept there

A bound run of ONNX Runtime's and one of PyTorch in its best mode, both CUDA graphs, as PyTorch's profiler sees their
kernels: the last of four runs, in us. Between kernels there is some idle time, which no row has.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RUNS, NAME_LENGTH, SHOWN = 4, 150, 8
TORCH_MODE = "reduce-overhead"
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1x512x512x3")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--form", default=None, help="default: the fastest")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gpu_kernels.json")
    arguments = parser.parse_args()
    from cuda_settings import parse_shape, write
    from gantk.runtime.driver import probe

    if not probe().works:
        print(f"error: no GPU here: {probe().reason}", file=sys.stderr)
        return 1
    shapes = {name: parse_shape(text) for name, _, text in (each.partition("=") for each in arguments.shape)}
    rows = measure(arguments.bundle, arguments.precision, arguments.form, shapes)
    write(arguments.output, rows, benchmark="gpu_kernels", key=key)
    for row in rows:
        print("\n".join(table(row)))
    return 0


def measure(bundle: Path, precision: str, form: str | None, shapes: dict[str, tuple[int, ...]]) -> list[Row]:
    import gantk
    from gantk.baselines.pytorch import open_network
    from gantk.bundle import Bundle
    from gantk.runtime.arrays import default_sizes, random_array
    from gantk.runtime.model import choose

    variant = choose(Bundle.open(bundle), precision, form, "onnxruntime", "cuda")
    rows = []
    for what, opened in (
        (
            f"onnxruntime {variant.label}",
            lambda: gantk.open(bundle, "onnxruntime", precision, "cuda", form=form),
        ),
        (
            f"torch {TORCH_MODE} {precision}",
            lambda: open_network(bundle, "torch", precision, TORCH_MODE, "cuda"),
        ),
    ):
        with opened() as runner:
            sizes = default_sizes(runner.inputs, {"N": 1})
            feeds = {
                spec.name: random_array(spec, shapes.get(spec.name) or spec.concrete(sizes))
                for spec in runner.inputs
            }
            kernels = profile(runner.bind(feeds))
        shape = list(next(iter(feeds.values())).shape)
        rows.append({"network": bundle.stem, "shape": shape, "what": what, "kernels": kernels})
    return rows


def profile(call: Callable[[], object]) -> list[dict[str, Any]]:
    """The kernels of a call in order, with how long each took."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    for _ in range(RUNS):
        call()
    torch.cuda.synchronize()
    with profiled(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(RUNS):
            call()
            torch.cuda.synchronize()
    events = [event for event in found.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    events.sort(key=lambda event: event.time_range.start)
    last = events[len(events) - len(events) // RUNS :]
    return [
        {"name": event.name[:NAME_LENGTH], "us": round(event.time_range.elapsed_us(), 1)} for event in last
    ]


def key(row: Row) -> tuple[Any, ...]:
    """What a row is of; a later one takes its place."""
    return row["network"], tuple(row["shape"]), row["what"]


def short(name: str) -> str:
    """A kernel's name without arguments, templates and name spaces, and without types and tiles of a convolution."""
    if cutlass := re.search(r"cutlass\w*::Kernel2?<(\w+?)_f16", name):
        return cutlass[1]
    bare = re.sub(r"^std::enable_if<.*?>::type |^void |\(anonymous namespace\)::", "", name)
    bare = re.sub(r"[<(].*", "", bare)
    bare = re.sub(r"_(f16f16|indexed_f16f16)\w*", "", bare)
    parts = bare.strip().split("::")
    return "::".join(parts[-2:]) if parts[-1] == "kernel" else parts[-1] or name


def table(row: Row) -> list[str]:
    """Kernels of one name together, the longest first."""
    sums: dict[str, list[float]] = {}
    for kernel in row["kernels"]:
        sums.setdefault(short(kernel["name"]), []).append(kernel["us"])
    order = sorted(sums.items(), key=lambda item: -sum(item[1]))
    total = sum(kernel["us"] for kernel in row["kernels"])
    lines = [f"**{row['network']}, {'x'.join(map(str, row['shape']))}, {row['what']}**", ""]
    lines += ["| kernel | times | us | share |", "| :--- | ---: | ---: | ---: |"]
    lines += [
        f"| `{name}` | {len(found)} | {sum(found):.0f} | {sum(found) / total:.0%} |"
        for name, found in order[:SHOWN]
    ]
    rest = [us for _, found in order[SHOWN:] for us in found]
    if rest:
        lines.append(
            f"| {len(order) - SHOWN} others | {len(rest)} | {sum(rest):.0f} | {sum(rest) / total:.0%} |"
        )
    return [*lines, f"| all | {len(row['kernels'])} | {total:.0f} | |", ""]


def section(document: dict[str, Any]) -> str:
    """The tables, and what they were measured on."""
    from cuda_settings import origin

    lines = [line for row in document["rows"] for line in table(row)]
    return "\n".join([*lines, origin(document), ""])
