# SPDX-License-Identifier: Apache-2.0
"""What differentiable augmentation gains a DCGAN on few pictures, and on many: pairs of trainings, judged alike.

    python benchmarks/augmentation.py DIR --vgg FILE --counts 300,3000 --seeds 0,1,2 --held-out 1000 \
        --out FOLDER --json FILE

Pictures are shuffled once; some are held out, and of the others the first so many are trained on, with and without
augmentation, by one seed each. After half of the steps and after all of them the averaged generator is judged by
1000 samples that are as `gantk generate` would save them; no picture that they are compared with is augmented:

- `distance` is the kernel distance of Binkowski et al. (arXiv 1801.01401, section 4) from the pictures held out, times
  1000, unbiased, so that it may be negative: lower is better. The features are means over VGG-19's relu3_4, for want
  of Inception's, so the numbers compare with nobody else's. `distance_real` is that of the training pictures.
- `diversity` is gantk's own measure, `gantk.train.health.spread`, over that of the pictures held out.
- `memory` is how much higher the discriminator's logits are for pictures that it learned than for those held out,
  both shown as it was shown pictures in its training: a discriminator that knows them by heart tells them apart.

With `--held-out 0` samples are compared with the training pictures, and there is no `memory`. A row is added to FILE
after each training, of any set of pictures, and what has a row there is not trained again; FOLDER keeps the runs.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk import checkpoint, models
from gantk.bench import machine
from gantk.data import find_source, load
from gantk.data.batches import normalise
from gantk.models.vgg import Vgg19, load_vgg19
from gantk.train import gan, health
from gantk.train.augment import augment, parse
from gantk.train.config import TrainConfig

SAMPLES, LAYER, CPU = 1000, "relu3_4", torch.device("cpu")


def features(vgg: Vgg19, pictures: Tensor) -> Tensor:
    """Means of VGG-19's features over each of uint8[N, C, H, W]: float64[N, 256]."""
    parts = [vgg(part.float().expand(-1, 3, -1, -1) / 255)[LAYER].mean((2, 3)) for part in pictures.split(50)]
    return torch.cat(parts).double()


def distance(real: Tensor, made: Tensor) -> float:
    """The squared maximum mean discrepancy, unbiased, by the kernel (x . y / d + 1)^3, times 1000."""
    scale = real.square().mean().sqrt()
    x, y = real / scale, made / scale

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def between_others(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.trace()) / (len(a) * (len(a) - 1))

    return float(between_others(x) + between_others(y) - 2 * kernel(x, y).mean()) * 1000


class Judge:
    """Compares runs with the pictures held out, uint8[N, C, H, W], or with those of the training if there are none."""

    def __init__(self, vgg: Vgg19, held_out: Tensor, training: Tensor) -> None:
        self._vgg, self._held_out, self._training = vgg, held_out, training
        real = held_out if len(held_out) else training
        self._real = features(vgg, real)
        self._spread = health.spread(real[:256])
        self.distance_real = (
            round(distance(self._real, features(vgg, training[:SAMPLES])), 3) if len(held_out) else None
        )

    def judge(self, file: Path, augmentation: str) -> dict[str, Any]:
        generator = checkpoint.load_generator(file)
        latents = torch.randn(SAMPLES, 100, generator=torch.Generator().manual_seed(1))
        parts = [generator.module(part).add(1).mul(127.5).round().clamp(0, 255) for part in latents.split(50)]
        samples = torch.cat(parts).to(torch.uint8)
        return {
            "step": generator.step,
            "distance": round(distance(self._real, features(self._vgg, samples)), 3),
            "diversity": round(health.spread(samples[:256]) / self._spread, 4),
            "memory": round(self._memory(file, augmentation), 4) if len(self._held_out) else None,
        }

    @torch.no_grad()
    def _memory(self, file: Path, augmentation: str) -> float:
        saved = checkpoint.read(file)
        # As in training: batches of real pictures alone, whose own statistics normalise them.
        discriminator = models.build_discriminator("dcgan", saved.state["config"])
        discriminator.load_state_dict(saved.part("discriminator"))
        draws = torch.Generator().manual_seed(2)

        def score(pictures: Tensor) -> float:
            batches = pictures[: len(pictures) // 64 * 64].split(64)
            shown = (augment(normalise(batch, CPU), parse(augmentation), draws) for batch in batches)
            return float(torch.stack([discriminator(batch).mean() for batch in shown]).mean())

        return score(self._training[:SAMPLES]) - score(self._held_out[:SAMPLES])


def link(files: list[Path], folder: Path) -> None:
    """Put links to files into a folder, numbered in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        path = folder / f"{number:05d}{file.suffix}"
        if not path.is_symlink():
            path.symlink_to(file.resolve())


def train(config: TrainConfig, judge: Judge) -> dict[str, Any]:
    """Train, and judge the run at its middle and its end."""
    assert config.steps is not None
    result = gan.train(config, force=True)
    files = [checkpoint.path_of(result.run, step) for step in (config.steps // 2, config.steps)]
    return {
        "step_ms": round(config.batch / result.samples_per_second * 1000, 1),
        "d_accuracy": result.metrics["d_accuracy"],
        "distance_real": judge.distance_real,
        "judged": [judge.judge(file, config.augment) for file in files],
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--vgg", type=Path, help="VGG-19's weights; by default torchvision's, fetched once")
    parser.add_argument("--counts", default="300", help="how many pictures to train on")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--augment", default="none;color,translation,cutout", help="what to compare")
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    given = parse_options()
    source = find_source(given.data)
    order = np.random.default_rng(0).permutation(len(source.files))
    everything = torch.from_numpy(load(source, given.size, source.channels).array)[order]
    vgg = load_vgg19(given.vgg, LAYER)
    document: dict[str, Any] = {
        "benchmark": "augmentation",
        "machine": machine.describe(),
        "versions": machine.versions("cpu"),
        "commit": machine.commit(),
        "rows": json.loads(given.json.read_text())["rows"] if given.json.exists() else [],
    }
    seeds, counts = (map(int, text.split(",")) for text in (given.seeds, given.counts))
    for seed, count in product(seeds, counts):
        folder = given.out / f"pictures-{count}"
        link([source.files[place] for place in order[given.held_out :][:count]], folder)
        judge = Judge(vgg, everything[: given.held_out], everything[given.held_out :][:count])
        for augmentation in given.augment.split(";"):
            trial = {
                "data": given.data.name, "pictures": count, "held_out": given.held_out, "size": given.size,
                "width": given.width, "steps": given.steps, "seed": seed, "augment": augmentation,
            }  # fmt: skip
            if any(trial.items() <= row.items() for row in document["rows"]):
                continue
            config = TrainConfig(
                data=str(folder), out=str(given.out / f"{count}-{augmentation}-{seed}"), size=given.size,
                width=given.width, steps=given.steps, seed=seed, augment=augmentation, threads=given.threads,
                checkpoint_every=given.steps // 2, sample_every=1_000_000,
            )  # fmt: skip
            document["rows"].append({**trial, **train(config, judge)})
            print(json.dumps(document["rows"][-1]), flush=True)
            given.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
