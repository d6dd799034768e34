# SPDX-License-Identifier: Apache-2.0
"""Runs of the C++ runner in a process of its own, as an application has it: with one ONNX Runtime.

Beside Python's runner there would be two, which share one CUDA provider, and Python's package would have loaded CUDA's
libraries for both. This file is the program too: `python cpp_apart.py LIBRARY BUNDLE PRECISION DEVICE WAY FOLDER`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import networks
from cpp_library import Library, Tensor, onnxruntime_library
from gantk.runtime.runner import Array

WAYS = ("arrays", "default stream", "stream")
"""Between arrays in main memory, or in GPU memory on one of PyTorch's streams."""

TIMEOUT_S = 60


def environment() -> dict[str, str]:
    """Where an application's user says that its libraries are (`toolkit/cpp/README.md`)."""
    folders = [folder for place in sys.path for folder in sorted(Path(place).glob("nvidia/*/lib"))]
    loader = [*map(str, folders), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LD_LIBRARY_PATH": os.pathsep.join(loader),
        "GANTK_ONNXRUNTIME": os.environ.get("GANTK_ONNXRUNTIME") or str(onnxruntime_library()),
    }


def run_apart(
    library: Path, bundle: Path, precision: str, device: str, way: str, latents: list[Array], folder: Path
) -> list[list[Array]]:
    """The pictures of one runner, for each latent array in turn as two ways of a kind make them.

    Args:
        library: `libgantk.so`.
        bundle: What it opens, of `networks.bundle`.
        precision: Of the file.
        device: `cpu` or `cuda`.
        way: One of `WAYS`; on a stream all arrays are of one shape.
        latents: What goes in.
        folder: For files.
    """
    np.savez(folder / "latents.npz", *latents)
    words = (library, bundle, precision, device, way, folder)
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))} ends with {done.returncode}:\n{done.stderr}"
    print(done.stdout, done.stderr)  # For `pytest -rP`: what libraries warn of.
    with np.load(folder / "pictures.npz") as found:
        return [[found[f"{index} {name}"] for name in ("once", "again")] for index in range(len(latents))]


def run_arrays(library: Library, bundle: str, options: dict[str, str], latents: list[Array]) -> list[Array]:
    """For each a fresh picture, and one in memory that is given."""
    found = []
    with library.open(bundle, **options) as runner:
        assert (runner.fact("backend"), runner.fact("precision")) == ("onnxruntime", options["precision"])
        for latent in latents:
            fresh = runner.run({"latent": latent})["picture"]
            into = np.zeros_like(fresh)
            runner.run_into({"latent": latent}, {"picture": into})
            found += [fresh, into]
    return found


def run_on_stream(
    library: Library, bundle: str, options: dict[str, str], latents: list[Array], *, own: bool
) -> list[Array]:
    """For each the picture of a run and of a bound run; all in the order of a stream."""
    import torch

    stream = torch.cuda.Stream() if own else torch.cuda.default_stream()
    found = []
    with (
        library.open(bundle, **options, stream=stream.cuda_stream) as runner,
        torch.cuda.stream(stream),
    ):
        latent = torch.from_numpy(latents[0]).cuda()
        shape = len(latent), 3, networks.SIDE, networks.SIDE
        pictures = [torch.empty(shape, device="cuda") for _ in range(2)]
        inputs = (Tensor * 1)(Tensor.on_gpu("latent", latent))
        once, again = ((Tensor * 1)(Tensor.on_gpu("picture", picture)) for picture in pictures)
        with runner.bind_at(inputs, again) as run_again:
            for fresh in latents:
                latent.copy_(torch.from_numpy(fresh))  # In the order of the stream, as all that follows.
                runner.run_at(inputs, once)
                run_again()
                found += [picture.cpu().numpy() for picture in pictures]
    return found


def main(library: str, bundle: str, precision: str, device: str, way: str, folder: str) -> None:
    with np.load(Path(folder) / "latents.npz") as given:
        latents = [given[name] for name in given.files]
    options = {"backend": "onnxruntime", "precision": precision, "device": device}
    if way == "arrays":
        found = run_arrays(Library(Path(library)), bundle, options, latents)
    else:
        found = run_on_stream(Library(Path(library)), bundle, options, latents, own=way == "stream")
    names = [f"{index} {name}" for index in range(len(latents)) for name in ("once", "again")]
    np.savez(Path(folder) / "pictures.npz", **dict(zip(names, found, strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
