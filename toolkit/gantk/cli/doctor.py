# SPDX-License-Identifier: Apache-2.0
"""`gantk doctor`: what works on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from gantk.cli.output import JsonOption, print_table, write_json
from gantk.runtime.cache import VARIABLE

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_EPILOG = """[bold]Examples[/bold]

gantk doctor

gantk doctor --json report.json"""


@app.command(epilog=_EPILOG)
def doctor(json: JsonOption = None) -> None:
    """Say what works on this machine, what does not and why, and what to install. Changes nothing.

    Exits with 0 if at least one backend works, else with 1.
    """
    from gantk.kernels import status as kernels
    from gantk.runtime.doctor import examine

    report = examine()
    report["kernels"] = kernels.examine()
    if report["driver"]["works"] and not report["kernels"]["works"]:
        report["advice"].append(_advice(report["kernels"]))
    if json is not None:
        write_json(report, json)
    if json != "-":
        _print(report)
    if not report["works"]:
        raise typer.Exit(1)


def _print(report: Mapping[str, Any]) -> None:
    cpu, memory, driver, torch = report["cpu"], report["memory_bytes"], report["driver"], report["torch"]
    gpus = ", ".join(driver["devices"])
    print_table(
        ("machine", ""),
        [
            ("gantk", f"{report['gantk']}, Python {report['python']}, {report['system']}"),
            ("CPU", f"{cpu['name']}, {cpu['usable_cores']} of {cpu['cores']} cores usable"),
            ("features", ", ".join(cpu["features"]) or None),
            ("memory", f"{_gib(memory['available'])} of {_gib(memory['total'])} GiB available"),
            ("GPU", f"{gpus} (CUDA {driver['cuda_version']})" if driver["works"] else driver["reason"]),
            ("torch", torch["version"] or "not installed"),
            ("C++ compiler", report["compiler"] or "none"),
            ("operators", _operators(report["native_operators"])),
            ("cache", _cache(report["cache"])),
            (
                "free disk",
                ", ".join(f"{_gib(free)} GiB at {path}" for path, free in report["free_bytes"].items()),
            ),
        ],
    )
    typer.echo()
    print_table(
        ("backend", "version", "works on", "reason"),
        [
            (status["name"], status["version"], ", ".join(status["devices"]) or "nothing", status["reason"])
            for status in report["backends"]
        ],
    )
    typer.echo()
    _print_kernels(report["kernels"])
    typer.echo()
    for line in report["advice"]:
        typer.echo(f"-> {line}")
    if not report["advice"]:
        typer.echo("Everything that gantk uses on this machine works.")


def _cache(cache: Mapping[str, Any] | None) -> str | None:
    if cache is None:
        return None
    data_sets, limit = _gib(cache["data_sets_bytes"]), _gib(cache["limit_bytes"])
    return (
        f"{cache['folder']}: decoded data sets {data_sets} GiB, at most {limit} ({VARIABLE}); "
        f"all else {_gib(cache['other_bytes'])} GiB; it may be removed at any time"
    )


def _operators(native: Mapping[str, Any]) -> str:
    if native["library"] is None:
        from gantk.runtime.operators import INSTALL

        return f"no native ones for ONNX Runtime; they are faster on CPUs: {INSTALL}"
    return f"{native['library']}{'' if native['reason'] is None else ', which cannot be used'}"


def _print_kernels(kernels: Mapping[str, Any]) -> None:
    cache = kernels["cache"]
    kept = f"{cache['folder']}, {cache['size_bytes'] / 2**20:.1f} MiB" if cache else "off"
    targets = [
        f"{device['name']}: " + (device.get("target") or device["reason"]) for device in kernels["devices"]
    ]
    print_table(
        ("CUDA kernels", ""),
        [
            ("run here", "yes" if kernels["works"] else f"no: {kernels['reason']}"),
            ("NVRTC", kernels["nvrtc"] or "not installed"),
            ("packages", ", ".join(f"{name} {version}" for name, version in kernels["packages"].items())),
            ("compiled for", "; ".join(targets) or None),
            ("cache", kept if not cache or cache["writable"] else f"{kept}, not writable"),
        ],
    )


def _advice(kernels: Mapping[str, Any]) -> str:
    hint = f": {kernels['hint']}" if kernels["hint"] else ""
    return f"the CUDA kernels do not run, torch does their work: {kernels['reason']}{hint}"


def _gib(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else f"{size_bytes / 2**30:.1f}"
