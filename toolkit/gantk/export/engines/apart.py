# SPDX-License-Identifier: Apache-2.0
"""Building in a process of its own: the same engine every time, and no vendor's crash takes us along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from gantk import errors
from gantk.bench.process import end_group
from gantk.bundle import HeavyLayer, Profile
from gantk.errors import GantkError
from gantk.export.engines.audit import Audit
from gantk.export.engines.build import BuildOptions, Built
from gantk.export.engines.progress import Progress
from gantk.export.engines.worker import ENGINE, MODEL, REQUEST
from gantk.files import ANOTHER_PLACE, named_errors, temporary_folder
from gantk.runtime.products import Product

_LAST_LINES = 3

# What a build may depend on. Every other variable would move the worker's memory, and with it the engine's bytes.
_KEPT = (
    *("PATH", "HOME", "LD_LIBRARY_PATH", "XDG_CACHE_HOME", "TMPDIR", "VIRTUAL_ENV"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),  # Together they say which GPU is the first.
)


def build_apart(
    product: Product,
    data: bytes,
    precision: str,
    profiles: Sequence[Profile],
    options: BuildOptions,
    where: str,
    progress: Progress = lambda phase, done, steps: None,
) -> Built:
    """Build an engine as `gantk.export.engines.build.build` does, in a fresh process.

    Raises:
        GantkError: As `build`; or the process died, whose last words are told.
    """
    request = {
        "product": product.name,
        "precision": precision,
        "profiles": [{name: shapes.to_json() for name, shapes in profile.items()} for profile in profiles],
        "options": asdict(options),
    }
    with temporary_folder("build") as folder:
        with named_errors(folder, "build in", ANOTHER_PLACE):  # As the worker says it.
            (folder / MODEL).write_bytes(data)
            (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        with (folder / "log").open("w+b") as log:
            status, result = _run(folder, log, progress)
            if result is None:
                raise _died(status, log, product, where)
        if "error" in result:
            raise _raised(result, where)
        return Built(
            (folder / ENGINE).read_bytes(),
            Audit(
                result["layers"],
                tuple(HeavyLayer.from_json(layer) for layer in result["heavy_layers"]),
                frozenset(result["islands"]),
            ),
            tuple(result["targets"]),
            result["timing_cache"],
            tuple(result["rewrites"]),
        )


def _run(folder: Path, log: IO[bytes], progress: Progress) -> tuple[int, dict[str, Any] | None]:
    """Let a worker do its work and pass its progress on; whatever happens here ends it.

    Returns:
        Its exit status, and its result unless it died before.
    """
    with named_errors(Path(sys.executable), "start"):  # A limit on processes, or too little memory.
        process = subprocess.Popen(
            [sys.executable, "-m", "gantk.export.engines.worker"],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches us alone, and what it starts ends with it.
        )
    assert process.stdout is not None
    try:
        result: dict[str, Any] | None = None
        for line in process.stdout:
            if not line.endswith(b"\n"):
                break  # It died amid it.
            told = json.loads(line)
            if isinstance(told, dict):
                result = told
            else:
                progress(*told)
        return process.wait(), result
    finally:
        end_group(process)
        process.stdout.close()


def _environment() -> dict[str, str]:
    package = str(Path(errors.__file__).resolve().parents[1])
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [package, *map(os.path.abspath, given)]  # The worker is in another folder.
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONHASHSEED": "0"}


def _raised(result: dict[str, Any], where: str) -> GantkError:
    """The worker's error, with the file's real name."""
    kind = getattr(errors, result["error"], GantkError)
    named = {
        key: None if result[key] is None else result[key].replace(MODEL, where)
        for key in ("what", "where", "hint")
    }
    raised: GantkError = kind(str(named["what"]), where=named["where"], hint=named["hint"])
    return raised


def _died(status: int, log: IO[bytes], product: Product, where: str) -> GantkError:
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    said = f": {' | '.join(lines[-_LAST_LINES:])}" if lines else ""
    return GantkError(
        f"the process in which {product.name} built `{where}` {how}{said}",
        where=where,
        hint="a smaller --max, or a --workspace limit, takes less memory"
        if status == -signal.SIGKILL
        else None,
    )
