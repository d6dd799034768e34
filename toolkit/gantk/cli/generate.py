# SPDX-License-Identifier: Apache-2.0
"""`gantk generate`: pictures from a trained generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gantk.cli.output import JsonOption, check_outputs, progress, prose, write_json
from gantk.errors import UsageError

if TYPE_CHECKING:
    from gantk.generate import Painter
    from gantk.runtime.pictures import Pixels
    from gantk.runtime.runner import Array

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_PICTURES, _WALK, _COMPUTE = "What to paint", "Walk", "How to compute"
_EPILOG = """[bold]Examples[/bold]

gantk generate runs/flowers -n 64 --seed 7 -o grid.png

gantk generate flowers.gantk -n 1000 -o pictures/ --backend openvino

gantk generate digits.gantk --class 7 -n 16 -o sevens.png

gantk generate flowers.gantk --walk -n 9 -o walk.webp --frames 120"""


@app.command(epilog=_EPILOG)
def generate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|X.gantk", help="A run, a checkpoint, a bundle or an .onnx file.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .png, .webp or .jpg for a grid; a folder (ending in /) for single pictures; "
            "a .gif or .webp for a walk.",
            show_default="grid.png, or walk.webp",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="How many pictures.", show_default="64, or 16 walking"),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Chooses the pictures; the same on every backend.", rich_help_panel=_PICTURES
        ),
    ] = 0,
    truncation: Annotated[
        float,
        typer.Option(
            min=0.0, help="Scales the latents: below 1 more typical, less varied.", rich_help_panel=_PICTURES
        ),
    ] = 1.0,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Of a generator with classes, the one to paint.",
            show_default="each in turn",
            rich_help_panel=_PICTURES,
        ),
    ] = None,
    columns: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures in a row of a grid.",
            show_default="a square, or one for each class",
            rich_help_panel=_PICTURES,
        ),
    ] = None,
    each: Annotated[
        bool,
        typer.Option("--each", help="Save single pictures into the folder -o.", rich_help_panel=_PICTURES),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that exist.", rich_help_panel=_PICTURES)
    ] = False,
    walk: Annotated[
        bool,
        typer.Option(
            "--walk", help="An endless animated walk through the latent space.", rich_help_panel=_WALK
        ),
    ] = False,
    frames: Annotated[
        int, typer.Option(min=2, max=10000, help="Of the whole walk.", rich_help_panel=_WALK)
    ] = 60,
    fps: Annotated[
        float, typer.Option(min=0.1, max=1000, help="Frames a second.", rich_help_panel=_WALK)
    ] = 20.0,
    stops: Annotated[
        int, typer.Option(min=2, max=1000, help="Random latents that a walk visits.", rich_help_panel=_WALK)
    ] = 4,
    backend: Annotated[
        str,
        typer.Option(
            help="onnxruntime, openvino, tensorrt, tensorrt-rtx or auto, for a bundle.",
            rich_help_panel=_COMPUTE,
        ),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16, int8 or fp8; of engines also tf32.",
            show_default="fp32",
            rich_help_panel=_COMPUTE,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.", show_default="the best", rich_help_panel=_COMPUTE)
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.", rich_help_panel=_COMPUTE)] = 16,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads.", show_default="all cores", rich_help_panel=_COMPUTE),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Make pictures: a grid, a folder of single ones, or an endless walk through the latent space."""
    single = not walk and (each or (output is not None and _is_folder(output)))
    output = output or Path("walk.webp" if walk else "pictures" if each else "grid.png")
    count = count or (16 if walk else 64)
    targets = _targets(output, count, single, walk)
    check_outputs(targets, force=force)
    from gantk.generate import labels, latents, open_painter, walk_latents
    from gantk.runtime.pictures import class_columns, grid, save, save_animation

    with open_painter(source, backend, precision, device, threads) as painter:
        shape = painter.latent_shape
        if walk:
            given = walk_latents(count, shape, seed, stops=stops, frames=frames, truncation=truncation)
        else:
            given = latents(count, shape, seed, truncation)[None]
        pixels = _painted(painter, given, labels(painter, count, class_name), batch)
        if class_name is None:
            columns = columns or class_columns(len(painter.classes))
    if walk:
        save_animation(output, [grid(frame, columns) for frame in pixels], fps)
    elif single:
        for target, picture in zip(targets, pixels[0], strict=True):
            save(target, picture)
    else:
        save(output, grid(pixels[0], columns))
    for reason in painter.passed_over:
        prose().print(f"passed over: {reason}")
    shown = f"{output}/ ({len(targets)} files)" if len(targets) > 1 else str(targets[0])
    prose().print(f"wrote {shown} with {painter.backend} in {painter.precision}")
    if json is not None:
        write_json(
            {
                "files": [str(target) for target in targets],
                "pictures": count,
                "frames": frames if walk else None,
                "seed": seed,
                "backend": painter.backend,
                "precision": painter.precision,
            },
            json,
        )


def _is_folder(path: Path) -> bool:
    return path.is_dir() or path.suffix == ""


def _targets(output: Path, count: int, single: bool, walk: bool) -> list[Path]:
    """The files that will be written, after their names have been checked."""
    from gantk.runtime.pictures import ANIMATED_FORMATS, FORMATS, check_suffix

    if single:
        if output.is_file() or output.suffix.lower() in FORMATS:
            raise UsageError(
                f"`{output}` is a file; single pictures want a folder", hint=f"-o {output.stem}/"
            )
        return [output / f"{index:0{max(4, len(str(count - 1)))}d}.png" for index in range(count)]
    check_suffix(output, ANIMATED_FORMATS if walk else FORMATS)
    return [output]


def _painted(painter: Painter, given: Array, of_class: Array | None, batch: int) -> Pixels:
    """Paint latents (frames, count, ...) with a bar; pixels (frames, count, H, W, C)."""
    import numpy as np

    from gantk.generate import paint

    flat = given.reshape(-1, *given.shape[2:])
    flat_class = None if of_class is None else np.tile(of_class, len(given))
    with progress() as bar:
        task = bar.add_task("painting", total=len(flat), note="")
        pixels = paint(
            painter,
            flat,
            flat_class,
            batch=batch,
            progress=lambda done, total: bar.update(task, completed=done),
        )
    return pixels.reshape(*given.shape[:2], *pixels.shape[1:])
