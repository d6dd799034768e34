# SPDX-License-Identifier: Apache-2.0
"""The benchmark as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from gantk.bench.chart import COLOURS, chart_svg
from gantk.bench.view import (
    GPU_HEADINGS,
    GPU_NOTES,
    HEADINGS,
    NOTES,
    cases_of,
    cells,
    commands,
    failures,
    gpu_cells,
    gpu_rows,
    rows_of,
)
from gantk.bundle import readable

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #ffffff; --line: #d9d9e0; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6ea; --paper: #16161a; --line: #3a3a42; --wrong: #ff8a80; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
.facts th { text-align: left; font-weight: 600 } .facts td { text-align: left; white-space: normal }
.best { font-weight: 700 } .wrong { color: var(--wrong) } .slower { opacity: .65 }
.verdict { border-left: 4px solid #0aa67a; padding: .2rem 1rem; margin: 1rem 0 }
.key span { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .35em 0 1em }
small, .muted { opacity: .75 }
"""


def html(document: dict[str, Any]) -> str:
    """Charts, tables, parity, and the machine; styles and charts are inside the page."""
    name = document["model"]["name"]
    heading = f"<h1>{escape(name)}: latency, memory, parity</h1>"
    made = f'<p class="muted">{escape(document["created"])}, commit {escape(document["commit"] or "unknown")}</p>'
    return page(f"gantk bench: {name}", "\n".join((heading, made, body(document))))


def page(title: str, content: str, extra_style: str = "") -> str:
    """A whole page around some HTML, light or dark as its reader likes it."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{extra_style}</style>\n</head>\n<body>\n"
        f"{content}\n</body>\n</html>\n"
    )


def body(document: dict[str, Any]) -> str:
    """A benchmark as HTML to stand within a `page`."""
    parts = [
        '<div class="verdict">' + "".join(_paragraph(line) for line in document["recommendation"]) + "</div>"
    ]
    for case in cases_of(document):
        rows = rows_of(document, case, everything=True)
        parts.append(f"<h2>{escape(case)}</h2>")
        parts += [_key(rows), chart_svg(document, case)]
        parts.append(
            "<p><small>Bars: p50. Whiskers: fastest call to p90. Dashed: wrong, not ranked.</small></p>"
        )
        parts += ["<h3>Latency and memory</h3>", _rows_table(rows)]
        parts += _gpu_parts(document, case)
        parts += ["<h3>Parity</h3>", _parity_table(rows)]
    parts.append(
        f"<p><small>{escape(NOTES)} Pale rows: slower modes of a contender that is ranked by its best.</small></p>"
    )
    parts.append(_list("Warnings", document["warnings"]))
    parts.append(_list("Failed and left out", failures(document)))
    parts += ["<h2>Machine</h2>", _facts(_machine_facts(document))]
    return "\n".join(part for part in parts if part)


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _key(rows: Sequence[dict[str, Any]]) -> str:
    backends = [name for name in COLOURS if any(row["backend"] == name for row in rows)]
    items = (f'<span style="background:{COLOURS[name]}"></span>{escape(name)}' for name in backends)
    return f'<p class="key">{"".join(items)}</p>'


def _rows_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [line(HEADINGS, "th")]
    for row in rows:
        right = row["status"] == "ok" and row["parity"]["passed"]
        kind = (
            "best" if row["rank"] == 1 else "wrong" if not right else "slower" if row["rank"] is None else ""
        )
        lines.append(line([cells(row)[heading] for heading in HEADINGS], "td", kind))
    return table(lines)


def _gpu_parts(document: dict[str, Any], case: str) -> list[str]:
    """Where time goes on the GPU, and the vendor's commands; nothing where there is neither."""
    parts: list[str] = []
    if rows := gpu_rows(document, case):
        lines = [line(GPU_HEADINGS, "th"), *(line(gpu_cells(row), "td") for row in rows)]
        parts += ["<h3>On the GPU</h3>", table(lines), f"<p><small>{escape(GPU_NOTES)}</small></p>"]
    if found := commands(document, case):
        listed = "\n".join(map(escape, found))
        parts.append(f'<p>The vendor\'s own benchmark of the same:</p><pre class="scroll">{listed}</pre>')
    return parts


def _parity_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        line(
            ("", "contender", "PSNR dB", "largest difference", "cosine", "samples", "against", "verdict"),
            "th",
        )
    ]
    for row in rows:
        parity = row["parity"]
        if parity is None:
            continue
        lines.append(
            line(
                (
                    str(row["rank"] or ""),
                    row["label"],
                    _show(parity["psnr_db"], ".1f"),
                    readable(parity["max_abs"]),
                    _show(parity["cosine"], ".6f"),
                    str(parity["samples"]),
                    parity["reference"],
                    "ok" if parity["passed"] else parity["reason"],
                ),
                "td",
                "" if parity["passed"] else "wrong",
            )
        )
    return table(lines)


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def line(values: Sequence[str], tag: str, kind: str = "") -> str:
    """A table's line: escaped values in cells of a tag, ``th`` or ``td``, and of a class of the page's style."""
    marked = f' class="{kind}"' if kind else ""
    return f"<tr{marked}>" + "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values) + "</tr>"


def table(lines: Sequence[str]) -> str:
    """Lines as a table that scrolls where it is wider than the page."""
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{escape(title)}</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _facts(facts: Mapping[str, Any]) -> str:
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    return f'<table class="facts">{"".join(rows)}</table>'


def _machine_facts(document: dict[str, Any]) -> dict[str, Any]:
    machine, settings = document["machine"], document["settings"]
    facts = {
        "processor": machine["cpu"] + (" (virtual machine)" if machine["virtual"] else ""),
        "cores": f"{machine['usable_cores']} of {machine['cores']} usable; {settings['threads']} threads each",
        "features": ", ".join(machine["features"]),
        "memory": f"{machine['memory_bytes'] / 2**30:.1f} GiB",
        "kernel": machine["kernel"],
        "frequency": None if machine["frequency_mhz"] is None else f"{machine['frequency_mhz']:.0f} MHz",
        "governor": machine["governor"],
        "GPU": "none" if machine["gpu"] is None else ", ".join(machine["gpu"]["names"]),
        "load average before": ", ".join(f"{load:.2f}" for load in machine["load_average"]),
        "other work meanwhile": ", ".join(
            f"{case}: {share:.1%}" for case, share in document["interference"].items()
        ),
        "versions": ", ".join(f"{name} {version}" for name, version in document["versions"].items()),
        "settings": f"{settings['budget_s']:g} s a case, blocks of {settings['block_s']:g} s, seed {settings['seed']}",
    }
    return {name: value for name, value in facts.items() if value}
