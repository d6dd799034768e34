# SPDX-License-Identifier: Apache-2.0
"""`gantk demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gantk.cli.output import JsonOption, prose, write_json
from gantk.cli.training import BarReporter
from gantk.demo.reporter import DemoReporter

if TYPE_CHECKING:
    from rich.status import Status

    from gantk.demo.pipeline import Demo

app = typer.Typer(add_completion=False)


class DemoBar(BarReporter, DemoReporter):
    """A heading a step, the training's bar, and a spinner where there is nothing to count."""

    def __init__(self) -> None:
        super().__init__()
        self._status: Status | None = None

    def begin(self, number: int, title: str) -> None:
        self.close()
        prose().print(f"{number}/5 {title}", style="bold")

    def detail(self, text: str) -> None:
        from rich.text import Text

        if self._status is None:
            self._status = prose().status("")
            self._status.start()
        self._status.update(Text(text.strip()))  # A string would be markup.
        if text.startswith(" "):
            self._status.console.print(text)

    def close(self) -> None:
        super().close()
        if self._status is not None:
            self._status.stop()
            self._status = None


@app.command(
    "demo", epilog="[bold]Examples[/bold]\n\ngantk demo\n\ngantk demo --out /tmp/flowers --steps 300"
)
def demo_command(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write it all.")] = Path(
        "demo"
    ),
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of training; fewer are quicker and blurrier. By default 1300, or what fits into a minute here.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """The whole path in one command, in three minutes on two CPU cores.

    Draws a small picture set, trains a DCGAN on it, exports it, verifies every file against PyTorch, benchmarks
    every backend that is installed, and writes report.html. Needs no data and no network.
    """
    console = prose()
    with console.status("loading PyTorch"):
        from gantk.demo.pipeline import run_demo
    reporter = DemoBar()
    try:
        demo = run_demo(out, steps=steps, reporter=reporter)
    finally:
        reporter.close()
    for line in demo.benchmark["recommendation"]:
        console.print(line, style="bold")
    console.print(f"\nlook at it: {demo.report.absolute().as_uri()}")
    if json is not None:
        write_json(_summary(demo), json)
    else:
        typer.echo(demo.report)


def _summary(demo: Demo) -> dict[str, object]:
    return {
        "report": str(demo.report),
        "bundle": str(demo.bundle.root),
        "run": str(demo.training.run),
        "seconds": demo.seconds,
        "benchmark": demo.benchmark,
    }
