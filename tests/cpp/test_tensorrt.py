# SPDX-License-Identifier: Apache-2.0
"""The C++ backend of TensorRT and of TensorRT for RTX, before stand-ins for the product and for CUDA's driver.

Streams of the stand-in do nothing until they are waited for, and everything tells what it is asked to do.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

import networks
from bundle_engines import make_engine
from cpp_library import SOURCE, build_cpp
from gantk.bundle import FileRef, ShapeRange
from native_build import with_clang

HEADERS = [
    Path(root) / "include/cuda.h"
    for root in (os.environ.get("CUDA_PATH", "/usr/local/cuda"), "/usr/local/cuda", "/usr")
]
PRODUCTS = {"tensorrt": ("enterprise", "11.1.0.0"), "tensorrt-rtx": ("rtx", "1.1.0.0")}


class Trial(NamedTuple):
    """The program, and what of the machine it is to see."""

    product: str
    folder: Path
    bundle: Path

    def run(self, fault: str = "") -> list[str]:
        """What is said, line by line, while everything works but for one function."""
        name = self.product.replace("-", "_")
        libraries = self.folder / "tests/tensorrt"
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(libraries),
            f"GANTK_{name.upper()}": str(libraries / "libgantk_stand_in_product.so"),
            "STAND_IN_FAULT": fault,
        }
        backend = self.folder / f"src/tensorrt/libgantk_{name}.so"
        command = [libraries / "gantk_tensorrt_trial", backend, self.product, self.bundle]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()


@pytest.fixture(params=PRODUCTS)
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Trial:
    """A bundle with an engine that needs no verdict, and the program that runs it."""
    if not any(path.is_file() for path in HEADERS):
        pytest.skip("cuda.h is missing: install the CUDA toolkit")
    product: str = request.param
    root, version = PRODUCTS[product]
    options = (f"-DTENSORRT_ROOT={SOURCE}/tests/tensorrt/{root}", "-DGANTK_SANITIZE=address")
    folder = build_cpp("gantk_tensorrt_trial", options=("--preset", "sanitize", *options, *with_clang()))
    bundle = networks.bundle(tmp_path / "x.gantk")
    (bundle.root / "engines").mkdir()
    (bundle.root / "engines/a.engine").write_bytes(b"engine")
    shapes = ShapeRange((1, networks.LATENT), (1, networks.LATENT), (4, networks.LATENT))
    engine = make_engine(
        bundle.manifest.variants[0],
        {},
        file=FileRef.of("engines/a.engine", b"engine"),
        backend=product,
        version=version,
        profiles=({"latent": shapes},),
        options=(),
        plugins=(),
        parity=(),
    )
    (bundle.root / "manifest.json").write_bytes(
        replace(bundle.manifest, engines=(engine,), probe=None).dumps()
    )
    return Trial(product, folder, bundle.root)


def sections(said: list[str]) -> dict[str, list[str]]:
    """What is asked of the driver and the product, and what comes of it, by what the program said that it does."""
    found: dict[str, list[str]] = {}
    for line in said:
        if line.startswith(("bind", "bound run", "run")):
            found[line] = []
        elif found:
            found[list(found)[-1]].append(line.strip())
    return found


def assert_all_is_right(said: list[str]) -> None:
    """But for the one array that is looked at before it is waited for; and nothing is left."""
    assert said.count("wrong") == 1
    assert said[-1] == "0 things were not given back"


def test_a_bound_run_is_one_graph(trial: Trial) -> None:
    said = trial.run()
    found = sections(said)
    assert found["bind"][-8:] == [
        "cuStreamSynchronize",  # After a run that is as any other.
        "cuStreamBeginCapture",
        "cuMemcpyHtoDAsync",
        "enqueueV3, captured",
        "cuMemcpyDtoHAsync",
        "cuStreamEndCapture",
        "cuGraphInstantiate",
        "right",
    ]
    for name in ("bound run", "bound run without its runner"):
        assert found[name][:3] == ["cuGraphLaunch", "cuStreamSynchronize", "right"]
    # What stays on the GPU is queued on the caller's stream.
    assert found["bound run on it"] == ["cuGraphLaunch", "wrong", "cuStreamSynchronize", "right"]
    assert found["bind to arrays of the runner's"][-9:-4] == [
        "cuGraphInstantiate",
        "cuGraphLaunch",
        "cuStreamSynchronize",
        "on the GPU",
        "right",
    ]
    assert_all_is_right(said)
    # A graph keeps the kernels that a shape has when it is captured.
    assert ("kernels of a shape are compiled first" in found["bind"]) == (trial.product == "tensorrt-rtx")


@pytest.mark.parametrize(
    "fault", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "enqueueV3"]
)
def test_where_a_graph_is_refused_a_bound_run_is_as_any_other(trial: Trial, fault: str) -> None:
    said = trial.run(fault)
    assert "  cuGraphLaunch" not in said
    assert "enqueueV3" in sections(said)["bound run"]
    assert_all_is_right(said)


@pytest.mark.parametrize("fault", ["cuGraphLaunch", "cuMemcpyDtoHAsync"])
def test_what_the_driver_refuses_is_an_error(trial: Trial, fault: str) -> None:
    said = trial.run(fault)
    assert said[-2:] == [f"error: CUDA's {fault} failed: CUDA_ERROR_OF_THE_STAND_IN", f"  in: {fault}"]
