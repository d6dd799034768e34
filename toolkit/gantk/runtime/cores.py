# SPDX-License-Identifier: Apache-2.0
"""How many cores this process may use: more threads than that wait for one another instead of working."""

from __future__ import annotations

import math
import os
from pathlib import Path


def core_count() -> int:
    """The cores that this process may run on, or fewer where it has a quota of their time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(allowed, quota()))


def quota(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float:
    """The cores' worth of time that control groups leave, as `docker run --cpus` and Kubernetes' limits set them.

    Args:
        root: Where the groups are mounted, of either version.
        groups: The file that says which ones the process is in.

    Returns:
        Above 0; infinite where there is no limit, or nothing is known.
    """
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return math.inf
    least = math.inf
    for number, controllers, path in lines:
        if number == "0" or "cpu" in controllers.split(","):
            mount = root if number == "0" else root / "cpu"
            # In a container the mount is its own group already, whatever the path says.
            for group in (Path(path), *Path(path).parents):
                least = min(least, _quota_of(mount / group.relative_to("/")))
    return least


def _quota_of(group: Path) -> float:
    try:
        if (group / "cpu.max").is_file():  # The second version.
            quota, period = map(int, (group / "cpu.max").read_text().split())
        else:
            quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):  # No such group or controller, or `max`.
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
