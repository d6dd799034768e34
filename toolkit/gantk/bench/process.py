# SPDX-License-Identifier: Apache-2.0
"""The benchmark's side of a worker process: start, ask, pause, and never leave one behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from gantk.bench.protocol import decode, encode
from gantk.errors import GantkError

QUIT_S = 2.0
_TAIL_LINES = 3


class WorkerError(GantkError):
    """A worker answered with an error, took too long, or died."""


class Worker:
    """A process that runs one contender.

    Args:
        name: For messages.
        folder: Where its standard error is kept.
        threads: What the usual environment variables tell numeric libraries to use.
        environment: Further variables.
        command: The program; gantk's own worker by default.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        threads: int,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._log = folder / f"worker-{time.monotonic_ns()}.log"
        self._buffer = b""
        self._stopped = self._ended = False
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*(command or (sys.executable, "-m", "gantk.bench.worker")), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **_environment(threads), **(environment or {})},
                # Its own group: Ctrl-C reaches us alone, and its compilers can be ended with it.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, timeout_s: float, /, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            WorkerError: The answer is an error, does not come in time, or the process died.
        """
        self.resume()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode(request))
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error
        line = self._read_line(time.monotonic() + timeout_s)
        if line is None:
            self.kill()
            raise WorkerError(f"no answer to `{request['do']}` within {timeout_s:g} s")
        try:
            answer = decode(line)
        except ValueError as error:
            self.kill()
            raise WorkerError(f"it does not speak the protocol: {line[:80]!r}") from error
        if "error" in answer:
            raise WorkerError(str(answer["error"]))
        return answer

    def pause(self) -> None:
        """Stop every thread of it, also those that spin while they wait for work."""
        if not self._stopped and not self._ended:
            os.kill(self.pid, signal.SIGSTOP)
            self._stopped = True

    def resume(self) -> None:
        if self._stopped and not self._ended:
            os.kill(self.pid, signal.SIGCONT)
        self._stopped = False

    def kill(self) -> None:
        """End it and what it started, at once, also where it has ended by itself."""
        if not self._ended:  # Later its number may be another's.
            self._ended = True
            end_group(self._process)

    def close(self) -> None:
        """Ask it to end, and make sure that it does."""
        if not self._ended:
            try:
                self.ask(QUIT_S, do="quit")
                self._process.wait(QUIT_S)
            except (WorkerError, subprocess.TimeoutExpired):
                pass
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.close()

    def _read_line(self, deadline: float) -> bytes | None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise self._died()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> WorkerError:
        try:
            status = self._process.wait(QUIT_S)
        except subprocess.TimeoutExpired:
            return WorkerError(f"it closed its pipe{self._last_words()}")
        finally:
            self.kill()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return WorkerError(f"the process {how}{self._last_words()}")

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return ": " + " | ".join(lines[-_TAIL_LINES:]) if lines else ""


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, and those that it started, which may outlive it."""
    with suppress(ProcessLookupError):  # None of them is left.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**dict.fromkeys(names, str(threads)), "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
