# SPDX-License-Identifier: Apache-2.0
"""The C++ runner with ONNX Runtime on an NVIDIA GPU, beside the Python one; `pytest -m gpu`."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

import gantk
import networks
from cpp_library import Library, Tensor
from gantk.runtime.registry import status

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in status("onnxruntime").devices, reason="ONNX Runtime has no GPU here"),
]

CLOSE = {"fp32": 1e-5, "fp16": 4e-3}
"""cuDNN's kernels add in any order, and the two runners may get different ones."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return networks.bundle(
        tmp_path / "x.gantk", {(name, "plain"): networks.generator(name) for name in CLOSE}
    ).root


def on_gpu(**tensors: torch.Tensor) -> ctypes.Array[Tensor]:
    return (Tensor * len(tensors))(*(Tensor.on_gpu(name, tensor) for name, tensor in tensors.items()))


@pytest.mark.parametrize("precision", CLOSE)
def test_arrays_in_main_memory(library: Library, bundle: Path, precision: str) -> None:
    with (
        gantk.open(bundle, "onnxruntime", precision, "cuda") as python,
        library.open(bundle, precision=precision, device="cuda") as cpp,
    ):
        assert (cpp.fact("backend"), cpp.fact("precision")) == ("onnxruntime", precision)
        for seed, batch in enumerate((1, 7, 1, 3, 7)):
            feeds = {"latent": networks.latents(batch, seed)}
            wanted, found = python.run(feeds)["picture"], cpp.run(feeds)["picture"]
            into = np.zeros_like(wanted)
            cpp.run_into(feeds, {"picture": into})
            for picture in (found, into):
                np.testing.assert_allclose(picture, wanted, rtol=0, atol=CLOSE[precision])


@pytest.mark.parametrize("has_stream", [False, True], ids=["default stream", "stream"])
@pytest.mark.parametrize("precision", CLOSE)
def test_arrays_on_the_gpu(library: Library, bundle: Path, precision: str, has_stream: bool) -> None:
    stream = torch.cuda.Stream() if has_stream else torch.cuda.default_stream()
    with (
        gantk.open(bundle, "onnxruntime", precision, "cuda") as python,
        library.open(bundle, precision=precision, device="cuda", stream=stream.cuda_stream) as cpp,
        torch.cuda.stream(stream),
    ):
        latent = torch.from_numpy(networks.latents(5, 0)).cuda()
        once, again = (torch.empty(5, 3, networks.SIDE, networks.SIDE, device="cuda") for _ in range(2))
        with cpp.bind_at(on_gpu(latent=latent), on_gpu(picture=again)) as run_again:
            for seed in range(1, 6):
                fresh = networks.latents(5, seed)
                latent.copy_(torch.from_numpy(fresh))  # In the order of the stream, as all that follows.
                cpp.run_at(on_gpu(latent=latent), on_gpu(picture=once))
                run_again()
                wanted = python.run({"latent": fresh})["picture"]
                for picture in (once, again):
                    np.testing.assert_allclose(picture.cpu().numpy(), wanted, rtol=0, atol=CLOSE[precision])
