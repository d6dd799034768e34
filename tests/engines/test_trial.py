# SPDX-License-Identifier: Apache-2.0
"""An engine that runs where it was built is compared with PyTorch's outputs before it is in a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import networks
from engine_lab import SMALL, Lab, doubling, engine_of, make_lab, write_bundle
from fake_tensorrt import MAGIC
from gantk.bundle import Bundle, Variant, Writer
from gantk.errors import GantkError
from gantk.export.engines import pipeline, trial
from gantk.export.engines.audit import Audit
from gantk.export.engines.build import BuildOptions, Built
from gantk.export.engines.maker import Sources
from gantk.export.engines.pipeline import EngineRequest, add_engines, make_engines
from gantk.runtime import driver
from gantk.runtime.probe import Probe, probe_of

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
        data = MAGIC + f"just built {', '.join(options.options)}".encode()
        return Built(data, Audit({}, (), frozenset()), options.targets or ("sm_89",), None)

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


def test_the_verdict_is_that_on_the_worst_output(lab: Lab) -> None:
    write_bundle(lab.root, wrong=2e-4)  # In y, and within what is allowed; z is equal.
    (verdict,) = export(lab, "sm_89")[0].manifest.engines[0].parity
    assert verdict.max_abs == pytest.approx(2e-4, rel=0.05)
    assert verdict.cosine == pytest.approx(1)
    assert verdict.psnr_db == pytest.approx(100, abs=0.1)  # Of a range of 20.


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


def test_options_have_no_order_and_count_once(lab: Lab) -> None:
    for named in (("strip", "refit"), ("refit", "strip", "refit")):
        options = BuildOptions(("sm_89",), options=named)
        bundle = add_engines(lab.root, EngineRequest(("tensorrt-rtx",), options=options, **SHAPES))
    assert [engine.options for engine in bundle.manifest.engines] == [("refit", "strip")]


def test_a_refittable_engine_misses_no_architecture(lab: Lab) -> None:
    """It is for the GPU at hand alone, by what was asked for; sm_75, say, is not left out of it."""
    options = BuildOptions(tf32=True, options=("refit",))
    lines: list[str] = []
    add_engines(lab.root, EngineRequest(("tensorrt-rtx",), options=options, **SHAPES), lines.append)
    assert not any("left out" in line for line in lines)
    add_engines(
        lab.root, EngineRequest(("tensorrt-rtx",), options=BuildOptions(tf32=True), **SHAPES), lines.append
    )
    assert "  left out: sm_75 does not compute in tf32, which begins with sm_80" in lines


@pytest.mark.parametrize(("options", "alone"), [((), True), (("hardware-compatible",), False)])
def test_one_for_other_gpus_too_is_judged_on_each(lab: Lab, options: tuple[str, ...], alone: bool) -> None:
    bundle = write_bundle(lab.root, engine_of(targets=("sm_89",), options=options, profiles=(SMALL,)))
    lines: list[str] = []
    engine = trial.tried(bundle, bundle.manifest.engines[0], bundle.root, lines.append)
    assert (lines, engine.verified) == (["  verified on sm_89"], alone)


@pytest.mark.parametrize("targets", [("sm_86",), ("sm_120", "sm_86")])
def test_what_is_for_other_gpus_is_not_run(lab: Lab, targets: tuple[str, ...]) -> None:
    bundle, lines = export(lab, *targets)
    assert (bundle.manifest.engines[0].verified, lines, lab.trt.calls) == (False, [], [])


def test_without_a_gpu_nothing_is_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(False, reason="no NVIDIA driver"))
    bundle, _ = export(lab, "sm_89")
    assert (bundle.manifest.engines[0].verified, lab.trt.calls) == (False, [])


def test_what_has_no_weights_yet_is_not_run(lab: Lab) -> None:
    options = BuildOptions(("sm_89",), options=("refit", "strip"))
    lines: list[str] = []
    add_engines(lab.root, EngineRequest(("tensorrt-rtx",), options=options, **SHAPES), lines.append)
    assert (len(lines), lab.trt.calls) == (1, [])


def test_what_cannot_be_run_here_is_unverified_and_said(lab: Lab) -> None:
    lab.trt.fail["create_execution_context"] = 1
    bundle, (line,) = export(lab, "sm_89")
    assert not bundle.manifest.engines[0].verified
    assert line.startswith("  unverified: it could not be run on sm_89, for a context of ")


COMPUTING = "  computing what is right for x 3x2x4x4, to judge it by"
LARGE = {"smallest": ("x=3x2x4x4",), "usual": ("x=3x2x8x8",), "largest": ("x=4x2x16x16",)}


@pytest.mark.parametrize("targets", [("sm_89",), ("sm_86", "sm_89"), ("sm_86",)])
def test_shapes_that_the_bundles_probe_lacks_get_one_of_their_own(lab: Lab, targets: tuple[str, ...]) -> None:
    bundle, (first, *lines) = export(lab, *targets, **LARGE)
    (engine,) = bundle.manifest.engines
    assert first == COMPUTING
    assert lines == (["  verified on sm_89"] if "sm_89" in targets else [])
    assert engine.probe is not None
    assert bundle.manifest.probe is not None
    assert engine.probe.path == f"probe-{engine.probe.sha256[:8]}.safetensors"
    probe = Probe.read(bundle, engine.probe)
    assert probe.inputs["x"].shape == (3, 2, 4, 4)
    np.testing.assert_allclose(probe.outputs["y"], 2 * probe.inputs["x"] + 1, rtol=1e-6)
    assert probe.inputs["x"].std() > 0.5


def test_its_own_probe_judges_at_the_first_opening(lab: Lab) -> None:
    export(lab, "sm_86", "sm_89", **LARGE)
    lab.forget()
    lab.trt.wrong = 0.5
    with pytest.raises(GantkError, match="computes wrong on sm_89: y: "):
        lab.open()


def test_the_float32_file_says_what_is_right(lab: Lab) -> None:
    """The fp16 file that an engine is built from may be wrong itself; here it is."""
    with Writer(lab.root, force=True) as writer:
        manifest = Bundle.read(lab.root).manifest
        half = Variant(writer.add("model.fp16.onnx", networks.generator("fp16")), "fp16", "plain", 20)
        writer.commit(replace(manifest, variants=(*manifest.variants, half)))
    request = EngineRequest(("tensorrt-rtx",), ("fp16",), BuildOptions(("sm_86",)), **LARGE)
    bundle = add_engines(lab.root, request)
    probe = probe_of(bundle, bundle.manifest.engines[0])
    assert probe is not None
    np.testing.assert_allclose(probe.outputs["y"], 2 * probe.inputs["x"] + 1, rtol=1e-6)


def test_a_usual_shape_needs_none_and_another_engine_takes_its_away(lab: Lab) -> None:
    export(lab, "sm_89", **LARGE)
    bundle, _ = export(lab, "sm_89")
    assert bundle.manifest.engines[0].probe is None
    export(lab, "sm_89")  # Sweeps.
    assert [path.name for path in lab.root.glob("*.safetensors")] == ["probe.safetensors"]


def test_engines_of_the_same_shapes_share_one(lab: Lab) -> None:
    export(lab, "sm_89", **LARGE)
    bundle, _ = export(lab, "sm_86", **LARGE)
    first, second = bundle.manifest.engines
    assert first.probe == second.probe
    assert first.probe is not None
    assert len(list(lab.root.glob("probe*.safetensors"))) == 2


def test_where_no_probe_can_be_made_it_is_said(lab: Lab) -> None:
    with Writer(lab.root, force=True) as writer:
        manifest = Bundle.read(lab.root).manifest
        source = replace(manifest.variants[0], file=writer.add("model.fp32.onnx", doubling(np.nan)))
        writer.commit(replace(manifest, variants=(source,)))
    bundle, lines = export(lab, "sm_89", **LARGE)
    assert bundle.manifest.engines[0].probe is None
    assert [line.partition(" `")[0] for line in lines] == [
        COMPUTING,
        "  without a probe, by which engines are verified:",
        "  unverified: there is no probe of a shape that it serves",
    ]
