# SPDX-License-Identifier: Apache-2.0
"""An engine that runs where it was built is compared with PyTorch's outputs before it is in a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine_lab import SMALL, Lab, make_lab, write_bundle
from fake_tensorrt import MAGIC
from gantk.bundle import Bundle, Writer
from gantk.errors import GantkError
from gantk.export.engines import pipeline, trial
from gantk.export.engines.audit import Audit
from gantk.export.engines.build import BuildOptions, Built
from gantk.export.engines.maker import Sources
from gantk.export.engines.pipeline import EngineRequest, make_engines
from gantk.runtime import driver

SHAPES = {"smallest": ("x=1x2x4x4",), "usual": ("x=1x2x8x8",), "largest": ("x=4x2x16x16",)}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A bundle without engines, and a product whose builds are those of the fake."""
    made = make_lab(tmp_path, monkeypatch)
    made.trt.profiles = (SMALL,)
    write_bundle(made.root)
    monkeypatch.setattr(trial, "load", lambda product: made.trt)

    def build(*arguments: Any) -> Built:
        options: BuildOptions = arguments[4]
        return Built(MAGIC + b"just built", Audit({}, (), frozenset()), options.targets, None)

    monkeypatch.setattr(pipeline, "build_apart", build)
    return made


def export(lab: Lab, *targets: str, **shapes: tuple[str, ...]) -> tuple[Bundle, list[str]]:
    """Build an engine into the bundle; what was told of it, but for its size."""
    request = EngineRequest(("tensorrt-rtx",), options=BuildOptions(targets), **{**SHAPES, **shapes})
    lines: list[str] = []
    with Writer(lab.root, force=True) as writer:
        bundle = Bundle.read(lab.root)
        manifest = make_engines(writer, bundle.manifest, Sources.of(bundle), request, lines.append)
        return writer.commit(manifest), lines[1:]


def test_the_verdict_is_in_the_manifest(lab: Lab) -> None:
    bundle, lines = export(lab, "sm_89")
    (engine,) = bundle.manifest.engines
    assert lines == ["  verified on sm_89"]
    assert engine.verified
    (verdict,) = engine.parity
    assert (verdict.backend, verdict.version, verdict.device) == ("tensorrt-rtx", "1.7.1.116", "cuda")
    assert (verdict.reference, verdict.executed, verdict.samples) == ("probe", "fp32", 2)
    assert verdict.max_abs == pytest.approx(0, abs=1e-6)
    assert lab.cuda.leaks == {}
    lab.forget()
    lab.open().close()
    assert "execute_async_v3" not in lab.trt.calls


def test_of_several_architectures_the_others_are_judged_where_they_are(lab: Lab) -> None:
    bundle, lines = export(lab, "sm_89", "sm_120")
    assert lines == ["  verified on sm_89"]
    assert not bundle.manifest.engines[0].verified


def test_a_wrong_engine_gets_into_no_bundle(lab: Lab) -> None:
    lab.trt.wrong = 0.5
    before = sorted(lab.root.rglob("*"))
    with pytest.raises(GantkError, match=r"computes wrong on sm_89: y: .* dB PSNR") as caught:
        export(lab, "sm_89")
    assert str(lab.root / "engines") in str(caught.value)
    assert Bundle.read(lab.root).manifest.engines == ()
    assert [path for path in sorted(lab.root.rglob("*")) if path.is_file()] == [
        p for p in before if p.is_file()
    ]


@pytest.mark.parametrize("targets", [("sm_86",), ("sm_120", "sm_86")])
def test_what_is_for_other_gpus_is_not_run(lab: Lab, targets: tuple[str, ...]) -> None:
    bundle, lines = export(lab, *targets)
    assert (bundle.manifest.engines[0].verified, lines, lab.trt.calls) == (False, [], [])


def test_without_a_gpu_nothing_is_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(False, reason="no NVIDIA driver"))
    bundle, _ = export(lab, "sm_89")
    assert (bundle.manifest.engines[0].verified, lab.trt.calls) == (False, [])


def test_what_cannot_be_run_here_is_unverified_and_said(lab: Lab) -> None:
    lab.trt.fail["create_execution_context"] = 1
    bundle, (line,) = export(lab, "sm_89")
    assert not bundle.manifest.engines[0].verified
    assert line.startswith("  unverified: it could not be run on sm_89, for a context of ")
    bundle, (line, _) = export(lab, "sm_89", usual=("x=3x2x8x8",), smallest=("x=3x2x4x4",))
    assert not bundle.manifest.engines[0].verified
    assert line == "  unverified: the bundle's probe has no sample of a shape that it serves"
