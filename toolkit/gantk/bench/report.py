# SPDX-License-Identifier: Apache-2.0
"""A benchmark's JSON document as a table for a terminal and as Markdown; `html` and `chart_svg` are here too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from gantk.bench.chart import chart_svg
from gantk.bench.page import html
from gantk.bench.verdict import is_right
from gantk.bench.view import (
    GPU_HEADINGS,
    GPU_NOTES,
    HEADINGS,
    NOTES,
    Document,
    Row,
    cases_of,
    cells,
    commands,
    failures,
    gpu_cells,
    gpu_rows,
    machine_line,
    rows_of,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["chart_svg", "html", "markdown", "markdown_gpu_table", "markdown_table", "table"]

_FEW = ("", "contender", "p50 ms", "95 % CI", "pictures/s", "vs torch", "peak MiB", "parity")
_NARROW = ("", "contender", "p50 ms", "vs torch", "parity")
_WIDTHS = ((140, HEADINGS), (100, _FEW), (0, _NARROW))


def table(document: Document, *, everything: bool = False, width: int | None = None) -> RenderableType:
    """A table for each case, the recommendation, and what to be wary of; columns as `width` characters allow.

    Args:
        document: What `gantk.bench.run.compare` returned.
        everything: Also PyTorch's slower modes, and every column.
        width: Of the terminal; all columns by default.
    """
    from rich.console import Group
    from rich.text import Text

    headings = HEADINGS if everything or width is None else next(h for least, h in _WIDTHS if width >= least)
    parts: list[RenderableType] = []
    for case in cases_of(document):
        parts.append(_rich_table(document, case, headings, everything=everything))
        if rows := gpu_rows(document, case):
            parts.append(_rich_gpu_table(rows))
        parts += [Text(f"the vendor's own: {command}", style="dim") for command in commands(document, case)]
    parts.append(Text())
    parts += [Text(line, style="bold") for line in document["recommendation"]]
    notes = [
        *failures(document),
        *(f"warning: {line}" for line in document["warnings"]),
        machine_line(document),
    ]
    parts += [Text(line, style="dim") for line in notes]
    return Group(*parts)


def markdown(document: Document) -> str:
    """The document as Markdown: the tables, the recommendation, what was left out, and the machine."""
    model = document["model"]
    lines = [f"# Benchmark of {model['name']}", ""]
    for case in cases_of(document):
        lines += [f"## {case}", "", *markdown_table(rows_of(document, case), HEADINGS), ""]
        if rows := gpu_rows(document, case):
            lines += [*markdown_gpu_table(rows), "", GPU_NOTES, ""]
        if found := commands(document, case):
            lines += ["The vendor's own benchmark of the same:", "", *(f"    {line}" for line in found), ""]
    lines += [f"- {line}" for line in document["recommendation"]]
    lines += ["", "## Caveats", ""] + [
        f"- {line}" for line in (*document["warnings"], *failures(document), NOTES)
    ]
    lines += ["", "## Machine", "", f"- {machine_line(document)}", f"- {document['created']}"]
    lines += [f"- gantk {document['versions'].get('gantk', '?')}, commit {document['commit'] or 'unknown'}"]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row], headings: Sequence[str]) -> list[str]:
    """The lines of a table of some columns."""
    texts = [cells(row) for row in rows]
    return _markdown_lines(headings, ([text[heading] for heading in headings] for text in texts))


def markdown_gpu_table(rows: Sequence[Row]) -> list[str]:
    """The lines of the table of `gpu_rows`."""
    return _markdown_lines(GPU_HEADINGS, map(gpu_cells, rows))


def _markdown_lines(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    right = [":---" if heading in ("contender", "") else "---:" for heading in headings]
    lines = [f"| {' | '.join(headings)} |", f"| {' | '.join(right)} |"]
    for row in rows:
        shown = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def _rich_gpu_table(rows: Sequence[Row]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title="on the GPU", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for heading in GPU_HEADINGS:
        justify: Literal["left", "right"] = "left" if heading in ("contender", "") else "right"
        shown.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, gpu_cells(row)))
    return shown


def _rich_table(
    document: Document, case: str, headings: Sequence[str], *, everything: bool
) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        title=Text(f"{document['model']['name']}, {case}", style="table.title"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
    )
    for heading in headings:
        left = heading in ("contender", "")
        shown.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in rows_of(document, case, everything=everything):
        text = cells(row)
        style = (
            "bold"
            if row["rank"] == 1
            else "red"
            if not is_right(row)
            else "dim"
            if row["rank"] is None
            else None
        )
        shown.add_row(*(Text(text[heading]) for heading in headings), style=style)
    return shown
