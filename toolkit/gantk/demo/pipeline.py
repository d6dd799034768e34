# SPDX-License-Identifier: Apache-2.0
"""Draw, train, export, bench, report: every step is the library function behind the verb of that name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gantk.bench.run import compare
from gantk.bundle import Bundle
from gantk.demo.pictures import draw_pictures
from gantk.demo.report import write_report
from gantk.demo.reporter import DemoReporter
from gantk.errors import BackendMissingError, GantkError
from gantk.export import export
from gantk.export.engines.pipeline import EngineRequest
from gantk.files import temporary_folder, write_text
from gantk.generate import latents, open_painter, paint, walk_latents
from gantk.runtime.pictures import grid, save, save_animation
from gantk.train.augment import ALL, NONE
from gantk.train.config import TrainConfig
from gantk.train.gan import train
from gantk.train.sitting import TrainResult

PICTURES, SIZE = 2048, 32
WIDTH, STEPS = 32, 1300
TRAINING_S, TRIAL_STEPS, LEAST_STEPS = 60.0, 16, 100
WALK_FRAMES = 60
PRECISIONS = ("fp32", "fp16", "bf16")
BENCHED = ("fp32", "bf16")  # No backend computes fp16 on a CPU.
BATCHES = (1, 16)
BUDGET_S = 6.0
# One mode of each kind: compiling every one takes longer than all the rest. `gantk bench` tries them all.
MODES = ("eager", "channels_last", "freezing", "reduce-overhead")

_PARTS = (
    "pictures",
    "run",
    "flowers.gantk",
    "real.png",
    "generated.png",
    "walk.webp",
    "bench.json",
    "report.html",
)


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Args:
        out: The folder that holds it all.
        training: How the training went.
        bundle: The exported network.
        benchmark: The JSON document of the benchmark.
        seconds: How long each step took, by name, in order.
    """

    out: Path
    training: TrainResult
    bundle: Bundle
    benchmark: dict[str, Any]
    seconds: dict[str, float]

    @property
    def report(self) -> Path:
        return self.out / "report.html"


def run_demo(out: Path, *, steps: int | None = None, reporter: DemoReporter | None = None) -> Demo:
    """Go the whole path on a picture set that gantk draws itself.

    Args:
        out: The folder to write; an earlier demo in it is replaced.
        steps: Of training; by default `STEPS`, or as many as this machine does in `TRAINING_S`.
        reporter: Told of the progress.

    Raises:
        GantkError: `out` holds something else, or a step failed.
    """
    reporter = reporter or DemoReporter()
    _check_free(out)
    seconds: dict[str, float] = {}

    def timed(name: str, title: str, work: Callable[[], Any]) -> Any:
        reporter.begin(len(seconds) + 1, title)
        start = time.perf_counter()
        made = work()
        seconds[name] = time.perf_counter() - start
        return made

    timed("draw", f"drawing {PICTURES} flowers of {SIZE} x {SIZE} pixels", lambda: _draw(out))
    if steps is None:
        reporter.detail("trying how fast this machine trains")
    chosen = steps or _affordable_steps(out)
    title = f"training a DCGAN for {chosen} steps"
    if steps is None and chosen < STEPS:
        title += f", for this machine is slow or busy; --steps {STEPS} takes longer, and pictures are better"
    training = timed("train", title, lambda: _train(out, chosen, reporter))
    bundle = timed(
        "export", f"exporting to {', '.join(PRECISIONS)}, each verified", lambda: _export(out, reporter)
    )
    timed("generate", "generating with the exported engine", lambda: _generate(out, bundle))
    benchmark = timed("bench", "benchmarking every way to run it here", lambda: _bench(out, bundle, reporter))
    demo = Demo(out, training, bundle, benchmark, seconds)
    write_report(out, training, bundle, benchmark, seconds)
    return demo


def _check_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise GantkError(f"`{out}` is a file; the demo wants a folder", where=str(out), hint="--out DIR")
    foreign = [path.name for path in out.glob("*") if path.name not in _PARTS] if out.exists() else []
    if foreign:
        raise GantkError(
            f"`{out}` holds `{foreign[0]}`, which is not a demo's; the demo replaces nothing else",
            where=str(out),
            hint="--out DIR with a new folder",
        )


def _draw(out: Path) -> None:
    draw_pictures(out / "pictures", PICTURES, SIZE)
    shown = [Image.open(path).convert("RGB") for path in sorted((out / "pictures").iterdir())[:64]]
    save(out / "real.png", grid(np.stack([np.asarray(picture) for picture in shown]), columns=8))


def _affordable_steps(out: Path) -> int:
    """`STEPS`, or fewer where a short trial says that they would take longer than `TRAINING_S`."""
    with temporary_folder("demo") as folder:
        config = _config(out, folder / "run", TRIAL_STEPS, ALL)
        trial = train(config)
    affordable = TRAINING_S * trial.samples_per_second / config.batch
    return max(LEAST_STEPS, min(STEPS, int(affordable)))


def _train(out: Path, steps: int, reporter: DemoReporter) -> TrainResult:
    # Augmented petals are clearer in the end, and take longer to appear: of 400 steps flowers are better without.
    augment = ALL if steps >= STEPS else NONE
    result = train(_config(out, out / "run", steps, augment), force=True, reporter=reporter)
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def _config(out: Path, run: Path, steps: int, augment: str) -> TrainConfig:
    return TrainConfig(
        data=str(out / "pictures"),
        out=str(run),
        size=SIZE,
        channels=3,
        width=WIDTH,
        steps=steps,
        flip=True,
        augment=augment,
        anneal=True,
    )


def _export(out: Path, reporter: DemoReporter) -> Bundle:
    return export(
        out / "run",
        out / "flowers.gantk",
        precisions=PRECISIONS,
        force=True,
        engines=_engines(),
        report=reporter.detail,
    )


def _engines() -> EngineRequest | None:
    """One engine for every RTX card, where the product that builds it without a GPU is installed."""
    request = EngineRequest(("tensorrt-rtx",), ("fp16",))
    try:
        request.check()
    except BackendMissingError:
        return None
    return request


def _generate(out: Path, bundle: Bundle) -> None:
    with open_painter(bundle.root) as painter:
        shape = painter.latent_shape
        save(out / "generated.png", grid(paint(painter, latents(64, shape, seed=1)), columns=8))
        walks = walk_latents(8, shape, seed=1, stops=4, frames=WALK_FRAMES)
        frames = paint(painter, walks.reshape(-1, *shape)).reshape(WALK_FRAMES, 8, SIZE, SIZE, 3)
        save_animation(out / "walk.webp", [grid(frame, columns=8) for frame in frames])


def _bench(out: Path, bundle: Bundle, reporter: DemoReporter) -> dict[str, Any]:
    document = compare(
        bundle.root,
        precisions=BENCHED,
        batch=BATCHES,
        budget_s=BUDGET_S,
        modes=MODES,
        progress=reporter.detail,
    )
    write_text(out / "bench.json", json.dumps(document, indent=2) + "\n")
    return document
