# SPDX-License-Identifier: Apache-2.0
"""`gantk info`: what a bundle, an ONNX file or a run holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gantk.bundle import readable
from gantk.cli.output import JsonOption, print_table, prose, write_json

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_EPILOG = """[bold]Examples[/bold]

gantk info flowers.gantk

gantk info someone-elses.onnx --json -"""


@app.command(epilog=_EPILOG)
def info(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="X.gantk|X.onnx|RUN", help="A bundle, an .onnx file or a run.", show_default=False
        ),
    ],
    json: JsonOption = None,
) -> None:
    """Say what a bundle, an ONNX file or a run holds, and check every file of a bundle against its hash."""
    from gantk.runtime.describe import describe

    about = describe(source)
    if json is not None:
        write_json(about, json)
    if json != "-":
        {"bundle": _print_bundle, "onnx": _print_onnx, "run": _print_run}[about["kind"]](about)
    if about.get("damaged"):
        prose().print(f"error: damaged: {', '.join(about['damaged'])}")
        raise typer.Exit(1)


def _print_bundle(about: Mapping[str, Any]) -> None:
    model = about["model"]
    print_table(
        ("bundle", str(about["path"])),
        [
            ("model", f"{model['name']} ({model['family']})"),
            ("config", _pairs(model["config"])),
            ("created", about["created"] or None),
            ("made with", _pairs(about["tools"])),
        ],
    )
    _print_tensors(about)
    typer.echo()
    print_table(
        ("precision", "form", "file", "MiB", "opset", "fastest on", "hash"),
        [
            (
                variant["precision"],
                variant["form"],
                variant["file"]["path"],
                _mib(variant["file"]["size_bytes"]),
                variant["opset"],
                _fastest(variant),
                "ok" if variant["damage"] is None else "WRONG",
            )
            for variant in about["variants"]
        ],
    )
    _print_engines(about["engines"])
    if about["unused"]:
        size = _mib(sum(file["size_bytes"] for file in about["unused"]))
        files = "1 file" if len(about["unused"]) == 1 else f"{len(about['unused'])} files"
        typer.echo(f"\n{files} of earlier exports, {size} MiB, which the next one removes")
    rows = [(file, parity) for file in (*about["variants"], *about["engines"]) for parity in file["parity"]]
    if rows:
        typer.echo()
        print_table(
            ("parity", "form", "backend", "computes in", "against", "PSNR dB", "max abs", "verdict"),
            [_parity_row(variant, parity) for variant, parity in rows],
        )


def _print_engines(engines: Sequence[Mapping[str, Any]]) -> None:
    if not engines:
        return
    typer.echo()
    print_table(
        ("engine", "precision", "form", "targets", "MiB", "heavy layers", "shapes", "state", "hash"),
        [
            (
                f"{engine['backend']} {engine['version']}",
                engine["precision"] + (" tf32" if engine["tf32"] else ""),
                ", ".join((engine["form"], *engine["rewrites"], *engine["options"])),
                " ".join(engine["targets"]),
                _mib(engine["file"]["size_bytes"]),
                _pairs(Counter(layer["precision"] for layer in engine["heavy_layers"])),
                "; ".join(_shapes(profile) for profile in engine["profiles"]),
                "verified" if engine["verified"] else "unverified",
                "ok" if engine["damage"] is None else "WRONG",
            )
            for engine in engines
        ],
    )


def _shapes(profile: Mapping[str, Any]) -> str:
    """The smallest, usual and largest shape of each input whose size is free; where none is, all shapes."""
    free = {name: shapes for name, shapes in profile.items() if shapes["min"] != shapes["max"]}
    spans = {
        name: dict.fromkeys("x".join(map(str, shapes[end])) for end in ("min", "opt", "max"))
        for name, shapes in (free or profile).items()
    }
    return ", ".join(f"{name} {' - '.join(span) or 'scalar'}" for name, span in spans.items())


def _parity_row(file: Mapping[str, Any], parity: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        file["precision"],
        file["form"],
        f"{parity['backend']} {parity['version']} ({parity['device']})",
        parity["executed"],
        parity["reference"],
        None if parity["psnr_db"] is None else f"{parity['psnr_db']:.1f}",
        readable(parity["max_abs"]),
        "ok" if parity["passed"] else f"WRONG: {parity['reason']}",
    )


def _print_onnx(about: Mapping[str, Any]) -> None:
    print_table(
        ("ONNX file", str(about["path"])),
        [
            ("model", about["model"]["name"]),
            ("config", _pairs(about["model"]["config"])),
            ("precision", f"{about['precision']} ({about['form']})"),
            ("MiB", _mib(about["size_bytes"])),
            ("opsets", _pairs(about["opsets"])),
            ("producer", about["producer"] or None),
            ("operators", _pairs(about["operators"])),
            ("sha256", about["sha256"]),
        ],
    )
    _print_tensors(about)


def _print_run(about: Mapping[str, Any]) -> None:
    resolved = about["run"] if isinstance(about["run"], dict) else {}
    rows: list[tuple[object, object]] = [
        (name, _pairs(value) if isinstance(value, dict) else value) for name, value in resolved.items()
    ]
    newest = about["checkpoints"][-1]["path"] if about["checkpoints"] else None
    rows += [
        ("checkpoints", len(about["checkpoints"])),
        ("newest", newest),
        ("samples", len(about["samples"])),
    ]
    print_table(("run", str(about["path"])), rows)


def _print_tensors(about: Mapping[str, Any]) -> None:
    typer.echo()
    print_table(
        ("", "tensor", "dtype", "shape", "at least", "range", "layout"),
        [
            (
                kind,
                spec["name"],
                spec["dtype"],
                " x ".join(map(str, spec["shape"])) or "scalar",
                f"{spec['smallest']} x {spec['smallest']}" if spec["smallest"] > 1 else None,
                None if spec["range"] is None else f"{spec['range'][0]:g}..{spec['range'][1]:g}",
                spec["layout"],
            )
            for kind in ("input", "output")
            for spec in about[f"{kind}s"]
        ],
    )


def _fastest(variant: Mapping[str, Any]) -> str | None:
    """The backends that take a variant, how many times as fast its rewrites were measured to make it, and by what."""
    from gantk.bundle import Variant

    factors = {backend: math.prod(gains.values()) for backend, gains in variant["gains"].items()}
    named = [f"{b} ({factors[b]:.2f}x)" if b in factors else b for b in variant["fastest_on"]]
    if named and Variant.from_json(variant).is_native:
        named[-1] += " with gantk's operators"
    return ", ".join(named) or None


def _pairs(values: Mapping[str, Any]) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or None


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f}"
