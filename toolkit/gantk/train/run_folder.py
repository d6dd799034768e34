# SPDX-License-Identifier: Apache-2.0
"""The run folder: taken only when it is free, and one training's at a time."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gantk
from gantk import checkpoint, files
from gantk.checkpoint import RUN_FILE, check_schema
from gantk.errors import GantkError
from gantk.files import PARTIAL, named_errors, partial_name, read_bytes, write_text

SCHEMA_VERSION = 1
METRICS = "metrics.jsonl"

# What a training writes, and so all that a new one with --force removes.
_FOLDERS = (checkpoint.FOLDER, "samples", "tensorboard")
_OWN = (RUN_FILE, METRICS, "losses.png", "health.png", *_FOLDERS)


def check_free(run: Path, *, force: bool, hint: str = "--force replaces it") -> None:
    """Refuse a folder that a new run cannot have, before any work is done.

    A run that ended before its first checkpoint, as where the memory was full, has nothing to lose.

    Raises:
        GantkError: It holds a run with checkpoints and `force` is not set, or something else, or cannot be written.
    """
    if (run / RUN_FILE).exists():
        if checkpoint.list_paths(run) and not force:
            raise GantkError(f"`{run}` holds a run", where=str(run), hint=hint)
    elif run.is_file() or (run.is_dir() and any(run.iterdir())):
        raise GantkError(
            f"`{run}` exists and is not a run; gantk replaces nothing else",
            where=str(run),
            hint="choose another --out",
        )
    with named_errors(run, "write"):
        run.mkdir(parents=True, exist_ok=True)
        probe = partial_name(run / "probe")
        probe.touch()
        probe.unlink(missing_ok=True)


def start(run: Path, kind: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Clear what an older run left and write ``run.json``."""
    with named_errors(run, "write"):
        for name in _OWN:
            path = run / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    write(run, kind, config, facts)


def write(run: Path, kind: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write ``run.json``: what made the run, the resolved configuration, facts about the data, and versions.

    Args:
        run: The run folder.
        kind: The verb of ``gantk train`` that made it, or ``import``.
        config: The resolved configuration.
        facts: More entries.
    """
    tools = {"gantk": gantk.__version__, "python": platform.python_version()}
    tools |= {name: version(name) for name in ("torch", "lightning-fabric", "numpy", "pillow")}
    record = {"schema": SCHEMA_VERSION, "kind": kind, "config": dict(config), **facts, "tools": tools}
    write_text(run / RUN_FILE, json.dumps(record, indent=2, allow_nan=False) + "\n")


def read(run: Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        GantkError: There is no run, or its ``run.json`` is damaged.
    """
    path = run / RUN_FILE
    if not path.is_file():
        raise GantkError(
            f"`{run}` holds no run to resume: it has no {RUN_FILE}",
            where=str(run),
            hint="leave --resume out to begin one",
        )
    try:
        record = json.loads(read_bytes(path))
        check_schema(path, int(record["schema"]), SCHEMA_VERSION)
        if not isinstance(record["config"], dict):
            raise TypeError("its config is no object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GantkError(f"`{path}` cannot be understood: {error}", where=str(path)) from error
    return dict(record)


def drop_old_checkpoints(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in checkpoint.list_paths(run)[keep:]:
        path.unlink(missing_ok=True)


def _sweep(run: Path) -> None:
    """Remove what a killed training half wrote. What others write in the folder, such as a bundle, is theirs."""
    patterns = (*(f".{name}.*{PARTIAL}" for name in _OWN), *(f"{name}/.*{PARTIAL}" for name in _FOLDERS))
    for pattern in patterns:
        for left in run.glob(pattern):
            if not left.is_dir():
                left.unlink(missing_ok=True)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the folder, so that a second training into it is refused, and sweep it of what a killed one half wrote."""
    with named_errors(run, "write"):
        run.mkdir(parents=True, exist_ok=True)
    busy = GantkError(
        f"another process is training into `{run}`",
        where=str(run),
        hint="wait for it, or choose another --out",
    )
    try:
        with files.locked(run, busy):
            with named_errors(run, "write"):
                _sweep(run)
            yield
    finally:
        with suppress(OSError):
            run.rmdir()  # Only where it is empty: the training failed before it began.
