# SPDX-License-Identifier: Apache-2.0
"""Engines in C++ as in Python: which is chosen, how the others are refused, and the verdict on an unverified one.

A stand-in for TensorRT takes the vendor's place: a backend in a library that GANTK_BACKENDS names, whose engines are
the values that it yields.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gantk
import networks
from bundle_engines import make_engine
from cpp_library import SOURCE
from gantk.bundle import STEP_FAMILY, Bundle, Engine, FileRef, ShapeRange
from gantk.errors import GantkError
from gantk.runtime import parity
from gantk.runtime.engines import read_engine, version_fits
from gantk.runtime.verdicts import check_once

NAME, VERSION, TARGET = "tensorrt-rtx", "1.7.1.116", "sm_89"
WANTED = np.random.default_rng(5).uniform(-1, 1, (1, *networks.specs()[1].shape[1:])).astype(np.float32)

pytest.importorskip("safetensors.numpy")


class StandIn:
    """What the library in C++ does, for `check_once`."""

    backend, version, device, precision = NAME, VERSION, "cuda", "fp32"

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = values

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        return {"picture": np.repeat(self.values, len(feeds["latent"]), axis=0)}


def bundle_of(root: Path, values: np.ndarray[Any, Any], **changes: Any) -> Bundle:
    """A bundle with a probe of two samples and an engine of which nobody has said anything yet."""
    from safetensors.numpy import save

    bundle = networks.bundle(root)
    probe = {"input.latent": networks.latents(2), "output.picture": np.repeat(WANTED, 2, axis=0)}
    files = {"probe.safetensors": save(probe), "engines/a.engine": values.tobytes()}
    for name, data in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    one, many = (1, networks.LATENT), (4, networks.LATENT)
    facts: dict[str, Any] = {
        "file": FileRef.of("engines/a.engine", files["engines/a.engine"]),
        "profiles": ({"latent": ShapeRange(one, one, many)},),
        "plugins": (),
        "parity": (),
    }
    engine: Engine = make_engine(bundle.manifest.variants[0], {}, **{**facts, **changes})
    probe_ref = FileRef.of("probe.safetensors", files["probe.safetensors"])
    manifest = replace(bundle.manifest, engines=(engine,), probe=probe_ref)
    (root / "manifest.json").write_bytes(manifest.dumps())
    return Bundle.read(root)


def opened(
    built: Path,
    root: Path,
    cache: Path,
    *options: str,
    target: str = TARGET,
    product: str = NAME,
    version: str = VERSION,
) -> tuple[int, str]:
    """What gantk-run says of a bundle with the stand-in: its exit code and its words."""
    names = {
        "GANTK_BACKENDS": str(built / "tests/libgantk_engine_backend.so"),
        "STAND_IN_TARGET": target,
        "STAND_IN_PRODUCT": product,
        "STAND_IN_VERSION": version,
        "XDG_CACHE_HOME": str(cache),
    }
    command = [str(built / "tools/gantk-run"), str(root), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **names})
    return done.returncode, done.stderr


def python_refusal(bundle: Bundle, precision: str | None, form: str | None, target: str) -> GantkError:
    with pytest.raises(GantkError) as caught:
        read_engine(bundle, NAME, VERSION, target, precision, form)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "precision", "form", "target"),
    [
        ({"backend": "tensorrt"}, None, None, TARGET),
        ({}, "fp16", None, TARGET),
        ({}, None, "rewritten", TARGET),
        ({}, "int8", "rewritten", TARGET),
        ({}, None, None, "sm_86"),
        ({}, "fp32", None, "sm_75"),
        ({}, "tf32", None, TARGET),
        ({"tf32": True}, "fp16", None, TARGET),
        ({"tf32": True}, "tf32", None, "sm_86"),
        ({"tf32": True}, None, None, "sm_86"),
        ({"options": ("hardware-compatible",)}, None, None, "sm_75"),
        ({"version": "1.6.0.1"}, None, None, TARGET),
        ({"version": "2.0", "options": ("version-compatible",)}, None, None, TARGET),
        ({"options": ("strip",)}, None, None, TARGET),
        ({"options": ("refit", "strip")}, None, None, TARGET),
        ({"plugins": ("libgantk-is-not-here.so",)}, None, None, TARGET),
        ({"file": FileRef.of("engines/a.engine", b"another")}, None, None, TARGET),
        # No library is loaded for it.
        (
            {"file": FileRef.of("engines/a.engine", b"another"), "plugins": ("libgantk-is-not-here.so",)},
            None,
            None,
            TARGET,
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_the_same_words(
    built: Path, tmp_path: Path, changes: dict[str, Any], precision: str | None, form: str | None, target: str
) -> None:
    bundle = bundle_of(tmp_path / "x.gantk", WANTED, **changes)
    wanted = python_refusal(bundle, precision, form, target)
    options = [f"--{name}={value}" for name, value in (("precision", precision), ("form", form)) if value]
    words = [word for option in options for word in option.split("=")]
    code, said = opened(built, bundle.root, tmp_path, "--backend", NAME, *words, target=target)
    assert code == 1
    for part in (wanted.what, wanted.where, wanted.hint):
        assert part is None or part in said


@pytest.mark.parametrize("options", [("hardware-compatible",), ("version-compatible",), ()])
def test_what_fits_is_opened(built: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    changes = {"version": "1.2" if "version-compatible" in options else VERSION, "options": options}
    bundle = bundle_of(tmp_path / "x.gantk", WANTED, **changes)
    target = "sm_120" if "hardware-compatible" in options else TARGET
    code, said = opened(built, bundle.root, tmp_path, target=target)
    assert (code, f"by {NAME} {VERSION} in fp32" in said) == (0, True), said  # "auto" takes an engine first.


@pytest.mark.parametrize(
    ("product", "made", "installed", "fits"),
    [
        (NAME, "1.6.0.1", VERSION, True),
        (NAME, "1.7.1.116", "1.10.0.2", True),
        (NAME, "1.7.1.117", VERSION, False),
        (NAME, "1.8.0.1", VERSION, False),
        (NAME, "0.9.0.1", VERSION, False),
        (NAME, "10.1.0.1", "11.0.0.1", False),
        ("tensorrt", "10.16.0.72", "10.16.1.11", True),
        ("tensorrt", "10.16.0.72", "11.1.0.106", True),
        ("tensorrt", "11.1.0.106", "11.0.0.114", False),
        ("tensorrt", "11.1.0.106", "10.16.1.11", False),
        ("tensorrt", "8.6.1.6", "11.1.0.106", False),
        ("tensorrt", "10.16.0.72", "12.0.0.1", False),
    ],
)
def test_version_compatible_engines_run_on_later_releases(
    built: Path, tmp_path: Path, product: str, made: str, installed: str, *, fits: bool
) -> None:
    changes = {"backend": product, "version": made, "options": ("version-compatible",)}
    bundle = bundle_of(tmp_path / "x.gantk", WANTED, **changes)
    assert version_fits(bundle.manifest.engines[0], installed) == fits  # In Python.
    here = {"product": product, "version": installed}
    code, said = opened(built, bundle.root, tmp_path, "--backend", product, **here)
    assert (code == 0, f"were built with {made}; {installed} is installed" in said) == (fits, not fits), said


def test_an_engine_of_the_installed_release_comes_first(built: Path, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "x.gantk", faulty("off"), version="1.2", options=("version-compatible",))
    (earlier,) = bundle.manifest.engines
    (bundle.root / "engines/b.engine").write_bytes(WANTED.tobytes())
    exact = replace(
        earlier, version=VERSION, options=(), file=FileRef.of("engines/b.engine", WANTED.tobytes())
    )
    manifest = replace(bundle.manifest, engines=(earlier, exact))
    (bundle.root / "manifest.json").write_bytes(manifest.dumps())
    code, said = opened(built, bundle.root, tmp_path, "--backend", NAME)
    assert code == 0, said


def test_an_engine_is_no_reason_for_another_precision(built: Path, tmp_path: Path) -> None:
    root = tmp_path / "x.gantk"
    files = {(precision, "plain"): networks.generator(precision) for precision in ("fp32", "fp16")}
    bundle = networks.bundle(root, files)
    (half,) = (variant for variant in bundle.manifest.variants if variant.precision == "fp16")
    shapes = {"latent": (1, networks.LATENT)}
    facts: dict[str, Any] = {
        "backend": NAME,
        "version": VERSION,
        "targets": (TARGET,),
        "plugins": (),
        "options": (),
    }
    engine = make_engine(half, shapes, **facts)
    (root / "manifest.json").write_bytes(replace(bundle.manifest, engines=(engine,)).dumps())
    code, said = opened(built, root, tmp_path)
    assert (code, "by onnxruntime" in said, "in fp32" in said) == (0, True, True), said


def with_tf32(root: Path) -> Bundle:
    """A bundle with an exact engine and one of tf32, which comes first."""
    bundle = bundle_of(root, WANTED)
    (engine,) = bundle.manifest.engines
    rounding = replace(engine, tf32=True, file=FileRef.of("engines/b.engine", WANTED.tobytes()))
    (root / "engines/b.engine").write_bytes(WANTED.tobytes())
    (root / "manifest.json").write_bytes(replace(bundle.manifest, engines=(rounding, engine)).dumps())
    return Bundle.read(root)


def test_tf32_takes_the_engine_that_is_built_so(built: Path, tmp_path: Path) -> None:
    bundle = with_tf32(tmp_path / "x.gantk")
    for backend in (NAME, "auto"):
        for precision, executed in (("tf32", "tf32"), ("fp32", "fp32"), (None, "fp32")):
            words = ("--backend", backend, *(("--precision", precision) if precision else ()))
            code, said = opened(built, bundle.root, tmp_path, *words)
            assert (code, f"by {NAME} {VERSION} in {executed}" in said) == (0, True), said


def test_no_file_is_tf32(built: Path, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "x.gantk", WANTED)
    with pytest.raises(GantkError) as caught:
        gantk.open(bundle.root, "onnxruntime", "tf32")
    code, said = opened(built, bundle.root, tmp_path, "--backend", "onnxruntime", "--precision", "tf32")
    assert code == 1
    for part in (caught.value.what, caught.value.where, caught.value.hint):
        assert part is not None
        assert part in said
    code, said = opened(built, bundle.root, tmp_path, "--precision", "tf32")
    assert (code, f"has no {NAME} tf32; it has fp32" in said) == (1, True), said
    assert f"--to {NAME} --target {TARGET} --precision fp32 --tf32" in said


def test_auto_goes_on_without_a_gpu(built: Path, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "x.gantk", WANTED)
    for options in ((), ("--device", "cpu")):
        code, said = opened(built, bundle.root, tmp_path, *options, target=TARGET if options else "")
        assert (code, "by onnxruntime" in said) == (0, True), said
    code, said = opened(built, bundle.root, tmp_path, "--backend", NAME, target="")
    assert (code, f"{NAME} does not work here: no GPU" in said) == (3, True)


def faulty(kind: str) -> np.ndarray[Any, Any]:
    values = WANTED.copy()
    if kind == "off":
        values += np.float32(0.01)
    elif kind == "constant":
        values[:] = 0
    elif kind == "nan":
        values[0, 0, 0, 0] = np.nan
    return values


@pytest.mark.parametrize("kind", ["right", "off", "constant", "nan"])
def test_both_judge_alike_and_share_the_verdict(
    built: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_of(tmp_path / "x.gantk", faulty(kind))
    code, said = opened(built, bundle.root, tmp_path / "cpp", "--backend", NAME)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "python"))
    file = read_engine(bundle, NAME, VERSION, TARGET, None, None)
    wanted = ""
    try:
        assert check_once(StandIn(faulty(kind)), file, bundle, TARGET)  # type: ignore[arg-type]
    except GantkError as error:
        wanted = error.what
    assert (code == 0) == (kind == "right") == (not wanted)
    assert wanted in said
    verdicts = [sorted((tmp_path / who / "gantk/verdicts").iterdir()) for who in ("cpp", "python")]
    assert [path.name for path in verdicts[0]] == [path.name for path in verdicts[1]]
    assert [path.read_bytes() for path in verdicts[0]] == [path.read_bytes() for path in verdicts[1]]
    assert len(verdicts[0]) == 1
    # What is remembered is believed, whatever the engine would yield.
    verdicts[0][0].write_text('{"passed": false, "reason": "it was so"}')
    code, said = opened(built, bundle.root, tmp_path / "cpp", "--backend", NAME)
    assert (code, "computes wrong on sm_89: it was so" in said) == (1, True)


def test_the_engines_own_probe_comes_first(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import save

    own = save({"input.latent": networks.latents(1), "output.picture": faulty("off")})
    ref = FileRef.of("probe-01234567.safetensors", own)
    bundle = bundle_of(tmp_path / "x.gantk", faulty("off"), probe=ref)  # Wrong, by the bundle's.
    (bundle.root / ref.path).write_bytes(own)
    code, said = opened(built, bundle.root, tmp_path / "cpp", "--backend", NAME)
    assert code == 0, said
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "python"))
    file = read_engine(bundle, NAME, VERSION, TARGET, None, None)
    assert check_once(StandIn(faulty("off")), file, bundle, TARGET)  # type: ignore[arg-type]
    names = [[path.name for path in tmp_path.glob(f"{who}/gantk/verdicts/*")] for who in ("cpp", "python")]
    assert names[0] == names[1] != []


def test_the_thresholds_are_those_of_python() -> None:
    source = (SOURCE / "src/parity.cpp").read_text()
    for table, wanted in (("thresholds", parity.THRESHOLDS), ("step_thresholds", parity.STEP_THRESHOLDS)):
        (text,) = re.findall(rf"> {table} = \{{\{{(.*?)\}}\}};", source, re.DOTALL)
        rows = re.findall(r'\{"(\w+)", ([\d.]+), ([\d.e-]+)\}', text)
        assert {name: (float(db), float(most)) for name, db, most in rows} == {
            name: (threshold.psnr_db, threshold.max_abs) for name, threshold in wanted.items()
        }
    assert f'step_family = "{STEP_FAMILY}";' in source
    for name, value in (("psnr_cap_db", parity.PSNR_CAP_DB), ("rounded_db", parity.ROUNDED_DB)):
        assert f"{name} = {value};" in source
