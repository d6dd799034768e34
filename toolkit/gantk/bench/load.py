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
        self._start = _machine_ticks(os.sched_getaffinity(0))
        self._ours = {pid: _process_ticks(pid) for pid in (os.getpid(), *pids)}

    def share(self) -> float:
        """The share of the usable cores' time since the start, from 0 to 1; 0 where it cannot be read.

        What a process spent that is gone by now counts as other work.
        """
        now = _machine_ticks(os.sched_getaffinity(0))
        elapsed, busy = (after - before for after, before in zip(now, self._start, strict=True))
        ours = sum(max(0, _process_ticks(pid) - before) for pid, before in self._ours.items())
        return min(1.0, max(0, busy - ours) / elapsed) if elapsed > 0 else 0.0


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
