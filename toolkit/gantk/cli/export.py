# SPDX-License-Identifier: Apache-2.0
"""`gantk export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gantk.bundle import is_bundle
from gantk.cli.building import (
    ONNX,
    EngineOptions,
    Max,
    Min,
    NoPlugins,
    Opt,
    Reproducible,
    Target,
    Tf32,
    To,
    Workspace,
    build_into,
    listed,
    make_request,
)
from gantk.cli.exported import tell
from gantk.cli.output import JsonOption, prose
from gantk.errors import UsageError

if TYPE_CHECKING:
    from gantk.export.engines.pipeline import EngineRequest

app = typer.Typer(add_completion=False)

_STEP = "The step of an optimisation"
_QUANTISED = "int8 and fp8"


@app.command(
    "export",
    epilog="[bold]Examples[/bold]\n\n"
    "gantk export runs/flowers -o flowers.gantk\n\n"
    "gantk export runs/flowers -o flowers.gantk --precision fp32,fp16,bf16 --force\n\n"
    "gantk export runs/flowers -o pixels.gantk --pictures\n\n"
    "gantk export runs/candy -o candy.gantk --precision fp32,bf16\n\n"
    "gantk export runs/candy -o candy.gantk --precision fp32,int8 --calibrate ~/photos --psnr-min 35\n\n"
    "gantk export --gatys --vgg vgg19.pth -o step.gantk\n\n"
    "gantk export runs/flowers -o flowers.gantk --to onnx,tensorrt-rtx\n\n"
    "gantk export flowers.gantk --to tensorrt-rtx --target sm_89,sm_120 --precision fp16\n\n"
    "gantk export mosaic.gantk --to tensorrt-rtx --min picture=1x256x256x3 --max picture=1x1080x1920x3\n\n"
    "gantk export someone-elses.onnx --to tensorrt-rtx",
)
def export_command(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|FILE",
            help="A run folder, a checkpoint file, or a bundle; for engines also an .onnx file.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="X.gantk", show_default="NAME.gantk", help="The bundle to write."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="P,...",
            help="Variants to make: fp32, fp16, bf16, int8, fp8; with --gatys fp32, bf16. Engines have the same.",
            show_default="fp32,fp16; with --gatys fp32",
        ),
    ] = None,
    pictures: Annotated[
        bool | None,
        typer.Option(
            "--pictures/--no-pictures",
            show_default="where the network takes pictures",
            help="Let pictures be pixels, in and out: uint8, height x width x channels; else float32.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    no_rewrite: Annotated[
        bool,
        typer.Option(
            "--no-rewrite", help="Do not try rewrites; saves the seconds that measuring them takes."
        ),
    ] = False,
    tiles: Annotated[
        bool,
        typer.Option(
            "--tiles",
            help="For programs that paint tiles of a picture with a style network: a further file that takes the "
            "statistics of its normalisations as an input. gantk stylize does without.",
        ),
    ] = False,
    psnr_min: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=200.0,
            metavar="DB",
            show_default="by precision",
            help="Smallest PSNR against PyTorch.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Pictures such as the network will get, from which int8 and fp8 take the ranges of tensors.",
            show_default=False,
            rich_help_panel=_QUANTISED,
        ),
    ] = None,
    calibrate_count: Annotated[
        int, typer.Option(min=1, help="How many of them.", rich_help_panel=_QUANTISED)
    ] = 32,
    calibration: Annotated[
        str,
        typer.Option(
            metavar="minmax|percentile|entropy",
            help="How a range follows from a tensor's values.",
            rich_help_panel=_QUANTISED,
        ),
    ] = "minmax",
    gatys: Annotated[
        bool,
        typer.Option(
            "--gatys",
            help="Export the step of gantk stylize's optimisation instead of a network: its gradient, its update "
            "by Adam, and what it compares with, for pictures of any size.",
            rich_help_panel=_STEP,
        ),
    ] = False,
    vgg: Annotated[
        Path | None,
        typer.Option(
            help="VGG-19's weights, .pth or .safetensors with torchvision's names; may end early.",
            show_default="fetched once",
            rich_help_panel=_STEP,
        ),
    ] = None,
    style_layers: Annotated[
        str | None,
        typer.Option(
            metavar="L,...",
            help="VGG-19's layers that tell style.",
            show_default="relu1_1 to relu5_1, or what --vgg has",
            rich_help_panel=_STEP,
        ),
    ] = None,
    content_layer: Annotated[
        str | None,
        typer.Option(
            metavar="L",
            help="The layer that tells content.",
            show_default="relu4_2, or what --vgg has",
            rich_help_panel=_STEP,
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="max|average",
            help="Average is smoother, and faster.",
            show_default="max",
            rich_help_panel=_STEP,
        ),
    ] = None,
    variation: Annotated[
        str | None,
        typer.Option(
            metavar="l1|l2|isotropic", help="Total variation.", show_default="l1", rich_help_panel=_STEP
        ),
    ] = None,
    to: To = ONNX,
    target: Target = None,
    tf32: Tf32 = False,
    min_: Min = None,
    opt: Opt = None,
    max_: Max = None,
    workspace: Workspace = None,
    engine_options: EngineOptions = None,
    no_plugins: NoPlugins = False,
    reproducible: Reproducible = False,
    json: JsonOption = None,
) -> None:
    """Turn a training run into a verified bundle, and its files into TensorRT engines.

    A network that takes pictures, as those for styles do, takes and yields pixels of any height and width.

    Every file is compared with PyTorch on every backend that works here, before anything is written. A file
    that is too far off, or yields NaN or one constant, is refused, and the layer at fault is named.

    Engines are strongly typed: their layers compute in the types of the file, and an engine that does not is refused.
    One that cannot run where it is built is called unverified until it has been run with the bundle's probe.
    """
    request = make_request(
        to,
        precision,
        {
            "--target": target,
            "--tf32": tf32,
            "--min": min_,
            "--opt": opt,
            "--max": max_,
            "--workspace": workspace,
            "--engine-options": engine_options,
            "--no-plugins": no_plugins,
            "--reproducible": reproducible,
        },
    )
    step = {
        "--vgg": vgg,
        "--style-layers": style_layers,
        "--content-layer": content_layer,
        "--pooling": pooling,
        "--variation": variation,
    }
    if gatys:
        _refuse_given(
            {"RUN|FILE": source, "--pictures": pictures, "--no-rewrite": no_rewrite, "--tiles": tiles}
        )
        output = output or Path("step.gantk")
        _export_step(step, output, listed(precision or "fp32"), force, psnr_min, request, json)
        return
    given = next((option for option, value in step.items() if value is not None), None)
    if given is not None:
        raise UsageError(f"{given} wants --gatys", hint="gantk export -h")
    if source is None:
        raise UsageError("there is nothing to export: a run folder, a checkpoint file or a bundle is wanted")
    console = prose()
    if request is not None and ((is_bundle(source) and ONNX not in listed(to)) or source.suffix == ".onnx"):
        tell(console, build_into(source, output, request, force), json)
        return
    with console.status("loading PyTorch") as status:
        from gantk.export import export
        from gantk.export.calibration import Calibration

        def report(line: str) -> None:
            status.update(line.strip())
            if line.startswith(" "):
                console.print(line)

        output = output or Path(f"{source.resolve().with_suffix('').name}.gantk")
        bundle = export(
            source,
            output,
            precisions=listed(precision or "fp32,fp16"),
            pictures=pictures,
            force=force,
            rewrites=not no_rewrite,
            tiles=tiles,
            psnr_min=psnr_min,
            calibration=Calibration(calibrate, calibrate_count, calibration),
            engines=request,
            report=report,
            progress=lambda phase, done, steps: status.update(f"{phase}: {done} of {steps}"),
        )
    tell(console, bundle, json)


def _export_step(
    step: Mapping[str, Any],
    output: Path,
    precisions: Sequence[str],
    force: bool,
    psnr_min: float | None,
    request: EngineRequest | None,
    json: str | None,
) -> None:
    """`gantk export --gatys`."""
    console = prose()
    with console.status("loading PyTorch") as status:
        from gantk.export.gatys.pipeline import export_step

        bundle = export_step(
            step["--vgg"],
            output,
            style_layers=listed(step["--style-layers"]) if step["--style-layers"] else None,
            content_layer=step["--content-layer"],
            pooling=step["--pooling"] or "max",
            variation=step["--variation"] or "l1",
            precisions=precisions,
            force=force,
            psnr_min=psnr_min,
            engines=request,
            report=status.update,
            building=lambda phase, done, steps: status.update(f"{phase}: {done} of {steps}"),
            progress=lambda done, total: status.update(
                f"fetching VGG-19: {done // 10**6} of {total // 10**6} MB"
            ),
        )
    tell(console, bundle, json)
    console.print(
        f"next: [bold]gantk stylize CONTENT --style PICTURE --model {bundle.root}[/bold]", soft_wrap=True
    )


def _refuse_given(options: Mapping[str, Any]) -> None:
    given = next((option for option, value in options.items() if value not in (None, False)), None)
    if given is not None:
        raise UsageError(f"{given} cannot go with --gatys, which exports a step and no network")
