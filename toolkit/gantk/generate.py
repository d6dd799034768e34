# SPDX-License-Identifier: Apache-2.0
"""Pictures from a trained generator: of a run, a bundle or a lone ONNX file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np

from gantk.bundle import is_bundle
from gantk.errors import GantkError, UsageError
from gantk.models import PAIRS
from gantk.runtime.cores import core_count
from gantk.runtime.model import from_path
from gantk.runtime.onnx_file import is_onnx
from gantk.runtime.pictures import Pixels, to_pixels, walk
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
        paint: From latents (N, *latent_shape), float32, and labels int64[N] where it has classes, to pixels
            (N, H, W, C).
        close: Gives back what it holds.
        backend: What computes, e.g. ``onnxruntime`` or ``torch``.
        precision: What it computes in.
        batch: The only number of latents that `paint` takes, or `None` where it takes any.
        passed_over: Why backends that come before this one did not do.
        classes: The names of the classes that labels stand for, if there are any.
    """

    latent_shape: tuple[int, ...]
    paint: Callable[..., Pixels]
    close: Callable[[], None]
    backend: str
    precision: str
    batch: int | None = None
    passed_over: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

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
    if is_bundle(path) or is_onnx(path):
        return _of_runner(open_runner(path, backend, precision, device, threads=threads), path)
    if not path.exists():
        raise GantkError(
            f"`{path}` does not exist", where=str(path), hint="a run, a bundle or an .onnx file is wanted"
        )
    if backend not in ("auto", "torch") or precision not in (None, "fp32") or device not in (None, "cpu"):
        raise UsageError(
            f"`{path}` is not a bundle: PyTorch paints it, in fp32 on the CPU",
            hint=f"gantk export {quote(str(path))} -o X.gantk makes one, for every backend and precision",
        )
    return _of_run(path, threads or core_count())


def latents(count: int, shape: tuple[int, ...], seed: int, truncation: float = 1.0) -> Array:
    """Gaussian latents (count, *shape), float32: those of a smaller count are the first ones of a larger.

    Args:
        truncation: Scales them; below 1 pictures become more typical and less varied (the psi of
            Karras et al., arXiv 1812.04948, appendix B, in the latent space itself).
    """
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32) * np.float32(truncation)


def labels(painter: Painter, count: int, name: str | None = None) -> Array | None:
    """The labels of `count` pictures, int64[count]: of the class `name`, or of each class in turn.

    Returns:
        `None` where the generator has no classes.

    Raises:
        UsageError: It has none of that name.
    """
    classes = painter.classes
    if name is None:
        return np.arange(count) % len(classes) if classes else None
    if name not in classes:
        known = f"there are {', '.join(classes)}" if classes else "it was trained without --conditional"
        raise UsageError(f"the generator has no class {name!r}; {known}", where="--class")
    return np.full(count, classes.index(name), np.int64)


def paint(
    painter: Painter,
    given: Array,
    of_class: Array | None = None,
    *,
    batch: int = 16,
    progress: Progress | None = None,
) -> Pixels:
    """Paint latents (N, ...), `batch` at a time; those of a generator with classes are of each in turn by default."""
    batch = painter.batch or batch
    of_class = labels(painter, len(given)) if of_class is None else of_class
    inputs = [given] if of_class is None else [given, of_class]
    pieces: list[Pixels] = []
    for start in range(0, len(given), batch):
        part = [array[start : start + batch] for array in inputs]
        count = len(part[0])
        if painter.batch:  # The size is fixed: the last batch is filled up with copies of its last picture.
            part = [np.concatenate([array, np.repeat(array[-1:], batch - count, axis=0)]) for array in part]
        pieces.append(painter.paint(*part)[:count])
        if progress is not None:
            progress(start + count, len(given))
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
        latent, label, picture = _generator_specs(runner, path)
        classes = _class_names(path, label)
    except GantkError:
        runner.close()
        raise
    size = latent.shape[0]

    def run(given: Array, *of_class: Array) -> Pixels:
        feeds = {latent.name: given.astype(latent.dtype)}
        if label is not None:
            feeds[label.name] = of_class[0].astype(label.dtype)
        return to_pixels(runner.run(feeds)[picture.name], picture)

    return Painter(
        latent_shape=tuple(int(size) for size in latent.shape[1:]),
        paint=run,
        close=runner.close,
        backend=runner.backend,
        precision=runner.precision,
        batch=size if isinstance(size, int) else None,
        passed_over=tuple(runner.passed_over.values()),
        classes=classes,
    )


def _class_names(path: Path, label: TensorSpec | None) -> tuple[str, ...]:
    """The classes that a label stands for, by number where the file does not name them."""
    if label is None:
        return ()
    assert label.range is not None
    count = int(label.range[1]) + 1
    names = from_path(path).config.get("classes")
    if isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names):
        return tuple(names)
    return tuple(str(place) for place in range(count))


def _generator_specs(runner: Runner, path: Path) -> tuple[TensorSpec, TensorSpec | None, TensorSpec]:
    """The latent, the label if there is one, and the picture of a network that has one of each."""
    floats, integers = ("float32", "float16"), ("int64", "int32")
    latent, *others = runner.inputs
    label = next((s for s in others if s.dtype in integers and len(s.shape) == 1 and s.range), None)
    picture = next((spec for spec in runner.outputs if len(spec.shape) == 4), None)
    fixed = all(isinstance(size, int) for size in latent.shape[1:])
    if (
        others != [spec for spec in (label,) if spec]
        or latent.dtype not in floats
        or len(latent.shape) < 2
        or not fixed
        or not picture
    ):
        had = "; ".join(
            ["in: " + ", ".join(map(str, runner.inputs)), "out: " + ", ".join(map(str, runner.outputs))]
        )
        raise GantkError(
            f"`{path}` is not a generator, from float latents of a fixed size, and labels where it has classes, "
            f"to pictures; it has {had}",
            where=str(path),
            hint=f"gantk run {quote(str(path))} runs any network",
        )
    return latent, label, picture


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
            hint=f"gantk export {quote(str(path))} -o X.gantk, then gantk stylize PICTURE --model X.gantk",
        )
    torch.set_num_threads(threads)

    def run(*given: Array) -> Pixels:
        with torch.inference_mode():
            made = generator.module(*(torch.from_numpy(array) for array in given))
            return to_pixels(made.numpy(), (-1.0, 1.0), "NCHW")

    size, classes = int(generator.config["latent_size"]), tuple(generator.config.get("classes", ()))
    return Painter((size,), run, lambda: None, "torch", "fp32", classes=classes)
