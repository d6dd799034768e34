# SPDX-License-Identifier: Apache-2.0
"""`gantk export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    parse_precisions,
)
from gantk.cli.exported import manifest_of, tell
from gantk.cli.foreign import bundle_file_into, make_calibration, refuse_given, refuse_unquantised
from gantk.cli.output import JsonOption, prose, spinner
from gantk.cli.step import (
    ContentLayer,
    Gatys,
    Pooling,
    StyleLayers,
    Variation,
    Vgg,
    export_step_into,
)
from gantk.errors import GantkError, UsageError
from gantk.files import named_errors, resolved
from gantk.runtime.onnx_file import is_onnx

app = typer.Typer(add_completion=False)

_QUANTISED = "int8 and fp8"
_FOR_OTHERS = "tells how ONNX files are made, and engines are built from those that are there"


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
    "gantk export theirs.onnx -o theirs.gantk\n\n"
    "gantk export fastgan.onnx --noise constant --precision fp32,bf16\n\n"
    "gantk export theirs.onnx --to tensorrt-rtx --precision fp16",
)
def export_command(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|FILE",
            help="A run folder, a checkpoint file, a bundle, or an .onnx file.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="X.gantk",
            show_default="NAME.gantk here, or beside an .onnx file",
            help="The bundle to write.",
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
            help="Smallest PSNR against PyTorch, or against the .onnx file.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Pictures such as the network will get, from which int8 and fp8 take the ranges of tensors; "
            "of an .onnx file arrays, .npy or .npz by the names of its inputs, which also judge what is made of it.",
            show_default=False,
            rich_help_panel=_QUANTISED,
        ),
    ] = None,
    calibrate_count: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many; 3 others judge the file.", show_default="32", rich_help_panel=_QUANTISED
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="minmax|percentile|entropy",
            help="How a range follows from a tensor's values.",
            show_default="minmax",
            rich_help_panel=_QUANTISED,
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            metavar="constant|zero",
            help="What becomes of noise that an .onnx file draws in each run, as StyleGAN and FastGAN do: drawn once, "
            "or left out. Else nothing can be compared with it.",
            show_default=False,
        ),
    ] = None,
    gatys: Gatys = False,
    vgg: Vgg = None,
    style_layers: StyleLayers = None,
    content_layer: ContentLayer = None,
    pooling: Pooling = None,
    variation: Variation = None,
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

    An .onnx file from elsewhere becomes a bundle too: rewritten where that is faster here, in other precisions, and as
    engines, all compared with what the file itself computes.

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
    quantised = {
        "--calibrate": calibrate,
        "--calibrate-count": calibrate_count,
        "--calibration": calibration,
    }
    making = {
        "--no-pictures" if pictures is False else "--pictures": None if pictures is None else True,
        "--no-rewrite": no_rewrite,
        "--tiles": tiles,
        "--noise": noise,
    }
    precisions = parse_precisions(precision)
    _check_output(output)
    if gatys:
        refuse_given(
            {"RUN|FILE": source, **making, **quantised},
            "cannot go with --gatys, which exports a step and no network",
        )
        output = output or Path("step.gantk")
        export_step_into(step, output, precisions or ("fp32",), force, psnr_min, request, json)
        return
    refuse_given(step, "wants --gatys", hint="gantk export -h")
    source = _existing(source)
    if is_onnx(source):
        of_runs = {
            option: value for option, value in making.items() if option not in ("--no-rewrite", "--noise")
        }
        refuse_given(of_runs, "is of networks that gantk traces, and a file is as it is", hint="leave it out")
        rewrites = not no_rewrite
        bundle_file_into(
            source, output, request, precisions, quantised, psnr_min, rewrites, noise, force, json
        )
        return
    refuse_given({"--noise": noise}, "is for .onnx files: gantk's own networks draw no noise", "leave it out")
    if request is not None and is_bundle(source) and ONNX not in listed(to):
        refuse_given(
            {**making, **quantised, "--psnr-min": psnr_min},
            _FOR_OTHERS,
            hint="leave it out; gantk export RUN makes ONNX files",
        )
        before = manifest_of(source)
        tell(prose(), build_into(source, output or source, request), json, before)
        return
    precisions = precisions or ("fp32", "fp16")
    refuse_unquantised(quantised, precisions)
    output = output or Path(f"{resolved(source).with_suffix('').name}.gantk")
    console, before = prose(), manifest_of(output)
    with spinner(console, "loading PyTorch") as show:
        from gantk.export import export

        def report(line: str) -> None:
            show(line)
            if line.startswith(" "):
                console.print(line)

        bundle = export(
            source,
            output,
            precisions=precisions,
            pictures=pictures,
            force=force,
            rewrites=not no_rewrite,
            tiles=tiles,
            psnr_min=psnr_min,
            calibration=make_calibration(quantised),
            engines=request,
            report=report,
            progress=lambda phase, done, steps: show(f"{phase}: {done} of {steps}"),
        )
    tell(console, bundle, json, before)


def _check_output(output: Path | None) -> None:
    """Refuse the name of a single file: who asks for one would look into a folder."""
    if output is not None and output.suffix.lower() in (".onnx", ".engine", ".plan", ".trt"):
        raise UsageError(
            f"`{output}` is the name of a file; what is written is a bundle, a folder that has such files",
            where="--output",
            hint=f"-o {output.with_suffix('.gantk')}",
        )


def _existing(source: Path | None) -> Path:
    """What is to be exported, which is there."""
    if source is None:
        raise UsageError(
            "there is nothing to export: a run folder, a checkpoint file, a bundle or an .onnx file is wanted",
            hint="gantk export -h",
        )
    with named_errors(source, "read"):
        if not source.exists():
            raise GantkError(f"`{source}` does not exist", where=str(source), hint="check the path")
    return source
