# SPDX-License-Identifier: Apache-2.0
"""`gantk bench`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gantk.cli.output import JsonOption, check_target, prose, spinner, write_json
from gantk.errors import GantkError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(add_completion=False)

_WHAT, _HOW, _OUTPUT, _CHECK = "What is measured", "How it is measured", "Output", "Regression check"


@app.command(
    "bench",
    epilog="[bold]Examples[/bold]\n\n"
    "gantk bench flowers.gantk\n\n"
    "gantk bench flowers.gantk --precision bf16,fp32 --batch 1,16 --html bench.html\n\n"
    "gantk bench style.onnx --shape content=1x3x512x512 --backend onnxruntime,openvino\n\n"
    "gantk bench flowers.gantk --json new.json --compare old.json --fail-slower 5%",
)
def bench_command(
    path: Annotated[Path, typer.Argument(metavar="X.gantk|X.onnx", help="A bundle, or any ONNX file.")],
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="P,...",
            help="Only what computes in these.",
            show_default="all it holds",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="B,...",
            help="Only these: torch, torch-compile, onnxruntime, openvino, tensorrt, tensorrt-rtx, cpp.",
            show_default="all that work here",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="M,...",
            help="Only these of PyTorch's: eager, channels_last, default, freezing, reduce-overhead, max-autotune.",
            show_default="all",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    torch_precision: Annotated[
        str | None,
        typer.Option(
            metavar="P,...",
            help="PyTorch only in these: fp32, tf32, fp16, bf16.",
            show_default="all",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Batch sizes.", show_default="1", rich_help_panel=_WHAT),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=1x3x512x512",
            help="The whole shape of an input; may be repeated.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="For every contender.", show_default="all usable cores", rich_help_panel=_HOW
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|cuda",
            help="Where to run.",
            show_default="cuda where something runs on it",
            rich_help_panel=_HOW,
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="To measure each shape, without loading: 15s, 2m.", rich_help_panel=_HOW
        ),
    ] = "15s",
    load_timeout: Annotated[
        str, typer.Option(metavar="TIME", help="For one contender to load or compile.", rich_help_panel=_HOW)
    ] = "120s",
    seed: Annotated[
        int, typer.Option(help="Of random inputs and of the rotation.", rich_help_panel=_HOW)
    ] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every mode and every column.", rich_help_panel=_OUTPUT)
    ] = False,
    json: JsonOption = None,
    markdown: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            callback=check_target,
            help="Write the result as Markdown.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", callback=check_target, help="Write a page with charts.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="OLD.json", help="Compare with an earlier --json.", rich_help_panel=_CHECK),
    ] = None,
    fail_slower: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="With --compare: exit 1 where a p50 is surely slower by more, or a result not right any more.",
            show_default="5%",
            rich_help_panel=_CHECK,
        ),
    ] = None,
) -> int:
    """Compare latency, memory and parity of every way to run a network here.

    Every contender runs in a process of its own; blocks of calls rotate among them while the others are stopped,
    until the medians stand still. A contender whose pictures are wrong is shown and not ranked. PyTorch is
    measured in every mode, and counts with its best.
    """
    from gantk.bench import regression, run

    old = None if compare is None else regression.read_document(compare)
    if fail_slower is not None and compare is None:
        raise UsageError("--fail-slower wants --compare: slower than what?", hint="--compare OLD.json")
    limit = regression.parse_share("5%" if fail_slower is None else fail_slower)
    console = prose()
    with spinner(console, "looking for contenders") as show:

        def report(line: str) -> None:
            show(line)
            if line.startswith(" ") or not console.is_terminal:
                console.print(line)

        document = run.compare(
            path,
            backends=_names(backend, "--backend"),
            precisions=_names(precision, "--precision"),
            modes=_names(mode, "--mode"),
            torch_precisions=_names(torch_precision, "--torch-precision"),
            shapes=[_shape(text) for text in shape or ()],
            batch=_sizes(batch),
            threads=threads,
            device=device,
            budget_s=_seconds(budget, "--budget"),
            load_timeout_s=_seconds(load_timeout, "--load-timeout"),
            seed=seed,
            progress=report,
        )
    errors = [] if old is None else _worse(document, old, compare, limit)
    _write(document, json, markdown, html, everything=everything)
    if not any(row["status"] == "ok" for row in document["rows"]):
        errors.append("every contender failed; the reasons are above")
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    return 1 if errors else 0


def _worse(document: dict[str, Any], old: dict[str, Any], path: Path | None, limit: float) -> list[str]:
    """What is surely slower than in an older document, and what is not right any more, in words.

    The comparison goes into the new one and to the terminal. Where there is none to make, that is what is returned:
    what was measured is to be told all the same.
    """
    from gantk.bench import regression

    try:
        found, doubts = regression.changes(old, document)
    except GantkError as error:
        return [str(error)]
    slower, lost = regression.regressions(found, limit), regression.lost(old, document)
    document["comparison"] = {
        "with": str(path),
        "limit": limit,
        "changes": [change.to_json() for change in found],
        "slower": [change.label for change in slower],
        "lost": lost,
        "doubts": doubts,
    }
    _print_changes(prose(), found, doubts)
    errors = []
    if slower:
        errors.append(f"slower than in `{path}` by more than {limit:.1%}: {'; '.join(map(str, slower))}")
    if lost:
        errors.append(f"right in `{path}`, and now: {'; '.join(lost)}")
    return errors


def _write(
    document: dict[str, Any], json: str | None, markdown: str | None, html: Path | None, *, everything: bool
) -> None:
    from gantk.bench import report
    from gantk.files import write_text

    if html is not None:
        write_text(html, report.html(document))
    if markdown == "-":
        sys.stdout.write(report.markdown(document))
    elif markdown is not None:
        write_text(Path(markdown), report.markdown(document))
    if json is not None:
        write_json(document, json)
    if "-" not in (json, markdown):
        from rich.console import Console

        # Where output is piped there is no width to respect, and nothing should be cut.
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
        output = Console(highlight=False, width=width)
        output.print(report.table(document, everything=everything, width=width))


def _print_changes(console: Console, found: list[Any], doubts: list[str]) -> None:
    for doubt in doubts:
        console.print(f"warning: {doubt}")
    for change in found:
        console.print(f"  {change}")


def _names(text: str | None, option: str) -> list[str] | None:
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"{option} names nothing", hint="leave it out for all")
    return names


def _sizes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is not a list of batch sizes; 1,16 is", where="--batch") from None


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split("x"))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise UsageError(f"{text!r} is not a shape; NAME=1x3x512x512 is", where="--shape")
    return name, shape


def _seconds(text: str, option: str) -> float:
    units = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0}
    number = text.rstrip("mins")
    try:
        seconds = float(number) * units[text[len(number) :] or "s"]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 < seconds < 86400:
        raise UsageError(f"{text!r} is not a time; 15s, 500ms or 2m is", where=option)
    return seconds
