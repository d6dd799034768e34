# SPDX-License-Identifier: Apache-2.0
"""What is said where engines cannot run: the driver, the memory, the weights or the installation are not as wanted."""

from __future__ import annotations

import ctypes
import gc
import re
from types import SimpleNamespace
from typing import Any

import pytest

from engine_lab import Lab, check, engine_of, picture, write_bundle
from gantk.errors import BackendMissingError, GantkError
from gantk.runtime import doctor, driver, products
from gantk.runtime.backends.tensorrt import open_engine
from gantk.runtime.driver import Driver
from gantk.runtime.products import PRODUCTS, load, need_driver
from gantk.runtime.registry import status

RTX = PRODUCTS["tensorrt-rtx"]
GPU = ("RTX 4090",)


class FakeLibrary:
    """The driver's library: its version, what `cuInit` gives, and how many GPUs it sees."""

    def __init__(self, version: int = 13000, started: int = 0, gpus: int = 1) -> None:
        self.version, self.started, self.gpus = version, started, gpus

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.started

    def cuDriverGetVersion(self, number: Any) -> int:  # noqa: N802
        number._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        name.value = b"RTX 4090"
        return 0

    def cuDeviceGetAttribute(self, number: Any, attribute: int, device: Any) -> int:  # noqa: N802
        number._obj.value = {75: 8, 76: 9}[attribute]
        return 0

    def cuGetErrorName(self, status: int, text: Any) -> int:  # noqa: N802
        text._obj.value = b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
        return 0


def probed(monkeypatch: pytest.MonkeyPatch, library: FakeLibrary | None) -> Driver:
    def find(name: str) -> FakeLibrary:
        if library is None:
            raise OSError(name)
        return library

    monkeypatch.setattr(ctypes, "CDLL", find)
    return driver.probe.__wrapped__()


def test_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probed(monkeypatch, FakeLibrary()) == Driver(True, "13.0", GPU, None, ("sm_89",))
    missing = probed(monkeypatch, None)
    assert (missing.works, missing.cuda_version) == (False, None)
    assert missing.reason == "no NVIDIA driver: libcuda.so.1 is not there"
    assert "install NVIDIA's driver" in (missing.hint or "")
    stuck = probed(monkeypatch, FakeLibrary(12040, started=803))
    assert (stuck.works, stuck.cuda_version) == (False, "12.4")
    assert "for CUDA 12.4, does not start: cuInit gives CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" in str(
        stuck.reason
    )
    assert "restart" in (stuck.hint or "")
    blind = probed(monkeypatch, FakeLibrary(gpus=0))
    assert (blind.works, blind.reason) == (False, "the NVIDIA driver sees no GPU")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The packages that are installed."""
    found = {"tensorrt-rtx": "1.7.1.116", "tensorrt-rtx-cu13": "1.7.1.116"}
    monkeypatch.setattr(products, "installed", lambda *names: {n: found[n] for n in names if n in found})
    return found


@pytest.mark.parametrize(
    ("version", "fits"), [("13.0", True), ("13.2", True), ("14.1", True), ("12.9", False), ("9.0", False)]
)
def test_a_driver_that_is_too_old(
    builds: dict[str, str], monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    monkeypatch.setattr(driver, "probe", lambda: Driver(True, version, GPU, targets=("sm_89",)))
    found = status("tensorrt-rtx")
    assert found.works == fits
    if fits:
        need_driver(RTX, "run engines")
        return
    text = f"the NVIDIA driver is too old: it serves CUDA {version}, and tensorrt-rtx 1.7.1.116 wants CUDA 13"
    assert text in (found.reason or "")
    with pytest.raises(BackendMissingError) as caught:
        need_driver(RTX, "run engines")
    assert caught.value.what == f"tensorrt-rtx cannot run engines here: {text}"
    assert "install NVIDIA's driver 580.65.06 or a later one" in (caught.value.hint or "")


def test_what_the_product_wants_is_not_guessed(
    builds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del builds["tensorrt-rtx-cu13"]  # E.g. a package of the system's, which does not tell.
    monkeypatch.setattr(driver, "probe", lambda: Driver(True, "12.9", GPU, targets=("sm_89",)))
    assert RTX.cuda_major is None
    need_driver(RTX, "run engines")


def test_opening_beside_an_old_driver_touches_nothing(
    lab: Lab, builds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "probe", lambda: Driver(True, "12.9", GPU, targets=("sm_89",)))
    with pytest.raises(BackendMissingError, match="too old: it serves CUDA 12.9, .* wants CUDA 13") as caught:
        lab.open()
    assert caught.value.exit_code == 3
    assert (lab.trt.calls, lab.cuda.calls) == ([], [])


@pytest.mark.parametrize("target", ["sm_90", "sm_100", "sm_103"])
def test_a_gpu_on_which_the_product_runs_nothing(
    lab: Lab, builds: dict[str, str], monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    found = Driver(True, "12.9", ("H100",), targets=(target, "sm_89"))  # A newer driver would not help.
    monkeypatch.setattr(driver, "probe", lambda: found)
    for installed in (True, False):
        here = status("tensorrt-rtx")
        assert (here.devices, here.version is not None) == ((), installed)
        assert here.reason == (
            f"tensorrt-rtx runs no engine on H100 ({target}); it builds engines for other GPUs"
        )
        assert here.hint == (
            "backend onnxruntime runs on it, and so do engines of tensorrt: pip install 'gantk[tensorrt]'"
        )
        with pytest.raises(
            BackendMissingError, match="does not work here: tensorrt-rtx runs no engine"
        ) as caught:
            lab.open()
        assert caught.value.hint == here.hint
        builds.clear()
    assert (lab.trt.calls, lab.cuda.calls) == ([], [])
    assert status("tensorrt").reason == "it is not installed"


def test_an_engine_is_not_handed_to_a_product_that_cannot_run_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says it is for this GPU: the library loads it and refuses only then."""
    monkeypatch.setattr(driver, "probe", lambda: Driver(True, "13.0", ("H100",), targets=("sm_90",)))
    bundle = write_bundle(lab.root, engine_of(targets=("sm_90",)))
    with pytest.raises(
        BackendMissingError, match=r"tensorrt-rtx cannot run engines here: .* on H100 \(sm_90\)"
    ):
        open_engine(bundle, "tensorrt-rtx", None, None)
    assert (lab.trt.calls, lab.cuda.calls) == ([], [])
    need_driver(RTX, "build refit engines")  # It builds them for others all the same.


def test_doctor_says_where_a_product_runs_nothing(
    builds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "probe", lambda: Driver(True, "13.0", ("H100",), targets=("sm_90",)))
    advice = doctor.examine()["advice"]
    assert any(line.startswith("tensorrt-rtx runs no engine on H100 (sm_90)") for line in advice)
    assert "engines want a TensorRT product: pip install 'gantk[tensorrt]'" in advice
    builds.clear()
    advice = doctor.examine()["advice"]
    assert not any("tensorrt-rtx" in line for line in advice)
    monkeypatch.setattr(driver, "probe", lambda: Driver(True, "13.0", GPU, targets=("sm_89",)))
    assert any("pip install 'gantk[tensorrt-rtx]' (RTX cards)" in line for line in doctor.examine()["advice"])


def test_two_packages_of_a_product(builds: dict[str, str]) -> None:
    builds["tensorrt-rtx-cu12"] = "1.6.0.1"
    text = "tensorrt-rtx-cu12 1.6.0.1 and tensorrt-rtx-cu13 1.7.1.116 are both installed, and one has overwritten"
    found = status("tensorrt-rtx")
    assert not found.works
    assert text in (found.reason or "")
    with pytest.raises(BackendMissingError, match=text) as caught:
        load(RTX)
    hint = "pip uninstall -y tensorrt-rtx tensorrt-rtx-cu12 tensorrt-rtx-cu13 && pip install 'gantk[tensorrt-rtx]'"
    assert caught.value.hint == hint == found.hint


def test_two_releases_of_a_product(builds: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(__version__="1.7.1.116", __file__="elsewhere/tensorrt_rtx/__init__.py")
    monkeypatch.setattr(products, "import_module", lambda name: module)
    assert load(RTX) is module
    module.__version__ = "1.6.0.1"
    with pytest.raises(
        BackendMissingError,
        match="two releases of tensorrt-rtx are installed: its package is 1.7.1.116, and what is imported is "
        "1.6.0.1, of `elsewhere/tensorrt_rtx/__init__.py`",
    ):
        load(RTX)


def test_the_other_products_engines_are_told(lab: Lab) -> None:
    write_bundle(lab.root, engine_of(backend="tensorrt", version="11.4.0"))
    with pytest.raises(GantkError, match="has no tensorrt-rtx engine; it has engines of tensorrt\n"):
        lab.open()


@pytest.mark.parametrize(
    ("options", "hint"),
    [(("refit", "strip"), "gantk refit .* RUN"), (("strip",), "--to tensorrt-rtx builds one with them")],
)
def test_an_engine_without_its_weights(lab: Lab, options: tuple[str, ...], hint: str) -> None:
    write_bundle(lab.root, engine_of(options=options))
    with pytest.raises(GantkError, match="was built without its weights") as caught:
        lab.open()
    assert re.search(hint, caught.value.hint or "")
    assert lab.trt.calls == []


def test_one_with_its_weights_is_taken_beside_it(lab: Lab) -> None:
    write_bundle(lab.root, engine_of(options=("refit", "strip")), engine_of(options=("refit",)))
    with lab.open() as runner:
        check(runner, picture(1, 2, 4, 4))


SAID = "Error Code 2: OutOfMemory (Requested size was 4096 bytes.)"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            "deserialize_cuda_engine",
            r"engine` wants 0\.0 MiB of GPU memory .*; 1024\.0 of 1024\.0 MiB are free",
        ),
        (
            "create_execution_context",
            r"a context of .* wants 3\.0 MiB of GPU memory .*; 1024\.0 of 1024\.0 MiB",
        ),
        (
            "execute_async_v3",
            r"cannot run: .*Requested size was 4096.* memory 10\d\d\.\d of 1024\.0 MiB are free",
        ),
    ],
)
def test_out_of_gpu_memory(lab: Lab, call: str, text: str) -> None:
    lab.trt.fail[call], lab.trt.words[call] = 1, SAID
    with pytest.raises(GantkError, match=text) as caught:
        lab.open()
    assert "end what else uses the GPU" in (caught.value.hint or "")
    caught.value.__traceback__ = None
    del caught
    gc.collect()
    assert (lab.cuda.leaks, lab.trt.alive) == ({}, 0)


def test_out_of_pinned_memory(lab: Lab) -> None:
    with lab.open() as runner:
        lab.cuda.fail["cudaMallocHost"] = lab.cuda.calls.count("cudaMallocHost") + 1
        with pytest.raises(GantkError, match=r"'x' of .* wants 0\.0 MiB of pinned host memory") as caught:
            runner.run({"x": picture(1, 2, 64, 64)})
        assert "ulimit -l" in (caught.value.hint or "")
        check(runner, picture(1, 2, 64, 64))


def test_a_context_is_made_without_a_configuration_too(lab: Lab) -> None:
    lab.trt.fail["create_runtime_config"] = 2  # The first is the cache's own.
    with lab.open() as runner:
        check(runner, picture(1, 2, 4, 4))
