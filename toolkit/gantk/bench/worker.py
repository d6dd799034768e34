# SPDX-License-Identifier: Apache-2.0
"""One contender's process: `python -m gantk.bench.worker PARENT_PID` (see `gantk.bench.protocol`)."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter_ns
from typing import Any, BinaryIO

from gantk.bench.protocol import decode, encode
from gantk.errors import GantkError, UnbindableError
from gantk.files import ANOTHER_PLACE, named_errors

_PR_SET_PDEATHSIG = 1

Answer = dict[str, Any]


class Session:
    """What a worker holds between requests: a runner, and inputs for it."""

    def __init__(self) -> None:
        self._runner: Any = None
        self._feeds: dict[str, Any] = {}
        self._call: Callable[[], Any] | None = None
        self._bound: Any = None

    def load(self, factory: str, options: dict[str, Any], imports: list[str]) -> Answer:
        start = perf_counter_ns()
        module, _, function = factory.partition(":")
        for name in (*imports, module):
            import_module(name)
        imported, baseline = perf_counter_ns(), memory()["rss_bytes"]
        runner = self._runner = getattr(import_module(module), function)(**options)
        return {
            "import_ms": (imported - start) / 1e6,
            "open_ms": (perf_counter_ns() - imported) / 1e6,
            "baseline_rss_bytes": baseline,
            "backend": runner.backend,
            "version": runner.version,
            "device": runner.device,
            "precision": runner.precision,
            "file_precision": runner.file_precision,
            "launches": hasattr(runner, "launch"),
        }

    def feed(self, path: str) -> Answer:
        import numpy as np

        with np.load(path, allow_pickle=False) as arrays:
            feeds = self._feeds = dict(arrays)
        runner = self._runner
        # Users of PyTorch and of GPUs hold tensors: they are bound once, so that no conversion and no copy is timed.
        bind = getattr(runner, "bind", None)
        start = perf_counter_ns()
        unbound = None
        if hasattr(runner, "launch"):
            try:
                self._bound = runner.bind(feeds)
                # Nothing of ours is under way that a call must wait for; other contenders' wait for none either.
                self._call = partial(self._bound, stream=-1)
            except UnbindableError as error:
                self._call, unbound = lambda: runner.run(feeds), error.what
        else:
            self._call = bind(feeds) if bind else lambda: runner.run(feeds)
        return {"ns": perf_counter_ns() - start, "unbound": unbound}

    def run(self, warmup_s: float, block_s: float, most: int) -> Answer:
        call = self._ready()
        settle()
        gc.disable()
        try:
            time_calls(call, warmup_s, most)
            return {"ns": time_calls(call, block_s, most)}
        finally:
            gc.enable()

    def parts(self, block_s: float, most: int) -> Answer:
        from gantk.bench.gpu import time_parts

        self._ready()
        return time_parts(self._runner, self._feeds, block_s, most)

    def output(self, path: str) -> Answer:
        import numpy as np

        call = self._ready()
        start = perf_counter_ns()
        call()
        duration = perf_counter_ns() - start
        # The outputs of what is timed, where that is a bound graph and not `run`.
        bound = self._bound
        made = self._runner.run(self._feeds) if bound is None else bound.fetch()
        with named_errors(Path(path), "write", ANOTHER_PLACE):
            np.savez(path, **made)
        settle()  # While others load, not in the first round.
        return {"ns": duration, "graph": None if bound is None else bound.is_graph}

    def memory(self) -> Answer:
        """Of this process, and of the GPU by what the runner says of itself, where it does."""
        held = getattr(self._runner, "memory_bytes", None)
        return {**memory(), "gpu_bytes": None if held is None else sum(held.values())}

    def _ready(self) -> Callable[[], Any]:
        if self._call is None:
            raise GantkError("a worker wants `load` and `feed` first")
        return self._call


def settle() -> None:
    """Collect garbage, and keep what is left out of later collections: PyTorch's objects take one 160 ms each time."""
    gc.collect()
    gc.freeze()


def time_calls(call: Callable[[], Any], block_s: float, most: int) -> list[int]:
    """Call for so long, at least once and at most so often; the duration of each call, in ns."""
    clock = perf_counter_ns
    durations = []
    deadline = clock() + int(block_s * 1e9)
    for _ in range(most):
        start = clock()
        call()
        end = clock()
        durations.append(end - start)
        if end >= deadline:
            break
    return durations


def memory() -> dict[str, int]:
    """The resident memory of this process now and at its highest, in bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kib = {name: int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")}
    return {"rss_bytes": kib["VmRSS"] * 1024, "peak_rss_bytes": kib["VmHWM"] * 1024}


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until one says ``quit`` or there are no more."""
    session = Session()
    known = {name: getattr(session, name) for name in ("load", "feed", "run", "parts", "output", "memory")}
    for line in requests:
        request = decode(line)
        action = request.pop("do", None)
        if action == "quit":
            _answer(answers, {})
            return
        try:
            if action not in known:
                raise GantkError(f"{action!r} is not a request; known are {', '.join(known)}, quit")
            _answer(answers, known[action](**request))
        except Exception as error:
            if isinstance(error, GantkError):  # In one line, as reasons stand in a sentence.
                text = "; ".join(filter(None, (error.what, error.hint)))
            else:
                with suppress(OSError):  # Where the log is, there may be no room.
                    traceback.print_exc()
                text = f"{type(error).__name__}: {error}"
            _answer(answers, {"error": text})


def _answer(stream: BinaryIO, message: Answer) -> None:
    stream.write(encode(message))
    stream.flush()


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however that happens."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # It ended before we asked.
        os._exit(1)


def main() -> None:
    if len(sys.argv) > 1:
        _die_with(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:
        pass
    finally:
        # Vendor libraries are known to hang or crash while they are torn down; nothing is left to save.
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
