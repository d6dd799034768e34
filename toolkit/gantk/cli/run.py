# SPDX-License-Identifier: Apache-2.0
"""`gantk run`: any network on one's own arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gantk.cli.output import JsonOption, check_outputs, print_table, prose, write_json
from gantk.errors import GantkError, UsageError

if TYPE_CHECKING:
    from gantk.runtime.following import Follows
    from gantk.runtime.runner import Array, Runner
    from gantk.tensors import TensorSpec

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_INPUTS, _COMPUTE = "Inputs and outputs", "How to compute"
_EPILOG = """[bold]Examples[/bold]

gantk run flowers.gantk

gantk run flowers.gantk --input latent=z.npy --output-dir out

gantk run style.onnx --input picture=cat.jpg --backend openvino --json -"""


@app.command(epilog=_EPILOG)
def run(
    source: Annotated[
        Path, typer.Argument(metavar="X.gantk|X.onnx", help="A bundle, or any ONNX file.", show_default=False)
    ],
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=FILE",
            help="An .npy file, or a picture for a uint8 NHWC input; inputs not named are random.",
            rich_help_panel=_INPUTS,
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1x3x64x64",
            help="The shape of a random input; a size that is free is 1 otherwise.",
            rich_help_panel=_INPUTS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random inputs.", rich_help_panel=_INPUTS)] = 0,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Save every output there as NAME.npy.",
            show_default="nothing is saved",
            rich_help_panel=_INPUTS,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that exist.", rich_help_panel=_INPUTS)
    ] = False,
    backend: Annotated[
        str,
        typer.Option(help="onnxruntime, openvino, tensorrt, tensorrt-rtx or auto.", rich_help_panel=_COMPUTE),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16, int8 or fp8; of engines also tf32.",
            show_default="fp32",
            rich_help_panel=_COMPUTE,
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="plain or rewritten; of an exported step also adam or targets; statistics where --tiles made it.",
            show_default="the fastest",
            rich_help_panel=_COMPUTE,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.", show_default="the best", rich_help_panel=_COMPUTE)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads.", show_default="all cores", rich_help_panel=_COMPUTE),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Run a bundle or an ONNX file once, on arrays from files or on random ones, and say what came out."""
    from gantk.runtime.arrays import output_files, save_outputs, summary
    from gantk.runtime.registry import open as open_runner

    with open_runner(source, backend, precision, device, form=form, threads=threads) as runner:
        if output_dir is not None:
            check_outputs(output_files(output_dir, [spec.name for spec in runner.outputs]), force=force)
        feeds, random = _feeds(runner, given or [], shape or [], seed, _following(source))
        try:
            outputs = runner.run(feeds)
        except GantkError as error:
            raise _with_a_shape(error, [spec for spec in runner.inputs if spec.name in random]) from error
    for reason in runner.passed_over.values():
        prose().print(f"passed over: {reason}")
    if random:
        prose().print(f"random values for {', '.join(random)}, seed {seed}")
    files = save_outputs(output_dir, outputs) if output_dir is not None else []
    rows = [{"kind": "input", **summary(name, array)} for name, array in feeds.items()]
    rows += [{"kind": "output", **summary(name, array)} for name, array in outputs.items()]
    if json is not None:
        about = {"backend": runner.backend, "device": runner.device, "precision": runner.precision}
        write_json({**about, "random": random, "tensors": rows, "files": [str(file) for file in files]}, json)
    if json != "-":
        _print(
            rows, f"{source} with {runner.backend} {runner.version}, {runner.precision} on {runner.device}"
        )
    if files:
        prose().print(f"wrote {', '.join(map(str, files))}")


def _following(source: Path) -> Mapping[str, Follows]:
    """Which sizes of a bundle's inputs follow from others: random features must fit their picture."""
    from gantk.bundle import Bundle, is_bundle
    from gantk.runtime.following import follows

    return follows(Bundle.read(source).manifest) if is_bundle(source) else {}


def _feeds(
    runner: Runner, given: list[str], shapes: list[str], seed: int, following: Mapping[str, Follows]
) -> tuple[dict[str, Array], list[str]]:
    """The inputs, and the names of those that are random."""
    from gantk.runtime.arrays import bound_sizes, load_input, parse_shape, random_feeds

    specs = {spec.name: spec for spec in runner.inputs}
    loaded: dict[str, Array] = {}
    for item in given:
        name, _, file = item.partition("=")
        if name not in specs or not file:
            known = ", ".join(map(str, runner.inputs))
            raise UsageError(f"{item!r} is not NAME=FILE; the inputs are {known}", where="--input")
        loaded[name] = load_input(specs[name], file)
    wanted = dict(parse_shape(item, runner.inputs) for item in shapes)
    sizes = bound_sizes({**wanted, **{name: array.shape for name, array in loaded.items()}}, runner.inputs)
    missing = [spec for spec in runner.inputs if spec.name not in loaded]
    try:
        feeds = {**random_feeds(missing, sizes, seed, following), **loaded}
    except (MemoryError, ValueError) as error:
        raise GantkError(
            f"inputs of these shapes do not fit into memory: {error}", where="--shape"
        ) from error
    return {name: feeds[name] for name in specs}, [spec.name for spec in missing]


def _with_a_shape(error: GantkError, random: list[TensorSpec]) -> GantkError:
    """The error of a run; where sizes of its inputs were ours to choose, with how to choose others."""
    from gantk.runtime.arrays import example_shape

    free = next((spec for spec in random if spec.is_dynamic), None)
    if free is None or error.hint is not None:
        return error
    return GantkError(
        error.what,
        where=error.where,
        hint=f"choose sizes that it takes, for example --shape {example_shape(free)}",
    )


def _print(rows: list[dict[str, object]], title: str) -> None:
    columns = ("kind", "name", "dtype", "shape", "min", "max", "mean", "not_finite")
    shown = [
        [
            f"{value:.5g}"
            if isinstance(value, float)
            else " x ".join(map(str, value))
            if isinstance(value, list)
            else value
            for value in (row[column] for column in columns)
        ]
        for row in rows
    ]
    print_table(("", "tensor", "dtype", "shape", "min", "max", "mean", "not finite"), shown, title)
