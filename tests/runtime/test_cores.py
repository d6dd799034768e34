# SPDX-License-Identifier: Apache-2.0
"""Threads are as many as the cores that a process may use, and no more than a container's quota of time feeds."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from gantk.runtime import cores


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4.0),  # As a container sees it.
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {}, math.inf),
        (
            "9:memory:/c\n3:cpu,cpuacct:/c\n0::/\n",
            {"cpu/c/cpu.cfs_quota_us": "50000\n", "cpu/c/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        (  # In a container the path is the host's, and the mount the container's own.
            "3:cpu,cpuacct:/docker/0123\n",
            {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2.0,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ("0::/\n", {"cpu.max": "what\n"}, math.inf),
        (None, {}, math.inf),
    ],
)
def test_the_quota_of_control_groups(
    groups: str | None, files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    assert cores.quota(tmp_path / "cgroup", tmp_path / "groups") == expected


@pytest.mark.parametrize(("quota", "count"), [(math.inf, 8), (1.5, 2), (0.25, 1), (16.0, 8)])
def test_the_smaller_of_affinity_and_quota(quota: float, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores, "quota", lambda: quota)
    assert cores.core_count() == count
