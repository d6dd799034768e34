# SPDX-License-Identifier: Apache-2.0
"""What every verb prints with: data to standard output, prose and progress to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gantk.errors import GantkError
from gantk.files import check_writable, write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Target = TypeVar("Target", str | None, Path | None)


def check_target(target: Target) -> Target:
    """Refuse a file that cannot be written before the work whose result it is to hold."""
    if target is not None and str(target) != "-":
        check_writable(Path(target))
    return target


def check_outputs(files: Sequence[Path], *, force: bool) -> None:
    """Refuse files that are there, unless they may be replaced, and a folder that takes none, before the work.

    Raises:
        GantkError: One exists, or the first cannot be written.
    """
    existing = next((file for file in files if file.exists()), None)
    if existing is not None and not force:
        raise GantkError(f"`{existing}` exists", where=str(existing), hint="--force replaces it")
    check_writable(files[0])


JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        callback=check_target,
        help="Write the result, or the error, as JSON to a file, or to - for standard output.",
    ),
]


def prose() -> Console:
    """The console for people: standard error, without colour where it is not a terminal.

    Nothing is markup unless it is said to be: names may hold brackets.
    """
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def spinner(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """A spinner beside `text`, which what is yielded replaces; rich's own takes brackets for markup."""
    from rich.text import Text

    with console.status(Text(text)) as status:
        yield lambda line: status.update(Text(line.strip()))


def progress() -> Progress:
    """A progress bar on standard error that is silent where that is not a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, highlight=False, markup=False)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        disable=not console.is_terminal,
    )


_WHOLE, _GAP = 20, 2
"""Of tables: characters of a word that is not folded, and between two columns."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table to standard output; what is `None` shows as a dash.

    Lines are never cut, and words and numbers are folded only where they are long, whatever the terminal's width.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, not markup: names may hold brackets.
    heading = None if title is None else Text(_printable(title))
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False, header_style="bold")
    shown = [["-" if cell is None else _printable(str(cell)) for cell in row] for row in (columns, *rows)]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    for column, width in zip(columns, _widths(shown, console.width), strict=True):
        table.add_column(Text(_printable(column)), overflow="fold", min_width=width, max_width=width)
    for row in shown[1:]:
        table.add_row(*map(Text, row))
    console.print(table, crop=False)


def _widths(rows: Sequence[Sequence[str]], terminal: int) -> list[int]:
    """The widths of columns: the widest give way until all fit, or every word is as narrow as it may be."""
    from rich.cells import cell_len

    columns = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    least = [
        min(_WHOLE, max(cell_len(word) for cell in column for word in cell.split(" "))) for column in columns
    ]
    while sum(widths) + _GAP * (len(widths) - 1) > terminal and widths != least:
        widest = max(range(len(widths)), key=lambda index: (widths[index] > least[index], widths[index]))
        widths[widest] -= 1
    return widths


def _printable(text: str) -> str:
    """What files say of themselves must not steer the terminal."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def tell_of_more(source: Path) -> None:
    """Say of an animation that its first picture alone was taken."""
    from gantk.runtime.decode import has_more

    if has_more(source):
        prose().print(f"`{source}` holds several pictures; the first was painted", style="yellow")


def write_json(data: Mapping[str, Any], target: str) -> None:
    """Write `data` to a file, or to standard output where `target` is ``-``."""
    text = json.dumps(data, indent=2, allow_nan=False, default=str) + "\n"
    if target == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_text(Path(target), text)
