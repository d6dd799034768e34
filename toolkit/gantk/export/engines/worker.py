# SPDX-License-Identifier: Apache-2.0
"""The process that builds one engine: `python -m gantk.export.engines.worker`, in a folder with its request.

The folder holds ``request.json`` and ``model.onnx``; the worker adds ``engine``. To its standard output, for which a
full disk is no matter, it writes a JSON array for each step of progress and at the end an object, a line each.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gantk.bundle import ShapeRange
from gantk.errors import GantkError
from gantk.export.engines.build import BuildOptions, build
from gantk.files import ANOTHER_PLACE, named_errors
from gantk.runtime.products import PRODUCTS

MODEL, REQUEST, ENGINE = "model.onnx", "request.json", "engine"

_PR_SET_PDEATHSIG = 1

# From Linux' sys/personality.h; the query leaves everything as it is.
_ADDR_NO_RANDOMIZE = 0x0040000
_QUERY = 0xFFFFFFFF


def main() -> int:
    fix_addresses()
    if hasattr(libc := ctypes.CDLL(None), "prctl"):
        # When the parent is gone, nobody waits for the engine.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    tell = _own_output()
    try:
        with named_errors(Path.cwd(), "build in", ANOTHER_PLACE):
            tell(_build(lambda phase, done, steps: tell([phase, done, steps])))
    except GantkError as error:
        tell({"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint})
    return 0


def fix_addresses() -> None:
    """Start this process again without address randomisation, where the system lets it choose that.

    The builders order some of their work by pointers, so that otherwise no two engines are the same.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "personality"):
        return
    now = libc.personality(_QUERY)
    if now >= 0 and not now & _ADDR_NO_RANDOMIZE and libc.personality(now | _ADDR_NO_RANDOMIZE) >= 0:
        os.execv(sys.executable, [sys.executable, "-m", "gantk.export.engines.worker"])  # noqa: S606


def take_turns() -> None:
    """Run the builder's threads on one processor, each until it waits, so that they number what they make alike.

    Raises:
        GantkError: This process may not ask for that, or could not begin with the same addresses.
    """
    try:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, OSError) as error:
        raise GantkError(
            f"threads cannot take turns here: {error}",
            where="--reproducible",
            hint="on Linux as root, or after `ulimit -r 1`, they can",
        ) from None
    now = ctypes.CDLL(None).personality(_QUERY)
    if now < 0 or not now & _ADDR_NO_RANDOMIZE:
        raise GantkError(
            "this system gives every process other addresses, and personality(2) may not change that",
            where="--reproducible",
            hint="containers allow it with --security-opt seccomp=unconfined",
        )


def _own_output() -> Callable[[Any], None]:
    """A function that writes a line to what was standard output; whatever else is printed goes to standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lambda line: print(json.dumps(line), file=stream, flush=True)


def _build(progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    request = json.loads(Path(REQUEST).read_bytes())
    profiles = [
        {name: ShapeRange.from_json(shapes) for name, shapes in profile.items()}
        for profile in request["profiles"]
    ]
    given = request["options"]
    options = BuildOptions(
        tuple(given["targets"]),
        given["tf32"],
        given["workspace_bytes"],
        tuple(given["options"]),
        given["plugins"],
        given["reproducible"],
    )
    if options.reproducible:
        take_turns()
    data = Path(MODEL).read_bytes()
    built = build(
        PRODUCTS[request["product"]], data, request["precision"], profiles, options, MODEL, progress
    )
    Path(ENGINE).write_bytes(built.data)
    return {
        "targets": built.targets,
        "timing_cache": built.timing_cache,
        "rewrites": built.rewrites,
        "layers": built.found.layers,
        "heavy_layers": [layer.to_json() for layer in built.found.heavy_layers],
        "islands": sorted(built.found.islands),
    }


if __name__ == "__main__":
    sys.exit(main())
