# SPDX-License-Identifier: Apache-2.0
"""Programs that run a bundle in C++ on a GPU that is none, before stand-ins for its libraries and for CUDA's driver.

Streams of the stand-in do nothing until they are waited for, and everything tells what it is asked to do.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx import helper, numpy_helper

import networks
from bundle_engines import make_engine
from cpp_library import SOURCE, build_cpp, onnxruntime_library
from gantk.bundle import Bundle, FileRef, ShapeRange
from native_build import newer_onnxruntime_root, with_clang

CUDA_HEADERS = [
    Path(root) / "include/cuda.h"
    for root in (os.environ.get("CUDA_PATH", "/usr/local/cuda"), "/usr/local/cuda", "/usr")
]
PRODUCTS = {"tensorrt": ("enterprise", "11.1.0.0"), "tensorrt-rtx": ("rtx", "1.7.0.0")}
LIBRARY_VARIABLES = {"tensorrt": "GANTK_TENSORRT", "tensorrt-rtx": "GANTK_TENSORRT_RTX"}
SAMPLE_BYTES = 2**20
"""What an engine of the stand-in wants for each sample but the first."""

RUNS = {"onnxruntime": "RunWithBinding", "tensorrt": "enqueueV3", "tensorrt-rtx": "enqueueV3"}


class Trial(NamedTuple):
    """The program, and what of the machine it is to see."""

    backend: str
    folder: Path
    bundle: Path

    @property
    def run_name(self) -> str:
        """What the library calls a run."""
        return RUNS[self.backend]

    @property
    def environment(self) -> dict[str, str]:
        """In which the stand-ins are found."""
        name, stand_ins = self.backend.replace("-", "_"), self.folder / "tests/gpu"
        library = "onnxruntime" if self.backend == "onnxruntime" else "tensorrt"
        found = {
            "XDG_CACHE_HOME": str(self.bundle.parent / "cache"),
            "LD_LIBRARY_PATH": str(stand_ins),
            f"GANTK_{name.upper()}": str(stand_ins / f"libgantk_stand_in_{library}.so"),
            "STAND_IN_ONNXRUNTIME": str(onnxruntime_library()),
        }
        if self.backend in PRODUCTS:
            found["GANTK_BACKENDS"] = str(self.folder / f"src/tensorrt/libgantk_{name}.so")
        return found

    def run(self, fault: str = "", **environment: str) -> list[str]:
        """What is said, line by line, while everything works but for one function."""
        return self.said_by("gpu_trial", STAND_IN_FAULT=fault, **environment)

    def run_threads(self, device: str, what: str, **environment: str) -> list[str]:
        """The same of a program in which four threads do something at once."""
        return self.said_by("gpu_threads", device, what, **environment)

    def said_by(self, program: str, *words: str, **environment: str) -> list[str]:
        command = [self.folder / f"tests/gpu/gantk_{program}", self.bundle, self.backend, *words]
        everything = {**os.environ, **self.environment, **environment}
        everything.pop("GANTK_ONNXRUNTIME_OPS", None)  # A program may name operators itself.
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=everything)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()


def summing_network() -> bytes:
    """latent [N, 4] -> picture [N, 3, 8, 8]: each pixel its index and the sum of the latent vector."""
    places = np.arange(3 * networks.SIDE**2, dtype=np.float32).reshape(1, 3, networks.SIDE, networks.SIDE)
    weights = [
        numpy_helper.from_array(places, "places"),
        numpy_helper.from_array(np.array([1], np.int64), "across"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["latent", "across"], ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "axes"], ["pixel"]),
        helper.make_node("Add", ["places", "pixel"], ["picture"]),
    ]
    ends = [[helper.make_tensor_value_info(spec.name, 1, spec.shape)] for spec in networks.specs()]
    return networks.model_bytes(helper.make_graph(nodes, "sums", *ends, weights))


def latents(first: int, last: int) -> ShapeRange:
    """Some numbers of samples."""
    return ShapeRange((first, networks.LATENT), (first, networks.LATENT), (last, networks.LATENT))


def add_engine(bundle: Bundle, product: str, data: bytes = b"engine", **changes: Any) -> None:
    """An engine that needs no verdict."""
    (bundle.root / "engines").mkdir(exist_ok=True)
    (bundle.root / "engines/a.engine").write_bytes(data)
    facts: dict[str, Any] = {
        "file": FileRef.of("engines/a.engine", data),
        "backend": product,
        "version": PRODUCTS[product][1],
        "profiles": ({"latent": latents(1, 4)},),
        "options": (),
        "plugins": (),
        "parity": (),
    }
    engine = make_engine(bundle.manifest.variants[0], {}, **{**facts, **changes})
    manifest = replace(bundle.manifest, engines=(engine,), probe=None)
    (bundle.root / "manifest.json").write_bytes(manifest.dumps())


def make_trial(backend: str, tmp_path: Path, *, checked: str) -> Trial:
    """A bundle with what a backend runs, and the programs that run it, built with a sanitizer."""
    if not any(path.is_file() for path in CUDA_HEADERS):
        pytest.skip("cuda.h is missing: install the CUDA toolkit")
    product = backend if backend in PRODUCTS else "tensorrt"  # One build does for both.
    options = (
        f"-DTENSORRT_ROOT={SOURCE}/tests/tensorrt/{PRODUCTS[product][0]}",
        f"-DGANTK_SANITIZE={checked}",
    )
    folder = build_cpp(
        "gantk_gpu_trial",
        "gantk_gpu_threads",
        "gantk-bench-worker",
        "gantk-run",
        options=("--preset", "sanitize", *options, *with_clang()),
        root=newer_onnxruntime_root(),
    )
    bundle = networks.bundle(tmp_path / "x.gantk", {("fp32", "plain"): summing_network()})
    if backend in PRODUCTS:
        add_engine(bundle, backend)
    return Trial(backend, folder, bundle.root)


def sections(said: list[str]) -> dict[str, list[str]]:
    """What is asked of the driver and the library, and what comes of it, by what the program said that it does.

    Without the order of streams.
    """
    found: dict[str, list[str]] = {}
    for line in said:
        if line.startswith(("bind", "bound run", "run")):
            found[line] = []
        elif found and line.strip() not in ("cuEventRecord", "cuStreamWaitEvent"):
            found[list(found)[-1]].append(line.strip())
    return found


def assert_all_is_right(said: list[str]) -> None:
    """But for the one array that is looked at before it is waited for; and nothing is left."""
    assert said.count("wrong") == 1
    assert said.count("right") == 20
    assert said[-1] == "0 things were not given back"


TOGETHER = {"STAND_IN_TOGETHER": "4"}
