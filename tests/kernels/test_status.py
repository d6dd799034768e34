# SPDX-License-Identifier: Apache-2.0
"""What `gantk doctor` says of the kernels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gantk.cli.main import main
from gantk.errors import BackendMissingError
from gantk.kernels import cache, device, driver, status
from gantk.kernels.cache import DiskCache
from gantk.runtime import driver as probing
from gantk.runtime.driver import Driver

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
from fake_gpu import FakeCuda, FakeGPU


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def test_gpus_and_what_code_is_compiled_for(install: Callable[..., FakeCuda], folder: Path) -> None:
    install(memory=None, gpus=(FakeGPU((9, 0)), FakeGPU((7, 0)), FakeGPU((12, 1))))
    DiskCache(folder).put("gram", b"x" * 1000)
    report = status.examine()
    assert report["works"]
    assert report["reason"] is report["hint"] is None
    assert report["devices"][0] == {"name": "Fake", "compute_capability": "9.0", "target": "sm_90a"}
    assert "compute capability 7.0" in report["devices"][1]["reason"]
    assert report["devices"][2]["target"] == "sm_120"
    assert report["cache"] == {"folder": str(folder), "size_bytes": 1032, "writable": True}
    assert report["nvrtc"] == "13.0" or int(report["nvrtc"].split(".")[0]) >= 12
    assert {"cuda-bindings", "nvidia-cuda-nvrtc"} <= set(report["packages"])
    json.dumps(report)


def test_no_driver(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for module in (driver, status):
        monkeypatch.setattr(module, "probe", lambda: Driver(works=False, reason="no NVIDIA driver: none"))
    monkeypatch.setattr(device, "_gpus", {})
    report = status.examine()
    assert not report["works"]
    assert report["reason"] == "the kernels need an NVIDIA GPU: no NVIDIA driver: none"
    assert report["devices"] == []
    assert report["cache"] == {"folder": str(folder), "size_bytes": 0, "writable": True}
    assert not folder.exists()  # Nothing is changed.


def missing() -> Any:
    raise BackendMissingError("NVRTC is not there: lost", hint="pip install 'gantk[kernels]'")


def test_no_nvrtc(install: Callable[..., FakeCuda], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    install(memory=None)
    monkeypatch.setattr(device, "known_architectures", missing)
    monkeypatch.setattr(status, "nvrtc_version", missing)
    report = status.examine()
    assert not report["works"]
    assert (report["nvrtc"], report["hint"]) == (None, "pip install 'gantk[kernels]'")
    assert report["devices"] == [{"name": "Fake", "reason": "NVRTC is not there: lost"}]


def test_the_cache_may_be_off_or_read_only(monkeypatch: pytest.MonkeyPatch, unprivileged: Path) -> None:
    monkeypatch.setenv(cache.VARIABLE, "off")
    assert status._cache() is None
    monkeypatch.setenv(cache.VARIABLE, str(unprivileged / "a" / "b"))
    unprivileged.chmod(0o500)
    assert status._cache() == {"folder": str(unprivileged / "a" / "b"), "size_bytes": 0, "writable": False}
    unprivileged.chmod(0o700)


def test_doctor_shows_the_kernels(
    install: Callable[..., FakeCuda], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(memory=None, gpus=(FakeGPU((8, 6)),))
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "CUDA kernels" in shown
    assert "Fake: sm_86" in shown
    assert str(folder) in shown
    assert main(["doctor", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)["kernels"]
    assert report["works"]
    assert report["devices"][0]["target"] == "sm_86"


def test_doctor_says_why_torch_does_the_kernels_work(
    install: Callable[..., FakeCuda],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(memory=None)
    monkeypatch.setattr(device, "known_architectures", missing)
    found = Driver(works=True, cuda_version="13.0", devices=("Fake",))
    monkeypatch.setattr(probing, "probe", lambda: found)
    main(["doctor"])
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "the CUDA kernels do not run, torch does their work: NVRTC is not there: lost: pip install" in shown
    )
