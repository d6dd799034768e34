# SPDX-License-Identifier: Apache-2.0
"""Both kinds of backends on fake GPUs, under one face."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fake_onnxruntime
import gantk
import networks
from engine_lab import make_lab, picture
from fake_cuda import FakeCuda


@dataclass
class Here:
    """A backend on a fake GPU.

    Args:
        cuda: CUDA.
        open: Opens a runner.
        x: Makes an input from a seed.
        smaller: Likewise, of another shape that wants less memory.
        right: The output for an input.
        names: Of the input and of the output.
    """

    cuda: FakeCuda
    open: Callable[[], Any]
    x: Callable[[int], np.ndarray]
    smaller: Callable[[int], np.ndarray]
    right: Callable[[np.ndarray], np.ndarray]
    names: tuple[str, str]

    def stream(self, flags: int = 1) -> int:
        return self.cuda.cudaStreamCreateWithFlags(flags)[1]

    def launch(self, runner: Any, x: Any, stream: Any, out: Any = None) -> Any:
        """The output of a launch, to new memory or to `out`."""
        given = {} if out is None else {self.names[1]: out}
        return runner.launch({self.names[0]: x}, stream, given)[self.names[1]]

    def values(self, array: Any) -> np.ndarray:
        """What is in memory now."""
        data = self.cuda.device[array.address]
        return np.frombuffer(data, array.dtype).reshape(array.shape)

    def check(self, found: np.ndarray, x: np.ndarray) -> None:
        np.testing.assert_allclose(found, self.right(x), rtol=1e-6)


def engine(path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    lab = make_lab(path, monkeypatch)
    return Here(
        lab.cuda,
        lab.open,
        lambda seed: picture(1, 2, 8, 8, seed=seed),
        lambda seed: picture(1, 2, 4, 4, seed=seed),
        lambda x: 2 * x + 1,
        ("x", "y"),
    )


def session(path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    file = path / "x.onnx"
    file.write_bytes(networks.generator())
    real = fake_onnxruntime.REAL(str(file), providers=["CPUExecutionProvider"])
    cuda = fake_onnxruntime.install(monkeypatch).cuda

    def latent(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((2, networks.LATENT), np.float32)

    return Here(
        cuda,
        lambda: gantk.open(file, "onnxruntime", device="cuda"),
        latent,
        lambda seed: latent(seed)[:1],
        lambda x: np.asarray(real.run(None, {"latent": x})[0]),
        ("latent", "picture"),
    )


KINDS = {"engine": engine, "onnxruntime": session}


def in_a_thread(work: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    if errors:
        raise errors[0]
