# SPDX-License-Identifier: Apache-2.0
"""Which engine is opened, whether it is right, and what is said where none is."""

from __future__ import annotations

import ctypes
import gc
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.numpy import save

import gantk
import networks
from bundle_engines import make_engine
from engine_lab import LARGE, SMALL, Lab, X, Y, Z, check, engine_of, picture, write_bundle
from fake_tensorrt import MAGIC, Runtime, TensorLocation
from gantk.bundle import Bundle, Engine, FileRef, Interface, ShapeRange, Variant, Writer
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.runtime import driver
from gantk.runtime.engines import choose_engine
from gantk.runtime.probe import probe_of
from gantk.runtime.product_log import log
from gantk.tensors import TensorSpec


def test_the_first_opening_runs_the_probe_and_remembers(lab: Lab, tmp_path: Path) -> None:
    runner = lab.open()
    assert runner.verified
    runner.close()
    (path,) = (tmp_path / "cache/gantk/verdicts").iterdir()
    assert json.loads(path.read_text()) == {"passed": True, "reason": ""}
    lab.forget()
    with lab.open() as runner:
        assert runner.verified
        assert "execute_async_v3" not in lab.trt.calls
    for damaged in ("{", '{"passed": false, "reason": ""}'):  # What cannot be read is found again.
        path.write_text(damaged)
        lab.forget()
        with lab.open() as runner:
            assert "execute_async_v3" in lab.trt.calls


def test_a_wrong_engine_is_refused_now_and_later(lab: Lab) -> None:
    lab.trt.wrong = 0.5
    for _ in range(2):
        with pytest.raises(
            GantkError, match=r"computes wrong on sm_89: y: .* dB PSNR, at least 80 dB wanted"
        ):
            lab.open()
    assert lab.trt.calls.count("execute_async_v3") == 1
    gc.collect()
    assert (lab.cuda.leaks, lab.trt.alive) == ({}, 0)


def test_another_probe_judges_anew(lab: Lab) -> None:
    """A bundle whose probe was wrong does not speak for the next one with the same engine."""
    write_bundle(lab.root, engine_of(), wrong=0.5)
    with pytest.raises(GantkError, match="computes wrong"):
        lab.open()
    write_bundle(lab.root, engine_of())
    with lab.open() as runner:
        assert runner.verified


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("cache", ["unwritable", "homeless"])
def test_a_verdict_that_cannot_be_kept_is_a_verdict(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: bool, cache: str
) -> None:
    if cache == "unwritable":
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", homeless)
    lab.trt.wrong = 0.0 if right else 0.5
    for _ in range(2):
        if right:
            with lab.open() as runner:
                assert runner.verified
        else:
            with pytest.raises(GantkError, match="computes wrong"):
                lab.open()
    assert lab.trt.calls.count("execute_async_v3") == 2


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_verified_engine_is_not_run_first(lab: Lab) -> None:
    write_bundle(lab.root, engine_of(parity=(networks.parity("tensorrt-rtx"),)), wrong=5.0)
    with lab.open() as runner:
        assert runner.verified
        assert "execute_async_v3" not in lab.trt.calls


def test_a_probe_that_no_profile_serves_leaves_it_unverified(lab: Lab) -> None:
    one = {"x": ShapeRange((1, 2, 50, 50), (1, 2, 50, 50), (1, 2, 50, 50))}
    lab.trt.profiles = (one,)
    write_bundle(lab.root, engine_of(profiles=(one,)))
    with lab.open() as runner:
        assert not runner.verified


def rewrite(lab: Lab, probe: bytes | None, **changes: Any) -> Bundle:
    """Give the bundle another probe, or none."""
    with Writer(lab.root, force=True) as writer:
        ref = None if probe is None else writer.add("probe.safetensors", probe)
        return writer.commit(replace(Bundle.read(lab.root).manifest, probe=ref, **changes))


def test_without_a_probe_it_stays_unverified(lab: Lab) -> None:
    bundle = rewrite(lab, None)
    assert not probe_of(bundle, bundle.manifest.engines[0])
    with lab.open() as runner:
        assert not runner.verified


def test_a_probe_that_is_none_is_refused(lab: Lab) -> None:
    rewrite(lab, b"probe")
    with pytest.raises(GantkError, match="the probe cannot be read: "):
        lab.open()
    gc.collect()
    assert (lab.cuda.leaks, lab.trt.alive) == ({}, 0)


@pytest.mark.parametrize("name", ["y", "z"])
def test_every_output_is_judged(lab: Lab, name: str) -> None:
    x = picture(2, 2, 6, 5)
    arrays = {"input.x": x, "output.y": 2 * x + 1, "output.z": (2 * x + 1).astype("uint8")}
    arrays[f"output.{name}"] += 3
    rewrite(lab, save(arrays))
    with pytest.raises(GantkError, match=f"computes wrong on sm_89: {name}: .* dB PSNR"):
        lab.open()


def test_only_samples_are_cut_to_what_a_profile_serves(lab: Lab) -> None:
    """Not what all samples share."""
    arrays = {"input.x": picture(2, 2, 4, 4), "input.w": picture(3)}
    arrays |= {f"output.{spec.name}": arrays["input.x"] for spec in (Y, Z)}
    one = {"x": ShapeRange(*[(1, 2, 4, 4)] * 3), "w": ShapeRange(*[(3,)] * 3)}
    (engine,) = Bundle.read(lab.root).manifest.engines
    for profile, has in ((one, True), ({**one, "w": ShapeRange(*[(1,)] * 3)}, False)):
        bundle = rewrite(
            lab,
            save(arrays),
            inputs=(X, TensorSpec("w", "float32", ("K",))),
            engines=(replace(engine, profiles=(profile,)),),
        )
        assert (probe_of(bundle, bundle.manifest.engines[0]) is not None) == has


@pytest.mark.parametrize(
    ("engines", "options", "text", "hint"),
    [
        ((), {}, "has no tensorrt-rtx engine", "gantk export .* --to tensorrt-rtx"),
        (
            (engine_of(targets=("sm_86", "sm_120")),), {},
            "no tensorrt-rtx fp32 engine for sm_89; it has fp32 .plain. for sm_86, sm_120", "--to",
        ),
        (
            (engine_of(version="1.6.0"),), {},
            "built with 1.6.0; 1.7.1.116 is installed", "pip install tensorrt-rtx==1.6.0",
        ),
        (
            (engine_of(version="1.6.0"), engine_of(version="1.5.0")), {},
            "built with 1.5.0, 1.6.0;", "or pip install tensorrt-rtx==1.5.0, or pip install tensorrt-rtx==1.6.0$",
        ),
        ((engine_of(),), {"precision": "fp16"}, "has no tensorrt-rtx fp16; it has fp32", "--to"),
        ((engine_of(),), {"form": "adam"}, "has no tensorrt-rtx plain adam; it has fp32", "--to"),
        ((engine_of(backend="tensorrt", version="11.4.0"),), {}, "has no tensorrt-rtx engine", "--to"),
        ((engine_of(plugins=("libm.so.6", "libno.so")),), {}, "wants the plugin library libno.so", "LD_LIBRARY_PATH"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_the_library_sees_it(
    lab: Lab, engines: tuple[Callable[[Variant], Engine], ...], options: dict[str, Any], text: str, hint: str
) -> None:
    write_bundle(lab.root, *engines)
    with pytest.raises(GantkError, match=text) as caught:
        lab.open(**options)
    assert re.search(hint, caught.value.hint or "")
    assert lab.trt.calls == []


@pytest.mark.parametrize("plugins", [("libm.so.6",), ()])
def test_plugins_that_are_loaded_are_made_known_to_the_library(lab: Lab, plugins: tuple[str, ...]) -> None:
    known: list[tuple[Any, str]] = []
    lab.trt.init_libnvinfer_plugins = lambda *given: known.append(given)  # type: ignore[attr-defined]
    write_bundle(lab.root, engine_of(plugins=plugins))
    lab.open().close()
    assert known == ([(log(lab.trt).logger, "")] if plugins else [])
    del lab.trt.init_libnvinfer_plugins  # type: ignore[attr-defined]  # As TensorRT for RTX.
    lab.open().close()


def test_plugins_that_do_not_register_themselves_are_given_to_the_runtime(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("cc is missing: apt install gcc")
    load, library = ctypes.CDLL, str(tmp_path / "libthem.so")
    source = "void* const* getCreators(int* count) { *count = 0; return 0; }"
    subprocess.run(["cc", "-shared", "-x", "c", "-", "-o", library], input=source, text=True, check=True)
    given: list[str] = []
    registry = SimpleNamespace(load_library=given.append)
    monkeypatch.setattr(Runtime, "get_plugin_registry", lambda runtime: registry, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *_: load(library if name == "libthem.so" else name))
    write_bundle(lab.root, engine_of(plugins=("libthem.so", "libm.so.6")))
    lab.open().close()
    assert given == ["libthem.so"]


def test_no_plugin_is_loaded_for_a_damaged_engine(lab: Lab) -> None:
    bundle = write_bundle(lab.root, engine_of(plugins=("libno.so",)))
    path = lab.root / bundle.manifest.engines[0].file.path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(GantkError, match="the manifest says"):
        lab.open()


def test_tf32_takes_the_engine_that_is_built_so(lab: Lab) -> None:
    other = FileRef.of("engines/other.engine", b"engine")
    write_bundle(lab.root, engine_of(tf32=True, file=other), engine_of())
    for backend in ("tensorrt-rtx", "auto"):
        for precision, executed in (("tf32", "tf32"), ("fp32", "fp32"), (None, "fp32")):
            with lab.open(backend=backend, precision=precision) as runner:
                assert (runner.precision, runner.file_precision) == (executed, "fp32")
                check(runner, picture(1, 2, 4, 4))
    write_bundle(lab.root, engine_of(tf32=True))
    with lab.open() as runner:
        assert runner.precision == "tf32"  # There is no other, and nobody asked for one.
    with pytest.raises(GantkError, match="has no tensorrt-rtx fp32; it has tf32 .plain. for"):
        lab.open(precision="fp32")


def test_without_such_an_engine_nothing_computes_in_tf32(lab: Lab) -> None:
    with pytest.raises(GantkError, match="has no tensorrt-rtx tf32; it has fp32 .plain. for") as caught:
        lab.open(precision="tf32")
    wanted = f"gantk export {lab.root} --to tensorrt-rtx --target sm_89 --precision fp32 --tf32"
    assert caught.value.hint == wanted
    text = "has no tensorrt-rtx tf32; .*; onnxruntime has no tf32, a way in which engines compute fp32 files"
    with pytest.raises(GantkError, match=text) as caught:
        lab.open(backend="auto", precision="tf32")
    assert caught.value.hint == wanted
    with pytest.raises(GantkError, match="^onnxruntime has no tf32") as caught:
        lab.open(backend="onnxruntime", precision="tf32")
    assert "precision='fp32'" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="'tf23' is not a precision; known are fp32, tf32, fp16"):
        lab.open(precision="tf23")


def test_what_is_missing_is_built_for_the_gpu_at_hand(lab: Lab) -> None:
    """Also where that is none of those that are built for by default, as sm_75 may be."""
    write_bundle(lab.root, engine_of(targets=("sm_86",)))
    with pytest.raises(GantkError, match="no tensorrt-rtx fp32 engine for sm_89") as caught:
        lab.open(precision="fp32")
    assert caught.value.hint == f"gantk export {lab.root} --to tensorrt-rtx --target sm_89 --precision fp32"
    bundle = write_bundle(lab.root, engine_of(backend="tensorrt", version="11.4.0", targets=("sm_86",)))
    with pytest.raises(GantkError, match="no tensorrt fp32 engine for sm_89") as caught:
        choose_engine(bundle, "tensorrt", "11.4.0", "sm_89", None, None)
    assert caught.value.hint == f"gantk export {lab.root} --to tensorrt"  # Which builds for no other GPU.


def test_options_widen_what_fits(lab: Lab) -> None:
    write_bundle(
        lab.root,
        engine_of(targets=("sm_86",), version="1.2.0", options=("hardware-compatible", "version-compatible")),
    )
    with lab.open() as runner:
        check(runner, picture(1, 2, 4, 4))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: b""])
def test_a_damaged_engine_is_not_given_to_the_library(lab: Lab, change: Callable[[bytes], bytes]) -> None:
    (path,) = (lab.root / "engines").iterdir()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(GantkError, match="the manifest says"):
        lab.open()
    assert lab.trt.calls == []


def test_a_file_that_is_no_engine(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fake_tensorrt.MAGIC", b"another product's engine")
    with pytest.raises(GantkError, match="cannot be loaded: .*magicTagRead == kMAGIC_TAG"):
        lab.open()


def test_a_manifest_that_belongs_to_another_engine(lab: Lab) -> None:
    lab.trt.outputs = (Y,)
    with pytest.raises(GantkError, match="has outputs y: float32; declared are y: float32, z: uint8"):
        lab.open()
    lab.trt.outputs, lab.trt.profiles = (Y, Z), (SMALL,)
    with pytest.raises(GantkError, match="has 1 profiles; declared are 2"):
        lab.open()
    lab.trt.profiles, lab.trt.location = (SMALL, LARGE), TensorLocation.HOST
    with pytest.raises(GantkError, match="'x' of .* lies in host memory"):
        lab.open()


def test_auto_takes_an_engine_that_fits(lab: Lab) -> None:
    with gantk.open(lab.root) as runner:
        assert runner.backend == "tensorrt-rtx"


def test_auto_passes_over_one_that_does_not(lab: Lab) -> None:
    latent, made = networks.specs()
    bundle = networks.bundle(lab.root.with_name("real.gantk"))
    engine = make_engine(bundle.manifest.variants[0], {"latent": (1, 4)}, targets=("sm_75",), plugins=())
    with Writer(bundle.root, force=True) as writer:
        engine = replace(engine, file=writer.add(engine.file.path, MAGIC))
        writer.commit(replace(bundle.manifest, engines=(engine,)))
    assert Interface((latent,), (made,)) == bundle.manifest.interface(bundle.manifest.variants[0])
    with gantk.open(bundle.root) as runner:
        assert runner.backend == "onnxruntime"
        assert "no tensorrt-rtx fp32 engine for sm_89" in runner.passed_over["tensorrt-rtx"]


def test_an_engine_is_no_reason_for_another_precision(lab: Lab) -> None:
    files = {(precision, "plain"): networks.generator(precision) for precision in ("fp32", "fp16")}
    bundle = networks.bundle(lab.root.with_name("two.gantk"), files)
    (half,) = (variant for variant in bundle.manifest.variants if variant.precision == "fp16")
    engine = make_engine(half, {"latent": (1, 4)}, plugins=())
    with Writer(bundle.root, force=True) as writer:
        engine = replace(engine, file=writer.add(engine.file.path, MAGIC))
        writer.commit(replace(bundle.manifest, engines=(engine,)))
    with gantk.open(bundle.root, device=None) as runner:
        assert (runner.backend, runner.file_precision) == ("onnxruntime", "fp32")
        assert "has no tensorrt-rtx fp32" in runner.passed_over["tensorrt-rtx"]
    with pytest.raises(GantkError) as caught:  # The engine is taken, and is not one of this network.
        gantk.open(bundle.root, "tensorrt-rtx")
    assert "has no tensorrt-rtx fp32" not in caught.value.what


def test_without_a_driver_it_fails_in_words(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        driver, "probe", lambda: driver.Driver(False, reason="no NVIDIA driver: none is there")
    )
    with pytest.raises(
        BackendMissingError, match="tensorrt-rtx does not work here: no NVIDIA driver"
    ) as caught:
        lab.open()
    assert caught.value.exit_code == 3
    assert (lab.trt.calls, lab.cuda.calls) == ([], [])


def test_a_lone_onnx_file_is_no_engine(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(networks.generator())
    with pytest.raises(GantkError, match="runs the engines of a bundle") as caught:
        gantk.open(tmp_path / "x.onnx", backend="tensorrt-rtx")
    assert "--to tensorrt-rtx" in (caught.value.hint or "")
