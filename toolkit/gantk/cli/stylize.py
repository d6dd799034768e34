# SPDX-License-Identifier: Apache-2.0
"""`gantk stylize`: a picture in the style of another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gantk.cli.given import given_options
from gantk.cli.output import JsonOption
from gantk.errors import UsageError
from gantk.options import option_of

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_loss, _course, _regions, _network, _compute = (
    partial(typer.Option, rich_help_panel=panel)
    for panel in (
        "What to match",
        "How to get there",
        "Colours and regions",
        "With --model",
        "How to compute",
    )
)
_OF_MODELS = (
    "style_weights", "alpha", "damp", "format", "quality", "jobs", "batch", "memory", "tile_above", "backend",
)  # fmt: skip
_EPILOG = """[bold]Examples[/bold]

gantk stylize kitten.jpg --style starry_night.jpg -o kitten.png

gantk stylize kitten.jpg --style starry_night.jpg --init noise --style-weight 30 --keep-colors

gantk stylize town.jpg --style a.jpg --style b.jpg --mask sky.png --mask ground.png --size 1024

gantk stylize kitten.jpg --style marc.jpg --preset lesson-blend --curves losses.png

gantk stylize kitten.jpg --style marc.jpg --model step.gantk      # exported with gantk export --gatys; no torch

gantk stylize kitten.jpg --model mosaic.gantk -o kitten.png

gantk stylize holidays/ --model many.gantk --style candy -o painted/ --format jpg

gantk stylize clip.mp4 --model many.gantk --style-weights mosaic=0.7,candy=0.3 --damp 0.7

gantk stylize kitten.jpg --model any.gantk --style starry_night.jpg --alpha 0.8"""


@app.command(epilog=_EPILOG)
def stylize(
    context: typer.Context,
    content: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONTENT",
            help="The picture to paint anew; with --model also several, a folder, or a video.",
            show_default=False,
        ),
    ],
    style: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PIC",
            help="A picture in the style; several are blended. With --model: a style of the network, by name or "
            "index, or a picture for a network that takes one.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="X.gantk",
            help="Paint with this bundle in one go, instead of optimising.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .png, .webp or .jpg; a folder for a folder; an .mp4, .mkv, .mov or .webm for a video.",
            show_default="CONTENT-stylized, here",
        ),
    ] = None,
    size: Annotated[
        int,
        typer.Option(
            help="The longer side of the result in pixels, up to 4096; with --model, the size that larger pictures "
            "are reduced to.",
            show_default="256; with --model as it is",
        ),
    ] = 256,
    steps: Annotated[
        int, _course(help="Steps at each size up to 512 pixels; half as many with each doubling from there.")
    ] = 200,
    preset: Annotated[
        str | None,
        typer.Option(
            help="lesson-content-noise, lesson-style-noise or lesson-blend: a run of the lesson on style "
            "transfer; options that are given win.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    curves: Annotated[
        Path | None,
        typer.Option(help="A .png for the curves of the losses.", show_default="OUT.losses.png beside -o"),
    ] = None,
    preview_every: Annotated[
        int, typer.Option(help="Steps between previews, written to OUT.preview.png beside -o; 0: none.")
    ] = 0,
    content_weight: Annotated[float, _loss()] = 1.0,
    style_weight: Annotated[float, _loss(help="Larger: more style, less content.")] = 30.0,
    variation_weight: Annotated[float, _loss(help="Larger: smoother, less noise.")] = 0.3,
    content_layers: Annotated[
        str | None,
        _loss(
            help="VGG-19's layers and their weights, as relu3_3:0.5,relu4_2.",
            show_default="relu4_2, or what --vgg has",
        ),
    ] = None,
    style_layers: Annotated[
        str | None,
        _loss(
            help="Early layers hold colours and grain, late ones larger shapes.",
            show_default="relu1_1 to relu5_1, or what --vgg has",
        ),
    ] = None,
    style_size: Annotated[
        int | None,
        _loss(
            help="The longer side to which style pictures are brought: smaller makes finer strokes.",
            show_default="--size",
        ),
    ] = None,
    style_share: Annotated[
        list[float] | None,
        _loss(metavar="SHARE", help="Of each --style in a blend; once for each.", show_default="equal"),
    ] = None,
    variation: Annotated[str, _loss(metavar="l1|l2|isotropic", help="Total variation.")] = "l1",
    pooling: Annotated[str, _loss(metavar="max|average", help="Average is smoother.")] = "max",
    init: Annotated[str, _course(metavar="content|noise|blend", help="What to start from.")] = "content",
    noise: Annotated[float, _course(help="The share of noise in a blend.")] = 0.3,
    scales: Annotated[
        int | None,
        _course(
            help="Sizes from coarse to fine, each twice the one before; 1: --size alone.",
            show_default="from 64 pixels on",
        ),
    ] = None,
    optimizer: Annotated[str, _course(metavar="lbfgs|adam", help="L-BFGS wants fewer steps.")] = "lbfgs",
    lr: Annotated[
        float | None, _course(help="The learning rate.", show_default="1 for lbfgs, 0.02 for adam")
    ] = None,
    seed: Annotated[int, _course(help="Of the noise.")] = 0,
    keep_colors: Annotated[bool, _regions("--keep-colors", help="Take strokes, but no colours.")] = False,
    mask: Annotated[
        list[Path] | None,
        _regions(
            metavar="PIC",
            help="For each --style, a grey picture that is white where the result takes it.",
            show_default=False,
        ),
    ] = None,
    style_mask: Annotated[
        list[Path] | None,
        _regions(
            metavar="PIC",
            help="For each --style, a grey picture that is white where it is taken from.",
            show_default=False,
        ),
    ] = None,
    style_weights: Annotated[
        str | None,
        _network(metavar="NAME=SHARE,...", help="A blend of the network's styles.", show_default=False),
    ] = None,
    alpha: Annotated[
        float | None, _network(help="How much of a style picture's style, 0 to 1.", show_default="1")
    ] = None,
    damp: Annotated[
        float, _network(help="How much to damp a video's flicker where it stands still, 0 to 1.")
    ] = 0.0,
    format: Annotated[  # noqa: A002
        str | None,
        _network(metavar="png|jpg|webp", help="Of all outputs of a folder.", show_default="as the inputs"),
    ] = None,
    quality: Annotated[int, _network(min=1, max=100, help="Of .jpg and .webp.")] = 92,
    jobs: Annotated[int, _network(min=1, max=64, help="Threads that decode, and as many that encode.")] = 2,
    batch: Annotated[int, _network(min=1, help="Pictures of one size at a time.")] = 1,
    memory: Annotated[
        str,
        _network(
            metavar="SIZE",
            help="What to stay within, about: larger pictures are painted in strips, with the same result.",
        ),
    ] = "2.5GiB",
    tile_above: Annotated[
        float | None,
        _network(
            min=0.0,
            metavar="MEGAPIXELS",
            help="Paint larger pictures in strips, whatever the memory.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str, _network(help="onnxruntime, openvino, tensorrt, tensorrt-rtx or auto, for --model.")
    ] = "auto",
    vgg: Annotated[
        Path | None,
        _compute(
            help="VGG-19's weights, .pth or .safetensors with torchvision's names; may end early.",
            show_default="fetched once",
        ),
    ] = None,
    precision: Annotated[
        str,
        _compute(
            metavar="auto|fp32|bf16",
            help="That VGG computes in. auto: bf16 where the hardware computes in it, else fp32. With --model, of its "
            "files (also fp16, int8, fp8); auto: fp32 where there is one.",
        ),
    ] = "auto",
    device: Annotated[str, _compute(metavar="auto|cpu|cuda")] = "auto",
    threads: Annotated[int | None, _compute(help="CPU threads.", show_default="all cores")] = None,
    json: JsonOption = None,
) -> int:
    """Paint CONTENT in the style of other pictures.

    Without --model by optimising its pixels (Gatys et al., CVPR 2016); Ctrl-C ends it early and saves what there
    is. With --model by a network that was trained for it, in one go.
    """
    given = given_options(context)
    if model is not None:
        return _with_model(model, given)
    from gantk.stylize.video import SUFFIXES

    if len(content) > 1 or content[0].is_dir() or content[0].suffix.lower() in SUFFIXES:
        raise UsageError("one picture at a time; several, a folder or a video want --model", where="CONTENT")
    wanting = next((name for name in _OF_MODELS if name in given), None)
    if wanting is not None:
        raise UsageError(f"{option_of(wanting)} wants --model", hint="gantk stylize -h")
    if not style:
        raise UsageError("--style is missing: a picture in the style", hint="gantk stylize -h")
    from gantk.cli.stylizing import configure, optimise_with_torch

    output = output or Path(f"{content[0].stem}-stylized.png")
    return optimise_with_torch(configure(context.params, given), output, curves, force, json)


def _with_model(model: Path, given: dict[str, Any]) -> int:
    """Paint with a network or by an exported step, by those of the options that it has."""
    from gantk.bundle import STEP_FAMILY, Bundle, is_bundle
    from gantk.cli.applying import Request, apply

    if given.get("precision") == "auto":
        del given["precision"]
    if is_bundle(model) and Bundle.read(model).manifest.family == STEP_FAMILY:
        from gantk.cli.optimising import optimise_command
        from gantk.gatys.config import find_preset

        return optimise_command(model, given, find_preset(given.get("preset")))
    styles = given.pop("style", [])
    if len(styles) > 1:
        raise UsageError("one style at a time; --style-weights blends", where="--style")
    about = {"model", "content", "json"}
    known = {name: value for name, value in given.items() if name in Request.__dataclass_fields__}
    foreign = sorted(given.keys() - known.keys() - about)
    if foreign:
        names = ", ".join(map(option_of, foreign))
        raise UsageError(f"{names} cannot go with --model: the network decides that", hint="gantk stylize -h")
    request = Request(
        **{**known, "model": model, "inputs": given["content"], "style": str(styles[0]) if styles else None}
    )
    apply(request, given.get("json"))
    return 0
