# SPDX-License-Identifier: Apache-2.0
"""The GPU that a measurement depends on: what it is, and how fast its clocks run at the moment."""

from __future__ import annotations

import re
import subprocess
from typing import Any

_QUERY = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active")
_NAMES = ("sm_mhz", "memory_mhz", "temperature_c", "power_w", "limits")
IDLE = 0x1  # Of the bits that say why clocks are low: nothing to do.


def describe() -> dict[str, Any]:
    """The GPU of PyTorch, as JSON."""
    import torch

    from gantk.runtime.driver import probe

    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "compute_capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "l2_bytes": found.L2_cache_size,
        "driver_cuda": probe().cuda_version,
        "cuda": torch.version.cuda,
    }


def clocks() -> dict[str, Any] | None:
    """What `nvidia-smi` says now; `None` where it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_clocks(done.stdout)


def parse_clocks(line: str) -> dict[str, Any]:
    """Numbers of one line of `nvidia-smi`; what it does not know is `None`."""
    values: list[float | int | None] = []
    for text in line.strip().split(","):
        word = text.strip()
        try:
            values.append(int(word, 16) if word.startswith("0x") else float(word))
        except ValueError:
            values.append(None)
    return dict(zip(_NAMES, values, strict=False))


def throttled(samples: list[dict[str, Any]]) -> bool:
    """Whether anything but idleness held the clocks down in one of the samples."""
    return any(int(sample.get("limits") or 0) & ~IDLE for sample in samples)


def slug(name: str) -> str:
    """A GPU's name as part of a file's: ``NVIDIA H200`` is ``h200``."""
    short = re.sub(r"(?i)nvidia|geforce|tesla", "", name)
    return re.sub(r"[^a-z0-9]+", "-", short.lower()).strip("-") or "gpu"
