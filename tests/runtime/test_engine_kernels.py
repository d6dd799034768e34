# SPDX-License-Identifier: Apache-2.0
"""What TensorRT for RTX compiles at an engine's first run is kept for later processes, and never in the way."""

from __future__ import annotations

import gc
import hashlib
from pathlib import Path

import pytest

from engine_lab import Elsewhere, Lab, check, engine_of, picture, write_bundle
from gantk.errors import GantkError
from gantk.runtime import driver
from gantk.runtime.driver import Driver
from tampering import tamper


def run(lab: Lab) -> list[str]:
    """Open, run and close; which kernels had to be compiled."""
    lab.trt.compiled.clear()
    with lab.open() as runner:
        check(runner, picture(1, 2, 8, 8))
        check(runner, picture(1, 2, 20, 20))
    gc.collect()
    assert (lab.cuda.leaks, lab.trt.alive) == ({}, 0)
    return list(lab.trt.compiled)


ALL = ["profile 0", "profile 1"]


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/gantk/compiled").iterdir())


def test_kernels_are_compiled_once(lab: Lab, tmp_path: Path) -> None:
    assert run(lab) == ALL
    (path,) = files(tmp_path)
    assert path.name.endswith("-1.7.1.116-sm_89-RTX-4090.kernels")
    data = path.read_bytes()
    assert data[:32] == hashlib.sha256(data[32:]).digest()
    before = path.stat().st_mtime_ns
    assert run(lab) == []
    assert path.stat().st_mtime_ns == before  # Nothing new, nothing written.


def test_what_was_compiled_is_kept_at_once(lab: Lab, tmp_path: Path) -> None:
    """A service is killed, and never closed."""
    with lab.open() as runner:
        (path,) = files(tmp_path)
        assert b"profile 0" in path.read_bytes()  # For the probe.
        assert b"profile 1" not in path.read_bytes()
        check(runner, picture(1, 2, 20, 20))
        assert b"profile 1" in path.read_bytes()
        lab.forget()
        for size in (20, 8, 20, 8):
            check(runner, picture(1, 2, size, size))
        assert lab.trt.calls.count("serialize") == 1  # The probe was of another shape than 8 x 8.


@pytest.mark.parametrize("how", ["launch", "bind"])
def test_so_is_what_runs_on_the_gpu(lab: Lab, tmp_path: Path, how: str) -> None:
    with lab.open() as runner:
        (path,) = files(tmp_path)
        x = Elsewhere(lab.cuda, picture(1, 2, 20, 20))
        runner.launch({"x": x}, 0) if how == "launch" else runner.bind({"x": x})
        assert b"profile 1" in path.read_bytes()


def test_many_shapes_are_written_at_the_end(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each would write what all before it came to."""
    monkeypatch.setattr("gantk.runtime.backends.kernel_cache.AT_ONCE", 3)
    with lab.open() as runner:
        (path,) = files(tmp_path)
        for size in (8, 9, 20):
            check(runner, picture(1, 2, size, size))
        assert b"profile 1" not in path.read_bytes()
    assert b"profile 1" in path.read_bytes()


def test_contexts_share_them(lab: Lab) -> None:
    with lab.open() as runner:
        for lane in (runner._new_lane(), runner._new_lane()):
            lane.run({"x": picture(1, 2, 8, 8)})
    assert lab.trt.compiled == ["profile 0"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "short", "folder"])
def test_a_damaged_file_is_not_given_to_the_library(lab: Lab, tmp_path: Path, damage: str) -> None:
    run(lab)
    (path,) = files(tmp_path)
    data = path.read_bytes()
    tamper(path, damage, outside=path)
    lab.forget()
    assert run(lab) == ALL
    assert "deserialize" not in lab.trt.calls
    if damage != "folder":  # Where nothing can be written, nothing is, without a word.
        assert path.read_bytes() == data
        assert run(lab) == []


def test_what_the_library_rejects_is_compiled_and_written_anew(lab: Lab, tmp_path: Path) -> None:
    run(lab)
    (path,) = files(tmp_path)
    before = path.read_bytes()
    lab.trt.gpu = "another of its kind"
    assert run(lab) == ALL
    assert path.read_bytes() != before
    assert run(lab) == []


def test_each_engine_gpu_and_release_has_its_own(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(lab)
    monkeypatch.setattr(driver, "probe", lambda: Driver(True, "13.0", ("RTX 5090",), targets=("sm_120",)))
    assert run(lab) == ALL
    write_bundle(lab.root, engine_of(tf32=True))
    assert run(lab) == ALL
    names = {path.name.partition("-")[0] for path in files(tmp_path)}
    assert (len(files(tmp_path)), len(names)) == (3, 2)


@pytest.mark.parametrize(
    "call", ["create_runtime_config", "create_runtime_cache", "set_runtime_cache", "deserialize", "serialize"]
)
def test_a_failure_of_the_cache_is_none_of_the_runner(lab: Lab, call: str) -> None:
    run(lab)
    lab.forget()
    lab.trt.fail[call] = 1
    run(lab)
    assert lab.trt.calls.count(call) >= 1


def test_where_nothing_can_be_kept_contexts_are_made_alike(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise GantkError("there is no home folder")

    monkeypatch.setattr("gantk.runtime.backends.kernel_cache.cache_folder", nowhere)
    for _ in range(2):
        lab.forget()
        assert run(lab) == ALL
        assert "set_device_memory" in lab.trt.calls


def test_a_product_without_such_a_cache(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(lab.trt), "IRuntimeCache")
    assert run(lab) == ALL
    assert "create_runtime_config" not in lab.trt.calls
    assert not (tmp_path / "cache/gantk/compiled").exists()
