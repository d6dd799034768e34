# SPDX-License-Identifier: Apache-2.0
"""How much other work took of the machine while something was measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

DISTURBED = 0.05
"""The share of the usable cores' time from which other work disturbs a measurement."""


class Interference:
    """Counts the processor time that neither this process nor some others spent, from now on.

    Time that the hypervisor gave to other machines ("stolen") counts as other work.

    Args:
        pids: Of the processes whose time is ours.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = (os.getpid(), *pids)
        self._start = self._read()

    def share(self) -> float:
        """The share of the usable cores' time since the start, from 0 to 1; 0 where it cannot be read."""
        elapsed, busy, ours = (now - then for now, then in zip(self._read(), self._start, strict=True))
        return min(1.0, max(0.0, busy - ours) / elapsed) if elapsed > 0 else 0.0

    def _read(self) -> tuple[int, int, int]:
        total, busy = _machine_ticks(os.sched_getaffinity(0))
        return total, busy, sum(_process_ticks(pid) for pid in self._pids)


def _machine_ticks(cores: set[int]) -> tuple[int, int]:
    """All ticks, and those not idle, of some cores since the machine started."""
    total = busy = 0
    for line in _lines("/proc/stat"):
        name, *fields = line.split()
        if name.removeprefix("cpu").isdigit() and int(name[3:]) in cores:
            user, nice, system, idle, waiting, irq, softirq, stolen, *_ = map(int, fields)
            busy += user + nice + system + irq + softirq + stolen
            total += user + nice + system + irq + softirq + stolen + idle + waiting
    return total, busy


def _process_ticks(pid: int) -> int:
    """The ticks that all threads of a process have spent; 0 where it is gone."""
    for line in _lines(f"/proc/{pid}/stat"):
        fields = line.rpartition(")")[2].split()  # the name before it may hold anything
        return int(fields[11]) + int(fields[12])
    return 0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
