# SPDX-License-Identifier: Apache-2.0
"""What all tests share: one thread each, so that two workers of pytest suit two cores, and a calm hypothesis."""

from __future__ import annotations

import fcntl
import gc
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

import exporter
from gantk.runtime.operators import OPERATORS
from gantk.runtime.products import PRODUCTS, Product

# Before anybody imports torch. Threads of the few tests that want two sleep while they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The suite does not depend on whether the package of native operators is installed.
os.environ.setdefault(OPERATORS, "")

# Tests import ONNX Runtime by themselves too, and it would tell Microsoft (see onnxruntime_session.py).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Dozens of processes import the package, and would compile it anew where nobody may keep what was compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# While all is imported there is hardly any garbage to look for, and ever more to look through.
gc.disable()

settings.register_profile(
    "gantk", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("gantk")

# Files that take longest go first, lest one of them be left to one worker at the end; among them those that build.
LONGEST = (
    "cpp/test_programs.py",
    "cpp/test_bench.py",
    "export/test_pictures.py",
    "cpp/test_conformance.py",
    "native/test_cpu_kernels.py",
    "test_house.py",
    "demo/test_demo.py",
    "train/test_style.py",
    "export/test_several_styles.py",
    "cpp/test_damaged_bundles.py",
    "cpp/test_tensorrt.py",
    "train/test_gan.py",
    "gatys/test_stylize.py",
    "engines/test_pipeline.py",
    "stylize/test_large.py",
    "train/test_killed_runs.py",
    "test_imports.py",
    "bench/test_run.py",
)

NOBODY = 65534
ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage, of which tests ask for many, need go through it."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say how files differ. pytest compares them line by line, of which 300 kB take it many minutes where CI is set."""
    if op != "==" or not isinstance(left, bytes) or not isinstance(right, bytes):
        return None
    if len(left) + len(right) < 1000:
        return None
    shared = min(len(left), len(right))
    differing = [index for index in range(shared) if left[index] != right[index]]
    first = differing[0] if differing else shared
    return [
        f"{len(left)} bytes == {len(right)} bytes",
        f"{len(differing)} of {shared} differ, from {first} to {differing[-1] if differing else shared}",
        f"at {first}: {left[first : first + 32]!r} == {right[first : first + 32]!r}",
        f"values: {sorted(set(left[first:]))[:20]} == {sorted(set(right[first:]))[:20]}",
    ]


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output does not depend on the terminal that the suite happens to run in."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """PyTorch seeds itself by the clock; here a test's numbers are the same in every run and in any order."""
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(0)  # That of GPUs would cost a millisecond.


@pytest.fixture(autouse=True)
def _one_table_of_operators() -> None:
    exporter.keep_operators()


@pytest.fixture(scope="module")
def traced_once() -> Iterator[None]:
    """For tests of what comes after PyTorch's exporter: a process traces the same network once."""
    with pytest.MonkeyPatch.context() as patch:
        exporter.trace_once(patch)
        yield


@pytest.fixture(scope="session")
def exported_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a step over a short VGG-19, not to be changed: exported by the worker that wants it first."""
    pytest.importorskip("torch", reason="a step of an optimisation is exported with PyTorch")
    from step_networks import export_short_step

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # The workers' own, of one run.
    with (folder / "step.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "step.gantk").exists():
            export_short_step(folder / "step.gantk")
    return folder / "step.gantk"


@pytest.fixture
def blank_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """For trainings whose curves nobody looks at: drawing takes as long as fifty steps of a tiny network."""
    picture = io.BytesIO()
    Image.new("L", (1, 1)).save(picture, "PNG")
    monkeypatch.setattr("gantk.train.plots._png", lambda *_: picture.getvalue())


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder in which the test acts as a user who may not do everything: as nobody, where it is root."""
    folder = Path(tempfile.mkdtemp(prefix="gantk-test-"))
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(os.getuid())
        shutil.rmtree(folder)


@pytest.fixture
def rtx() -> Product:
    """The product that builds without a GPU."""
    product = PRODUCTS["tensorrt-rtx"]
    if product.version is None:
        pytest.skip("wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'")
    return product


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real pictures for trials, kept outside the project; what needs them is skipped without."""
    path = Path(os.environ.get("GANTK_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("no trial data here; GANTK_DATA names its folder")
    return path
