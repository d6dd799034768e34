# SPDX-License-Identifier: Apache-2.0
"""How fast a DCGAN trains: against a loader of noise, and by precision and memory layout.

    python benchmarks/training.py --threads 2 --json benchmarks/results/training.json

The loader row trains on drawn pictures that were decoded from PNG files; the noise row trains on one batch
that is always at hand. If they differ by more than their spread, the loader is a bottleneck.
Rows of a size are measured in turns, so that a machine that grows slower hurts all of them alike.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from gantk import models
from gantk.data import Batches, find_source, load
from gantk.data.batches import normalise

PICTURES = 512
CPU = torch.device("cpu")


class Step:
    """The training step of `gantk.train.gan`, for one precision and layout.

    Args:
        size: Of pictures, in pixels.
        width: Of the DCGAN.
        batch: Pictures a step.
        precision: ``fp32`` or ``bf16``.
        channels_last: The memory layout.
    """

    def __init__(self, size: int, width: int, batch: int, precision: str, *, channels_last: bool) -> None:
        torch.manual_seed(0)
        network = {"size": size, "channels": 3, "width": width}
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._generator = models.build("dcgan", network).to(memory_format=self._layout)
        self._discriminator = models.build_discriminator("dcgan", network).to(memory_format=self._layout)
        self._optimizer_g = torch.optim.Adam(self._generator.parameters(), 2e-4, (0.5, 0.999), fused=True)
        self._optimizer_d = torch.optim.Adam(self._discriminator.parameters(), 2e-4, (0.5, 0.999), fused=True)
        self._ones, self._zeros, self._bf16 = torch.ones(batch), torch.zeros(batch), precision == "bf16"

    def __call__(self, pictures: Tensor) -> None:
        real = pictures.contiguous(memory_format=self._layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            fakes = self._generator(torch.randn(len(real), 100))
            real_logits, fake_logits = self._discriminator(real), self._discriminator(fakes.detach())
        loss = _loss(real_logits, self._ones) + _loss(fake_logits, self._zeros)
        self._optimizer_d.zero_grad()
        loss.backward()
        self._optimizer_d.step()
        self._discriminator.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._discriminator(fakes)
        self._optimizer_g.zero_grad()
        _loss(logits, self._ones).backward()
        self._optimizer_g.step()
        self._discriminator.requires_grad_(True)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), labels)


def draw(folder: Path, size: int) -> None:
    """Write PNG files of noise in blocks, half as large again as they are trained on."""
    rng = np.random.default_rng(0)
    for index in range(PICTURES):
        blocks = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(blocks).resize((size * 3 // 2, size * 3 // 2)).save(folder / f"{index:04d}.png")


def measure(contenders: dict[str, Callable[[int], None]], steps: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a step of each contender, in `rounds` blocks that take turns after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    number = 0
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            began_s = time.perf_counter()
            for _ in range(steps):
                run(number)
                number += 1
            if turn:
                times[name].append((time.perf_counter() - began_s) / steps * 1000)
    return times


def compare(size: int, width: int, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """All rows of one picture size."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), size)
        pictures = load(find_source(folder), size, 3)
    noise = normalise(torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8), CPU)
    with Batches(pictures.array, batch, seed=0, flip=True) as batches:
        fast = Step(size, width, batch, "bf16", channels_last=True)
        contenders: dict[str, Callable[[int], None]] = {
            "bf16 channels_last, loader": lambda step: fast(normalise(batches.get(step).pictures, CPU)),
            "bf16 channels_last": lambda step: fast(noise),
        }
        for precision, last in (("bf16", False), ("fp32", True), ("fp32", False)):
            other = Step(size, width, batch, precision, channels_last=last)
            contenders[f"{precision} {'channels_last' if last else 'contiguous'}"] = (
                lambda step, other=other: other(noise)  # type: ignore[misc]
            )
        times = measure(contenders, steps, rounds)
    rows = [
        {
            "name": name,
            "step_ms": round(statistics.median(values), 3),
            "step_ms_lowest": round(min(values), 3),
            "step_ms_highest": round(max(values), 3),
            "samples_per_second": round(batch * 1000 / statistics.median(values), 1),
        }
        for name, values in times.items()
    ]
    return {"size": size, "width": width, "batch": batch, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="steps in a block")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each contender")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    document: dict[str, Any] = {
        "schema": 1,
        "benchmark": "training",
        "machine": {"platform": platform.platform(), "threads": options.threads},
        "torch": torch.__version__,
        "results": [
            compare(size, width, 64, options.steps, options.rounds) for size, width in ((32, 32), (64, 64))
        ],
    }
    for result in document["results"]:
        print(f"{result['size']} px, width {result['width']}, batch {result['batch']}")
        for row in result["rows"]:
            spread = f"{row['step_ms_lowest']:.1f}-{row['step_ms_highest']:.1f}"
            print(
                f"  {row['name']:<28}{row['step_ms']:8.1f} ms ({spread})  {row['samples_per_second']:8.0f} /s"
            )
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
