# SPDX-License-Identifier: Apache-2.0
"""The C++ runner with ONNX Runtime on an NVIDIA GPU, beside the Python one; `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gantk
import networks
from cpp_apart import WAYS, run_apart
from gantk.runtime.registry import status

CLOSE = {"fp32": 1e-5, "fp16": 4e-3}
"""cuDNN's kernels add in any order, and the two runners may get different ones."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return networks.bundle(
        tmp_path / "x.gantk", {(name, "plain"): networks.generator(name) for name in CLOSE}
    ).root


def check(built: Path, bundle: Path, precision: str, device: str, way: str) -> None:
    """The C++ runner makes what the Python one makes of the same, which comes in other shapes in main memory."""
    batches = (1, 7, 1, 3, 7) if way == "arrays" else (5,) * 5
    latents = [networks.latents(batch, seed) for seed, batch in enumerate(batches)]
    library = built / "src/libgantk.so"
    found = run_apart(library, bundle, precision, device, way, latents, bundle.parent)
    with gantk.open(bundle, "onnxruntime", precision, device) as python:
        for latent, pictures in zip(latents, found, strict=True):
            wanted = python.run({"latent": latent})["picture"]
            for picture in pictures:
                np.testing.assert_allclose(picture, wanted, rtol=0, atol=CLOSE[precision])


@pytest.mark.gpu
@pytest.mark.skipif("cuda" not in status("onnxruntime").devices, reason="ONNX Runtime has no GPU here")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", CLOSE)
def test_on_a_gpu(built: Path, bundle: Path, precision: str, way: str) -> None:
    check(built, bundle, precision, "cuda", way)


def test_what_runs_it_works(built: Path, bundle: Path) -> None:
    """On a CPU, lest only a GPU's session finds out that it does not."""
    check(built, bundle, "fp32", "cpu", "arrays")
    with pytest.raises(AssertionError, match=r"onnxruntime has no device 'cuda' here(?s:.*)hint: "):
        check(built, bundle, "fp32", "cuda", "arrays")
