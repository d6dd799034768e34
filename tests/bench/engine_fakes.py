# SPDX-License-Identifier: Apache-2.0
"""Engines in a worker, on the fakes of the product and of CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fake_tensorrt
from engine_lab import install
from gantk.bench.subject import open_engine
from gantk.runtime.runner import Runner


def open_on_fakes(path: str, **options: Any) -> Runner:
    install(Path(path).parent / "cache", pytest.MonkeyPatch())
    return open_engine(path, **options)


def open_without_events(path: str, **options: Any) -> Runner:
    """Everything works but for events, which only measuring the parts of a call wants."""
    _, cuda = install(Path(path).parent / "cache", pytest.MonkeyPatch())
    cuda.fail["cudaEventCreate"] = 1
    return open_engine(path, **options)


def open_unbindable(path: str, **options: Any) -> Runner:
    """An engine that tells the size of an output when it runs; the data are such that it is that of the batch."""
    patch = pytest.MonkeyPatch()
    trt, _ = install(Path(path).parent / "cache", patch)
    trt.open = ("y",)
    patch.setattr(fake_tensorrt, "LEVEL", -1)
    return open_engine(path, **options)
