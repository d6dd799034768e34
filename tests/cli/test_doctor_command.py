# SPDX-License-Identifier: Apache-2.0
"""`gantk doctor`, as a user calls it, and the driver that it asks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from gantk.bundle import ENGINE_BACKENDS
from gantk.runtime import registry
from gantk.runtime.cache import DATA_SET, VARIABLE
from gantk.runtime.operators import OPERATORS
from gantk.runtime.registry import BackendStatus

Gantk = Callable[..., Any]


def test_doctor(gantk: Gantk) -> None:
    report = gantk("doctor", "--json", "-").json
    assert report["works"]
    assert {status["name"] for status in report["backends"]} == {*registry.BACKENDS, *ENGINE_BACKENDS}
    done = gantk("doctor")
    assert done.status == 0
    assert all(name in done.out for name in registry.BACKENDS)


def test_doctor_on_native_operators(gantk: Gantk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPERATORS, "")
    assert gantk("doctor", "--json", "-").json["native_operators"] == {
        "library": None,
        "reason": None,
        "hint": None,
    }
    assert "no native ones for ONNX Runtime" in gantk("doctor").out
    missing, broken = tmp_path / "missing.so", tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    for library, reason in ((missing, "does not exist"), (broken, "cannot load the operators of")):
        monkeypatch.setenv(OPERATORS, str(library))
        report = gantk("doctor", "--json", "-").json
        assert report["native_operators"]["library"] == str(library)
        assert reason in report["native_operators"]["reason"]
        assert any(reason in line and "without" in line for line in report["advice"])
        done = gantk("doctor")
        assert f"{library.name}, which cannot be used" in done.out.replace("\n", "")
        assert done.status == 0  # ONNX Runtime itself works.


def test_doctor_on_the_cache(gantk: Gantk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "1.5")
    assert gantk("doctor", "--json", "-").json["cache"]["other_bytes"] == 0  # There is no folder yet.
    (tmp_path / "gantk" / "verdicts").mkdir(parents=True)
    (tmp_path / "gantk" / "verdicts" / "a.json").write_text("{}")
    with (tmp_path / "gantk" / f"a{DATA_SET}").open("wb") as stream:
        stream.truncate(2**30)
    assert gantk("doctor", "--json", "-").json["cache"] == {
        "folder": str(tmp_path / "gantk"),
        "writable": True,
        "data_sets_bytes": 2**30,
        "other_bytes": 2,
        "limit_bytes": 3 * 2**29,
        "reason": None,
    }
    said = " ".join(gantk("doctor").out.split())
    assert "decoded data sets 1.0 GiB, at most 1.5" in said
    monkeypatch.setenv(VARIABLE, "much")
    done = gantk("doctor")
    assert done.status == 0
    assert "GANTK_DATA_CACHE_GIB is 'much'" in done.out


def test_doctor_on_a_cache_that_keeps_nothing(gantk: Gantk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every training decodes its pictures anew, and nobody knows why."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    done = gantk("doctor")
    assert done.status == 0
    assert (
        f"-> nothing is kept from one command to the next, for `{os.devnull}/gantk` cannot be written"
        in done.out
    )
    assert "Everything that gantk uses" not in done.out
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless() -> NoReturn:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert "for this user has no home: XDG_CACHE_HOME=FOLDER" in gantk("doctor").out


@pytest.mark.parametrize("verb", ["run", "generate", "stylize"])
def test_help_lists_every_backend(gantk: Gantk, verb: str) -> None:
    said = gantk(verb, "-h").out
    assert all(name in said for name in (*registry.BACKENDS, *ENGINE_BACKENDS))


def test_doctor_without_any_backend(gantk: Gantk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in registry.BACKENDS:
        status = BackendStatus(name, None, (), "it is not installed", f"pip install {name}")
        monkeypatch.setattr(registry._module(name), "probe", lambda status=status: status)
    done = gantk("doctor")
    assert done.status == 1
    assert "no backend works here: pip install 'gantk[cpu,openvino]'" in done.out
    assert "onnxruntime: it is not installed: pip install onnxruntime" in done.out


@pytest.mark.parametrize("gpu", [False, True])
def test_doctor_advises_a_product_of_tensorrt_only_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    from gantk.runtime import doctor, driver

    found = driver.Driver(gpu, "13.0", ("H",) if gpu else (), None if gpu else "no driver", ("sm_89",))
    monkeypatch.setattr(driver, "probe", lambda: found)
    monkeypatch.setattr("gantk.runtime.products.installed", lambda *_: {})
    advice = " ".join(doctor.examine()["advice"])
    assert ("pip install 'gantk[tensorrt-rtx]'" in advice) == gpu


def test_doctor_sees_a_gpu_that_nothing_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    from gantk.runtime import doctor, driver

    monkeypatch.setattr(
        driver, "probe", lambda: driver.Driver(works=True, cuda_version="13.0", devices=("H",))
    )
    monkeypatch.setattr(doctor, "installed", lambda *_: {"onnxruntime": "1"})
    advice = " ".join(doctor.examine()["advice"])
    assert "gantk[gpu]" in advice
    assert "gantk[train]" in advice


def test_the_driver_probe_never_raises() -> None:
    from gantk.runtime import driver

    found = driver.probe()
    assert found.works == bool(found.devices)
    assert found.works or found.reason
