# SPDX-License-Identifier: Apache-2.0
"""Commands in processes of their own, forked from one that has imported what they want: that takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

_PRELOADED = [
    "gantk.cli.main",
    "gantk.cli.train",
    "gantk.train.gan",
    "gantk.train.style",
    "gantk.train.adain",
]


def start(arguments: list[str], output: Path) -> BaseProcess:
    """Start `gantk ARGUMENTS`; what it says goes into a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=_run, args=(arguments, os.fspath(output)), daemon=True)
    process.start()
    return process


def wait_for(path: Path, process: BaseProcess, seconds: float = 120) -> None:
    """Wait until a process has made a file."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.is_alive() and time.monotonic() < end, "it ended before"
        time.sleep(0.002)


def _run(arguments: list[str], output: str) -> None:
    from gantk.cli.main import main

    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.exit(main(arguments))
