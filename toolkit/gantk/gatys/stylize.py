# SPDX-License-Identifier: Apache-2.0
"""A whole optimisation: from files, over sizes from coarse to fine, to files."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from gantk.errors import UsageError
from gantk.files import write_bytes
from gantk.gatys import pictures
from gantk.gatys.config import GatysConfig
from gantk.gatys.curves import draw_curves
from gantk.gatys.descent import descend
from gantk.gatys.layers import Judge, open_judge
from gantk.gatys.objective import Objective
from gantk.gatys.reporter import Reporter
from gantk.gatys.targets import make_objective
from gantk.models.vgg import smallest_size
from gantk.runtime.cores import core_count
from gantk.runtime.pictures import FORMATS, Pixels, save
from gantk.stylize.resample import fitted
from gantk.stylize.schedule import Losses, Optimised, check_target, plan_sizes, preview_path, steps_at
from gantk.train.interrupt import Interruption
from gantk.train.memory import named_exhaustion
from gantk.train.options import best_precision


@dataclass(frozen=True)
class Result(Optimised):
    """What an optimisation made, and what it was judged by.

    Args:
        precision: What VGG computed in.
        notes: Sentences on what was chosen.
        content_layers: The layers that told content, each with its weight.
        style_layers: The layers that told style.
    """

    precision: str
    notes: tuple[str, ...]
    content_layers: tuple[tuple[str, float], ...]
    style_layers: tuple[tuple[str, float], ...]


@dataclass
class _Files:
    """The decoded pictures."""

    content: Pixels
    styles: list[Pixels]
    masks: list[Pixels]
    style_masks: list[Pixels]


@dataclass
class _Sitting:
    """What goes on while a picture is optimised."""

    config: GatysConfig
    out: Path
    reporter: Reporter
    total: int
    interruption: Interruption
    history: list[Losses] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


def stylize(
    config: GatysConfig,
    out: Path,
    *,
    curves: Path | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Paint a picture in a style by optimising it, and save it.

    The first Ctrl-C ends it after its step, and saves what there is.

    Args:
        config: Everything else.
        out: The file to make: .png, .webp or .jpg. Previews go beside it, as ``NAME.preview.png``.
        curves: A PNG file for the curves of the losses; by default none.
        force: Whether to replace files that exist.
        reporter: Told of everything.

    Raises:
        UsageError: `out` has another suffix, or a picture is too narrow.
        GantkError: A picture or the weights cannot be read, a file cannot be written or exists, or the memory is
            full.
    """
    reporter = reporter or Reporter()
    check_target(out, FORMATS, force=force)
    if curves is not None:
        check_target(curves, {".png": "PNG"}, force=force)
    files = _read(config)
    device = _device(config.device)
    if config.precision == "auto":
        config = replace(config, precision=best_precision(device.type))
    torch.set_num_threads(config.threads or core_count())
    judge = open_judge(config, device, reporter.fetching)
    for note in judge.notes:
        reporter.say(note)
    sizes = plan_sizes(config, files.content, smallest_size(judge.network.last))
    _check_sizes(config, files, judge, sizes)
    began_s = time.perf_counter()
    with Interruption() as interruption, torch.no_grad(), named_exhaustion("a smaller --size"):
        total = sum(steps_at(config.steps, size) for size in sizes)
        sitting = _Sitting(config, out, reporter, total, interruption)
        picture = _paint(sitting, files, judge, sizes, device)
        pixels = _finished(sitting, files, picture)
        save(out, pixels)
        if curves is not None:
            write_bytes(curves, draw_curves(sitting.history, sitting.sizes))
        return Result(
            out,
            (pixels.shape[1], pixels.shape[0]),
            len(sitting.history),
            sitting.history[-1],
            time.perf_counter() - began_s,
            interruption.requested,
            config.precision,
            judge.notes,
            judge.content,
            judge.style,
        )


def _paint(sitting: _Sitting, files: _Files, judge: Judge, sizes: list[int], device: torch.device) -> Tensor:
    """The picture at the last size, or that at which it was interrupted."""
    config, picture = sitting.config, None
    for longer in sizes:
        content, objective = _objective(config, files, judge, longer, device)
        start = (
            _start(config, content)
            if picture is None
            else pictures.enlarge(picture, (content.shape[2], content.shape[3]))
        )

        def on_step(number: int, losses: Losses, now: Tensor, longer: int = longer) -> bool:
            sitting.history.append(losses)
            sitting.sizes.append(longer)
            done = len(sitting.history)
            sitting.reporter.step(done, sitting.total, longer, losses)
            if config.preview_every and done % config.preview_every == 0:
                save(preview_path(sitting.out), _finished(sitting, files, now))
            return not sitting.interruption.requested

        picture = descend(objective, start, config, steps_at(config.steps, longer), on_step)
        if sitting.interruption.requested:
            break
    assert picture is not None
    return picture


def _objective(
    config: GatysConfig, files: _Files, judge: Judge, longer: int, device: torch.device
) -> tuple[Tensor, Objective]:
    """The content picture and what is wanted, at one size."""
    size = fitted(files.content, longer)
    content = pictures.to_tensor(files.content, size).to(device)
    share = longer / config.size
    style_longer = round((config.style_size or config.size) * share)
    sizes = [fitted(pixels, style_longer) for pixels in files.styles]
    styles = [pictures.to_tensor(p, s).to(device) for p, s in zip(files.styles, sizes, strict=True)]
    if config.keep_colors:
        content = pictures.luminance(content)
        styles = [pictures.match_luminance(pictures.luminance(style), content) for style in styles]
    masks = [pictures.to_tensor(mask, size).to(device) for mask in files.masks]
    style_masks = [
        pictures.to_tensor(mask, s).to(device) for mask, s in zip(files.style_masks, sizes, strict=False)
    ]
    return content, make_objective(config, judge, content, styles, masks, style_masks)


def _start(config: GatysConfig, content: Tensor) -> Tensor:
    share = {"content": 0.0, "noise": 1.0, "blend": config.noise}[config.init]
    rng = torch.Generator().manual_seed(config.seed)  # On the CPU, so that a seed is the same everywhere.
    noise = torch.rand(content.shape, generator=rng).to(content.device)
    if config.keep_colors:
        noise = pictures.luminance(noise)
    return content.lerp(noise, share)


def _finished(sitting: _Sitting, files: _Files, picture: Tensor) -> Pixels:
    """The pixels of a picture, with the content's colours where they are kept."""
    if sitting.config.keep_colors:
        size = (picture.shape[2], picture.shape[3])
        picture = pictures.with_colours_of(
            picture.clamp(0, 1), pictures.to_tensor(files.content, size).to(picture)
        )
    return pictures.to_pixels(picture)


def _check_sizes(config: GatysConfig, files: _Files, judge: Judge, sizes: list[int]) -> None:
    """Refuse pictures that are too small for a layer to have features."""
    layer = judge.network.last
    smallest = smallest_size(layer)
    pictures.check_size(config.content, fitted(files.content, config.size), smallest, layer, "--size")
    style_size = config.style_size or config.size
    for name, pixels in zip(config.styles, files.styles, strict=True):
        longer = round(style_size * sizes[0] / config.size)
        pictures.check_size(name, fitted(pixels, longer), smallest, layer, "--style-size")


def _read(config: GatysConfig) -> _Files:
    return _Files(
        pictures.read(config.content),
        [pictures.read(path) for path in config.styles],
        [pictures.read_mask(path) for path in config.masks],
        [pictures.read_mask(path) for path in config.style_masks],
    )


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is 'cuda' and torch finds no CUDA device here", hint="--device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
