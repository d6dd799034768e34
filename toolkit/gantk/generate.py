# SPDX-License-Identifier: Apache-2.0
"""Pictures from a trained generator: of a run, a bundle or a lone ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gantk.bundle import is_bundle
from gantk.errors import GantkError, UsageError
from gantk.models import PAIRS
from gantk.runtime.pictures import Pixels, to_pixels, walk
from gantk.runtime.registry import core_count
from gantk.runtime.registry import open as open_runner
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec

Progress = Callable[[int, int], None]
"""Called with the number of pictures made and wanted."""


@dataclass(frozen=True)
class Painter:
    """A generator, ready to paint.

    Args:
        latent_shape: Of one latent.
        paint: From latents (N, *latent_shape), float32, to pixels (N, H, W, C).
        close: Gives back what it holds.
        backend: What computes, e.g. ``onnxruntime`` or ``torch``.
        precision: What it computes in.
        batch: The only number of latents that `paint` takes, or `None` where it takes any.
        passed_over: Why backends that come before this one did not do.
    """

    latent_shape: tuple[int, ...]
    paint: Callable[[Array], Pixels]
    close: Callable[[], None]
    backend: str
    precision: str
    batch: int | None = None
    passed_over: tuple[str, ...] = ()

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_painter(
    path: str | Path,
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Painter:
    """Open the generator of a run or checkpoint with PyTorch, or of a bundle or ONNX file with a backend.

    Raises:
        GantkError: It is none of these, cannot be opened, or is not a generator.
        UsageError: A backend or precision was asked for that a run does not have.
    """
    path = Path(path)
    if is_bundle(path) or path.suffix == ".onnx":
        return _of_runner(open_runner(path, backend, precision, device, threads=threads), path)
    if not path.exists():
        raise GantkError(
            f"`{path}` does not exist", where=str(path), hint="a run, a bundle or an .onnx file is wanted"
        )
    if backend not in ("auto", "torch") or precision not in (None, "fp32") or device not in (None, "cpu"):
        raise UsageError(
            f"`{path}` is not a bundle: PyTorch paints it, in fp32 on the CPU",
            hint=f"gantk export {path} -o X.gantk makes one, for every backend and precision",
        )
    return _of_run(path, threads or core_count())


def latents(count: int, shape: tuple[int, ...], seed: int, truncation: float = 1.0) -> Array:
    """Gaussian latents (count, *shape), float32: those of a smaller count are the first ones of a larger.

    Args:
        truncation: Scales them; below 1 pictures become more typical and less varied (the psi of
            Karras et al., arXiv 1812.04948, appendix B, in the latent space itself).
    """
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32) * np.float32(truncation)


def paint(painter: Painter, given: Array, batch: int = 16, progress: Progress | None = None) -> Pixels:
    """Paint latents (N, ...), `batch` at a time."""
    batch = painter.batch or batch
    pieces: list[Pixels] = []
    for start in range(0, len(given), batch):
        piece = given[start : start + batch]
        short = batch - len(piece) if painter.batch else 0
        padded = np.concatenate([piece, np.repeat(piece[-1:], short, axis=0)]) if short else piece
        pieces.append(painter.paint(padded)[: len(piece)])
        if progress is not None:
            progress(start + len(piece), len(given))
    return np.concatenate(pieces)


def walk_latents(
    count: int, shape: tuple[int, ...], seed: int, *, stops: int, frames: int, truncation: float = 1.0
) -> Array:
    """The latents of `count` closed walks through the latent space, (frames, count, *shape)."""
    given = latents(count * stops, (int(np.prod(shape)),), seed, truncation)
    path = walk(given.reshape(count, stops, -1).swapaxes(0, 1), frames)
    return path.reshape(frames, count, *shape)


def _of_runner(runner: Runner, path: Path) -> Painter:
    try:
        latent, picture = _generator_specs(runner, path)
    except GantkError:
        runner.close()
        raise
    size = latent.shape[0]
    return Painter(
        latent_shape=tuple(int(size) for size in latent.shape[1:]),
        paint=lambda given: to_pixels(
            runner.run({latent.name: given.astype(latent.dtype)})[picture.name], picture
        ),
        close=runner.close,
        backend=runner.backend,
        precision=runner.precision,
        batch=size if isinstance(size, int) else None,
        passed_over=tuple(runner.passed_over.values()),
    )


def _generator_specs(runner: Runner, path: Path) -> tuple[TensorSpec, TensorSpec]:
    """The latent and the picture of a network that has one of each."""
    floats = ("float32", "float16")
    latent, picture = runner.inputs[0], next((spec for spec in runner.outputs if len(spec.shape) == 4), None)
    fixed = all(isinstance(size, int) for size in latent.shape[1:])
    if (
        len(runner.inputs) != 1
        or latent.dtype not in floats
        or len(latent.shape) < 2
        or not fixed
        or not picture
    ):
        had = "; ".join(
            ["in: " + ", ".join(map(str, runner.inputs)), "out: " + ", ".join(map(str, runner.outputs))]
        )
        raise GantkError(
            f"`{path}` is not a generator, from float latents of a fixed size to pictures; it has {had}",
            where=str(path),
            hint=f"gantk run {path} runs any network",
        )
    return latent, picture


def _of_run(path: Path, threads: int) -> Painter:
    try:
        import torch
    except ImportError as error:
        raise GantkError(
            f"`{path}` is a run, which PyTorch paints, and PyTorch is not installed",
            where=str(path),
            hint="pip install 'gantk[train]', or export it where PyTorch is and use the bundle",
        ) from error
    from gantk.checkpoint import load_generator

    generator = load_generator(path)
    if generator.family not in PAIRS:
        raise GantkError(
            f"`{path}` is a network of the family {generator.family!r}, which makes pictures of pictures; "
            f"{', '.join(PAIRS)} make them of latents",
            where=str(path),
            hint=f"gantk export {path} -o X.gantk, then gantk stylize PICTURE --model X.gantk",
        )
    torch.set_num_threads(threads)

    def run(given: Array) -> Pixels:
        with torch.inference_mode():
            return to_pixels(generator.module(torch.from_numpy(given)).numpy(), (-1.0, 1.0), "NCHW")

    return Painter((int(generator.config["latent_size"]),), run, lambda: None, "torch", "fp32")
