# SPDX-License-Identifier: Apache-2.0
"""gantk's operators against the plain PyTorch expressions: time with gradient, and peak memory.

    python benchmarks/operators.py --threads 2 --json benchmarks/results/operators.json

The two of a row are called in turns, so that a machine that grows slower hurts both alike; ratios above 1 are
gantk's gain. Peak memory is that of a process that measures nothing else, above what it held before.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantk.ops import gram_matrix, style_loss, total_variation

# Channels, and how many times smaller than the picture, of the layers that style is taken from.
LAYERS = ((64, 1), (128, 2), (256, 4), (512, 8), (512, 16))


def plain_gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)
    return torch.bmm(flat, flat.mT) / flat.shape[2]


def plain_style(features: list[Tensor], targets: list[Tensor]) -> Tensor:
    return sum(
        ((plain_gram(layer) - target) ** 2).mean((1, 2))
        for layer, target in zip(features, targets, strict=True)
    )  # type: ignore[return-value]


def plain_variation(pictures: Tensor) -> Tensor:
    return pictures.diff(dim=3).abs().sum((1, 2, 3)) + pictures.diff(dim=2).abs().sum((1, 2, 3))


def gantk_style(features: list[Tensor], targets: list[Tensor]) -> Tensor:
    return style_loss(features, targets, [1.0] * len(features))


def with_gradient(function: Callable[..., Tensor], leaves: list[Tensor], *others: Any) -> Callable[[], Any]:
    def run() -> Any:
        value = function(leaves if others else leaves[0], *others)
        return torch.autograd.grad(value.sum(), leaves)

    return run


def contenders(size: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """By row, the plain expression and gantk's, for a picture of `size` x `size`."""
    rng = torch.Generator().manual_seed(0)
    found = {}
    layers = [torch.rand(1, c, size // s, size // s, generator=rng) for c, s in LAYERS]
    leaves = [layer.to(memory_format=torch.channels_last).requires_grad_() for layer in layers]
    for (channels, shrunk), leaf in zip(LAYERS, leaves, strict=True):
        both = (with_gradient(plain_gram, [leaf]), with_gradient(gram_matrix, [leaf]))
        found[f"Gram matrix, {channels} x {size // shrunk}^2"] = both
    targets = [torch.rand(c, c, generator=rng) for c, _ in LAYERS]
    both = (with_gradient(plain_style, leaves, targets), with_gradient(gantk_style, leaves, targets))
    found["style loss, five layers"] = both
    picture = torch.rand(1, 3, size, size, generator=rng).requires_grad_()
    both = (with_gradient(plain_variation, [picture]), with_gradient(total_variation, [picture]))
    found["total variation l1"] = both
    return found


def measure(pair: tuple[Callable[[], Any], Callable[[], Any]], rounds: int) -> dict[str, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for function, kept in zip(pair, times, strict=True):
            began_s = time.perf_counter()
            function()
            if round_ > 0:  # The first warms up.
                kept.append((time.perf_counter() - began_s) * 1000)
    plain_ms, gantk_ms = map(statistics.median, times)
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    return {"plain_ms": round(plain_ms, 3), "gantk_ms": round(gantk_ms, 3), "ratio": round(ratio, 3)}


def peak_mib(row: str, which: int, size: int) -> float:
    """What one call adds to the peak memory of a fresh process."""
    code = f"import operators; operators.print_peak({row!r}, {which}, {size})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def print_peak(row: str, which: int, size: int) -> None:
    contenders(64)[row][which]()  # What a library takes at its first call does not count.
    picture = torch.rand(1, 3, size, size).requires_grad_()
    function = with_gradient((plain_variation, total_variation)[which], [picture])
    before = high_water_mib()
    function()
    print(high_water_mib() - before)


def high_water_mib() -> float:
    # Not getrusage, which after a fork remembers the parent's peak.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for size in options.sizes:
        for name, pair in contenders(size).items():
            rows.append({"size": size, "name": name, **measure(pair, options.rounds)})
            print(
                "{size:5} px  {name:28} plain {plain_ms:9.2f} ms  gantk {gantk_ms:9.2f} ms  {ratio:5.2f}x".format(
                    **rows[-1]
                )
            )
    name, size = "total variation l1", 2048
    memory = {
        key: round(peak_mib(name, which, size), 1) for which, key in enumerate(("plain_mib", "gantk_mib"))
    }
    print(f"{name} with gradient, {size} px (a picture has {3 * size * size / 2**18:.0f} MiB): {memory}")
    document = {
        "schema": 1,
        "benchmark": "operators",
        "machine": {"platform": platform.platform(), "threads": options.threads},
        "torch": torch.__version__,
        "rows": rows,
        "memory": [{"size": size, "name": name, **memory}],
    }
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
