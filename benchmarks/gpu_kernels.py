# SPDX-License-Identifier: Apache-2.0
"""In which kernels a network's time goes on a GPU: `python benchmarks/gpu_kernels.py X.gantk`.

    --shape NAME=1x512x512x3     of an input; by default one sample of the size that gantk bench takes
    --form FORM --precision P    which file of the bundle
    --output FILE                default: benchmarks/results/gpu_kernels.json; what the same GPU and versions gave
                                 before is kept there

A bound run of ONNX Runtime's and one of PyTorch in its best mode, both CUDA graphs, as PyTorch's profiler sees their
kernels: the last of four runs, in us. Between kernels there is some idle time, which no row has. A kernel that comes
while the one before it ends (from sm_90 on, those after the first of gantk's instance normalisation and Gram matrices)
is seen from then on, its waiting included.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUNS, NAME_LENGTH, SHOWN = 4, 150, 8
TORCH_MODE = "reduce-overhead"
Row = dict[str, Any]


def main() -> int:
    from cuda_settings import parse, write

    arguments = parse(__doc__, "gpu_kernels", form=None)
    rows = measure(arguments.bundle, arguments.precision, arguments.form, arguments.shapes)
    write(arguments.output, rows, benchmark="gpu_kernels", key=key)
    for row in rows:
        print("\n".join(table(row)))
    return 0


def measure(bundle: Path, precision: str, form: str | None, shapes: dict[str, tuple[int, ...]]) -> list[Row]:
    """A row of ONNX Runtime, and one of PyTorch."""
    from gantk.baselines.pytorch import open_network
    from gantk.bundle import Bundle
    from gantk.runtime.model import choose
    from gantk.runtime.registry import open as open_file

    label = choose(Bundle.read(bundle), precision, form, "onnxruntime", "cuda").label
    with open_file(bundle, "onnxruntime", precision, "cuda", form=form) as runner:
        rows = [_row(bundle, f"onnxruntime {label}", runner, shapes)]
    with open_network(bundle, "torch", precision, TORCH_MODE, "cuda") as runner:
        return [*rows, _row(bundle, f"torch {TORCH_MODE} {precision}", runner, shapes)]


def _row(bundle: Path, what: str, runner: Any, shapes: dict[str, tuple[int, ...]]) -> Row:
    from cuda_settings import feeds_of

    feeds = feeds_of(runner.inputs, shapes)
    shape = list(next(iter(feeds.values())).shape)
    return {"network": bundle.stem, "shape": shape, "what": what, "kernels": profile(runner.bind(feeds))}


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


if __name__ == "__main__":
    sys.exit(main())
