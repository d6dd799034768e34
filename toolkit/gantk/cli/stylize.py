# SPDX-License-Identifier: Apache-2.0
"""`gantk stylize`: a picture in the style of another."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gantk.cli.output import JsonOption, prose, write_json
from gantk.errors import GantkError, UsageError

if TYPE_CHECKING:
    from gantk.gatys.config import GatysConfig
    from gantk.gatys.stylize import Result

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_LOSS, _COURSE, _REGIONS, _MODEL, _COMPUTE = (
    "What to match",
    "How to get there",
    "Colours and regions",
    "With --model",
    "How to compute",
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
        int,
        typer.Option(
            help="Steps at each size up to 512 pixels; half as many with each doubling from there.",
            rich_help_panel=_COURSE,
        ),
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
        int,
        typer.Option(help="Steps between previews, written to OUT.preview.png beside -o; 0: none."),
    ] = 0,
    content_weight: Annotated[float, typer.Option(rich_help_panel=_LOSS)] = 1.0,
    style_weight: Annotated[
        float, typer.Option(help="Larger: more style, less content.", rich_help_panel=_LOSS)
    ] = 30.0,
    variation_weight: Annotated[
        float, typer.Option(help="Larger: smoother, less noise.", rich_help_panel=_LOSS)
    ] = 0.3,
    content_layers: Annotated[
        str | None,
        typer.Option(
            help="VGG-19's layers and their weights, as relu3_3:0.5,relu4_2.",
            show_default="relu4_2, or what --vgg has",
            rich_help_panel=_LOSS,
        ),
    ] = None,
    style_layers: Annotated[
        str | None,
        typer.Option(
            help="Early layers hold colours and grain, late ones larger shapes.",
            show_default="relu1_1 to relu5_1, or what --vgg has",
            rich_help_panel=_LOSS,
        ),
    ] = None,
    style_size: Annotated[
        int | None,
        typer.Option(
            help="The longer side to which style pictures are brought: smaller makes finer strokes.",
            show_default="--size",
            rich_help_panel=_LOSS,
        ),
    ] = None,
    style_share: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SHARE",
            help="Of each --style in a blend; once for each.",
            show_default="equal",
            rich_help_panel=_LOSS,
        ),
    ] = None,
    variation: Annotated[
        str, typer.Option(metavar="l1|l2|isotropic", help="Total variation.", rich_help_panel=_LOSS)
    ] = "l1",
    pooling: Annotated[
        str,
        typer.Option(metavar="max|average", help="Average is smoother.", rich_help_panel=_LOSS),
    ] = "max",
    init: Annotated[
        str,
        typer.Option(metavar="content|noise|blend", help="What to start from.", rich_help_panel=_COURSE),
    ] = "content",
    noise: Annotated[
        float, typer.Option(help="The share of noise in a blend.", rich_help_panel=_COURSE)
    ] = 0.3,
    scales: Annotated[
        int | None,
        typer.Option(
            help="Sizes from coarse to fine, each twice the one before; 1: --size alone.",
            show_default="from 64 pixels on",
            rich_help_panel=_COURSE,
        ),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(metavar="lbfgs|adam", help="L-BFGS wants fewer steps.", rich_help_panel=_COURSE)
    ] = "lbfgs",
    lr: Annotated[
        float | None,
        typer.Option(
            help="The learning rate.", show_default="1 for lbfgs, 0.02 for adam", rich_help_panel=_COURSE
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.", rich_help_panel=_COURSE)] = 0,
    keep_colors: Annotated[
        bool,
        typer.Option("--keep-colors", help="Take strokes, but no colours.", rich_help_panel=_REGIONS),
    ] = False,
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PIC",
            help="For each --style, a grey picture that is white where the result takes it.",
            show_default=False,
            rich_help_panel=_REGIONS,
        ),
    ] = None,
    style_mask: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PIC",
            help="For each --style, a grey picture that is white where it is taken from.",
            show_default=False,
            rich_help_panel=_REGIONS,
        ),
    ] = None,
    style_weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SHARE,...",
            help="A blend of the network's styles.",
            show_default=False,
            rich_help_panel=_MODEL,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="How much of a style picture's style, 0 to 1.", show_default="1", rich_help_panel=_MODEL
        ),
    ] = None,
    damp: Annotated[
        float,
        typer.Option(
            help="How much to damp a video's flicker where it stands still, 0 to 1.", rich_help_panel=_MODEL
        ),
    ] = 0.0,
    format: Annotated[  # noqa: A002
        str | None,
        typer.Option(
            metavar="png|jpg|webp",
            help="Of all outputs of a folder.",
            show_default="as the inputs",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Of .jpg and .webp.", rich_help_panel=_MODEL)
    ] = 92,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, max=64, help="Threads that decode, and as many that encode.", rich_help_panel=_MODEL
        ),
    ] = 2,
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures of one size at a time.", rich_help_panel=_MODEL)
    ] = 1,
    memory: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="What to stay within, about: larger pictures are painted in strips, with the same result.",
            rich_help_panel=_MODEL,
        ),
    ] = "2.5GiB",
    tile_above: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="MEGAPIXELS",
            help="Paint larger pictures in strips, whatever the memory.",
            show_default=False,
            rich_help_panel=_MODEL,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="onnxruntime, openvino, tensorrt, tensorrt-rtx or auto, for --model.", rich_help_panel=_MODEL
        ),
    ] = "auto",
    vgg: Annotated[
        Path | None,
        typer.Option(
            help="VGG-19's weights, .pth or .safetensors with torchvision's names; may end early.",
            show_default="fetched once",
            rich_help_panel=_COMPUTE,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|bf16",
            help="That VGG computes in, or with --model its file.",
            rich_help_panel=_COMPUTE,
        ),
    ] = "fp32",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", rich_help_panel=_COMPUTE)] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="all cores", rich_help_panel=_COMPUTE)
    ] = None,
    json: JsonOption = None,
) -> int:
    """Paint CONTENT in the style of other pictures.

    Without --model by optimising its pixels (Gatys et al., CVPR 2016); Ctrl-C ends it early and saves what there
    is. With --model by a network that was trained for it, in one go.
    """
    if model is not None:
        return _apply(context, model)
    from gantk.stylize.video import SUFFIXES

    if len(content) > 1 or content[0].is_dir() or content[0].suffix.lower() in SUFFIXES:
        raise UsageError("one picture at a time; several, a folder or a video want --model", where="CONTENT")
    wanting = next((name for name in _OF_MODELS if _is_given(context, name)), None)
    if wanting is not None:
        raise UsageError(f"--{wanting.replace('_', '-')} wants --model", hint="gantk stylize -h")
    if not style:
        raise UsageError("--style is missing: a picture in the style", hint="gantk stylize -h")
    output = output or Path(f"{content[0].stem}-stylized.png")
    return _optimize(_config(context, preset), output, curves, force, json)


def _config(context: typer.Context, preset: str | None) -> GatysConfig:
    """The configuration that the options and the preset make; what was given wins."""
    _check_installed()
    from gantk.gatys.config import GatysConfig, find_preset, parse_layers

    given = context.params
    fields: dict[str, Any] = {
        name: given[name] for name in GatysConfig.__dataclass_fields__ if name in given and name != "content"
    }
    preset_fields = find_preset(preset)
    fields |= {name: value for name, value in preset_fields.items() if not _is_given(context, name)}
    for name in ("content_layers", "style_layers"):
        if fields[name] is not None:
            fields[name] = parse_layers(fields[name], f"--{name.replace('_', '-')}")
    return GatysConfig(
        **{**fields, "vgg": None if given["vgg"] is None else str(given["vgg"])},
        content=str(given["content"][0]),
        styles=tuple(map(str, given["style"])),
        shares=tuple(given["style_share"] or ()),
        masks=tuple(map(str, given["mask"] or ())),
        style_masks=tuple(map(str, given["style_mask"] or ())),
    )


def _apply(context: typer.Context, model: Path) -> int:
    """Paint with a network, by those of the options that it has."""
    from gantk.bundle import STEP_FAMILY, Bundle, is_bundle
    from gantk.cli.applying import Request, apply

    given = {name: value for name, value in context.params.items() if _is_given(context, name)}
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
        names = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        raise UsageError(f"{names} cannot go with --model: the network decides that", hint="gantk stylize -h")
    request = Request(
        **{**known, "model": model, "inputs": given["content"], "style": str(styles[0]) if styles else None}
    )
    apply(request, given.get("json"))
    return 0


def _optimize(config: GatysConfig, output: Path, curves: Path | None, force: bool, json: str | None) -> int:
    from gantk.cli.stylizing import BarReporter
    from gantk.gatys.stylize import stylize as optimize

    curves = curves or output.with_name(f"{output.stem}.losses.png")
    reporter = BarReporter()
    try:
        result = optimize(config, output, curves=curves, force=force, reporter=reporter)
    finally:
        reporter.close()
    _tell(result, curves, config, json)
    return 130 if result.interrupted else 0


def _tell(result: Result, curves: Path, config: GatysConfig, json: str | None) -> None:
    width, height = result.size
    began = "interrupted: " if result.interrupted else ""
    prose().print(
        f"{began}wrote {result.picture} ({width} x {height}) and {curves} after {result.steps} steps "
        f"in {result.seconds:.0f} s",
    )
    if json is not None:
        facts = {**asdict(result), "size": [width, height], "curves": str(curves)}
        write_json({**facts, "config": config.to_json()}, json)


def _is_given(context: typer.Context, name: str) -> bool:
    source: Any = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _check_installed() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise GantkError(
            "stylising by optimisation wants torch, which is not installed",
            hint="pip install 'gantk[train]'; a bundle needs no torch: gantk stylize CONTENT --model X.gantk",
        )
