# SPDX-License-Identifier: Apache-2.0
"""Shapes and inputs for bundles and for strangers' files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import networks
from gantk.bench import reference, subject
from gantk.bench.contender import Skipped
from gantk.bench.contenders import find
from gantk.bench.run import compare
from gantk.bench.subject import Case, File, Subject, describe, make_cases, make_feeds, probe_outputs
from gantk.bundle import WHOLLY_NATIVE, Parity
from gantk.errors import GantkError, UsageError
from gantk.runtime import registry
from gantk.runtime.operators import INSTALL, OPERATORS
from gantk.runtime.probe import Probe
from gantk.runtime.registry import BACKENDS, status
from gantk.tensors import TensorSpec

LATENT = TensorSpec("latent", "float32", ("N", 4))
CONTENT = TensorSpec("content", "float32", ("N", 3, "H", "W"))


def test_the_batch_is_one_unless_told() -> None:
    assert make_cases([LATENT], None, []) == [Case({"latent": (1, 4)}, 1)]
    assert [case.batch for case in make_cases([LATENT], [1, 16, 1], [])] == [1, 16]
    assert make_cases([LATENT], [16], [])[0].label == "latent 16x4"


def test_free_sizes_must_be_chosen() -> None:
    with pytest.raises(UsageError, match="sizes that are free: H, W") as caught:
        make_cases([CONTENT], None, [])
    assert caught.value.hint == "choose them, for example --shape content=1x3x512x512"
    case = make_cases([CONTENT], None, [("content", (2, 3, 32, 48))])[0]
    assert (case.shapes["content"], case.batch) == ((2, 3, 32, 48), 2)


def test_pictures_of_any_size_have_a_default_one() -> None:
    pixels = TensorSpec("picture", "uint8", ("N", "H", "W", 3), (0.0, 255.0), "NHWC")
    weights = TensorSpec("style_weights", "float32", ("N", 2), (0.0, 1.0), "NC")
    assert make_cases([pixels, weights], [3], [])[0].shapes == {
        "picture": (3, 512, 512, 3),
        "style_weights": (3, 2),
    }
    chosen = make_cases([pixels, weights], None, [("picture", (1, 31, 48, 3))])[0].shapes
    assert chosen["picture"] == (1, 31, 48, 3)


def test_a_shape_may_come_several_times() -> None:
    shapes = [("content", (1, 3, 8, 8)), ("content", (1, 3, 16, 16))]
    assert [case.shapes["content"][2] for case in make_cases([CONTENT], None, shapes)] == [8, 16]


@pytest.mark.parametrize(
    ("shapes", "batch", "message"),
    [
        ([("style", (1,))], None, "no input 'style'; there are content"),
        ([("content", (1, 3, 8))], None, "the shape 1x3x8 does not fit content"),
        ([("content", (1, 4, 8, 8))], None, "the shape 1x4x8x8 does not fit content"),
        ([("content", (2, 3, 8, 8))], [16], "a batch of 16 was asked for; .* has a batch of 2"),
        ([], [0], "a batch of 0; at least 1"),
    ],
)
def test_shapes_that_do_not_fit(
    shapes: list[tuple[str, tuple[int, ...]]], batch: list[int] | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_cases([CONTENT], batch, shapes)


def test_pictures_that_are_too_small_are_refused_before_anything_is_loaded() -> None:
    spec = replace(CONTENT, layout="NCHW", smallest=8)
    assert make_cases([spec], None, [("content", (1, 3, 8, 9))])
    with pytest.raises(GantkError, match="picture of 9 x 7 pixels .* at least 8 x 8"):
        make_cases([spec], None, [("content", (1, 3, 7, 9))])


def test_a_fixed_batch_refuses_another() -> None:
    fixed = TensorSpec("latent", "float32", (1, 4))
    assert make_cases([fixed], [1], [])[0].batch == 1
    with pytest.raises(UsageError, match="has a batch of 1"):
        make_cases([fixed], [8], [])


def test_inputs_share_symbols() -> None:
    other = TensorSpec("style", "float32", ("N", 3, "H", "W"))
    with pytest.raises(UsageError, match="does not fit style.* with N = 1, H = 8"):
        make_cases([CONTENT, other], None, [("content", (1, 3, 8, 8)), ("style", (1, 3, 9, 8))])
    assert make_cases([CONTENT, other], None, [("content", (1, 3, 8, 8))])[0].shapes["style"] == (1, 3, 8, 8)


@given(st.integers(1, 20), st.integers(0, 5))
def test_random_inputs_are_seeded_and_in_range(batch: int, seed: int) -> None:
    pixels = TensorSpec("pixels", "uint8", ("N", 3), (0.0, 255.0))
    unit = TensorSpec("unit", "float32", ("N", 5), (-1.0, 1.0))
    case = Case({"pixels": (batch, 3), "unit": (batch, 5)}, batch)
    feeds, again = (make_feeds([pixels, unit], case, Probe(), seed) for _ in range(2))
    assert feeds["pixels"].dtype == np.uint8
    assert feeds["unit"].dtype == np.float32
    assert np.abs(feeds["unit"]).max() <= 1.0
    for name in feeds:
        np.testing.assert_array_equal(feeds[name], again[name])


def test_the_probe_is_repeated_with_its_outputs() -> None:
    probe = Probe(
        {"latent": np.arange(12, dtype=np.float32).reshape(3, 4)},
        {"picture": np.arange(3, dtype=np.float32)[:, None]},
    )
    case = Case({"latent": (5, 4)}, 5)
    feeds = make_feeds([LATENT], case, probe, 0)
    np.testing.assert_array_equal(feeds["latent"][:, 0], [0, 4, 8, 0, 4])
    outputs = probe_outputs([TensorSpec("picture", "float32", ("N", 1))], case, probe)
    assert outputs is not None
    np.testing.assert_array_equal(outputs["picture"][:, 0], [0, 1, 2, 0, 1])


def bundle(path: Path, parities: dict[tuple[str, str], list[Parity]]) -> Path:
    """A bundle of two forms, without a probe."""
    files = {("fp32", form): networks.generator() for form in ("plain", "rewritten")}
    manifest = networks.bundle(path, files, parities=parities).root / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"probe": None}))
    return path


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_what_failed_when_the_bundle_was_made_is_passed_by_in_words(tmp_path: Path, backend: str) -> None:
    if not status(backend).works:
        pytest.skip(f"wants {backend}")
    unloadable = replace(networks.parity(backend, passed=False), batches=(), reason="no such kernel")
    failed = [unloadable, networks.parity(backend, passed=False)]  # The first is told of.
    parities = {("fp32", "plain"): failed, ("fp32", "rewritten"): [networks.parity(backend)]}
    subject = describe(bundle(tmp_path / "x.gantk", parities))
    found, skipped = find(subject, [backend], None, "cpu", 1)
    assert [contender.label for contender in found] == [f"{backend} fp32 rewritten"]
    reason = f"{backend} could not load `model.fp32.plain.onnx` when the bundle was made: no such kernel"
    assert skipped == [Skipped(f"{backend} fp32", reason)]
    assert find(subject, [backend], ["bf16"], "cpu", 1) == ([], [])
    sources = [name for name, _ in reference._sources(subject, 1)]
    assert ("onnxruntime float32" in sources) is (backend != "onnxruntime"), "nor does it tell what is right"


def test_of_files_alike_the_one_is_taken_that_is_not_forbidden() -> None:
    wrong = File("fp32", "rewritten", 1, ("x",), failures={"x": "it is wrong"})
    right = File("fp32", "rewritten", 2)
    subject = Subject(Path("x.gantk"), "x", (LATENT,), (), (wrong, right))
    assert subject.files_for("x", "cpu") == [right]
    assert subject.files_for("y", "cpu") == [wrong]


def test_when_all_are_forbidden_the_benchmark_says_why(tmp_path: Path) -> None:
    wrong = [networks.parity(name, passed=False) for name in BACKENDS]
    bundle(tmp_path / "x.gantk", {("fp32", form): wrong for form in ("plain", "rewritten")})
    with pytest.raises(
        GantkError, match=r"nothing here can run .*computes `model.fp32.plain.onnx` wrong: 7.5 dB"
    ):
        compare(tmp_path / "x.gantk", backends=[name for name in BACKENDS if status(name).works])


def test_onnxruntime_takes_part_in_bf16_with_native_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest = {("bf16", "rewritten"): ["onnxruntime"]}
    files = {("bf16", form): networks.generator("bf16") for form in ("plain", "rewritten")}
    root = networks.bundle(tmp_path / "x.gantk", files, fastest_on=fastest).root
    about = json.loads((root / "manifest.json").read_text())
    about["variants"][1]["rewrites"] = [WHOLLY_NATIVE]
    (root / "manifest.json").write_text(json.dumps(about | {"probe": None}))
    subject = describe(root)
    plain = Skipped("onnxruntime bf16", "its CPU provider has no bf16 convolutions")
    for asked in (None, ["bf16"]):
        monkeypatch.setenv(OPERATORS, "")
        reason = f"{plain.reason}, and gantk's native operators are not installed ({INSTALL})"
        without = [plain, Skipped("onnxruntime bf16 rewritten", reason)]
        assert find(subject, ["onnxruntime"], asked, "cpu", 1) == ([], without)
        (tmp_path / "operators.so").touch()
        monkeypatch.setenv(OPERATORS, str(tmp_path / "operators.so"))
        (contender,), skipped = find(subject, ["onnxruntime"], asked, "cpu", 1)
        assert (contender.label, contender.precision) == ("onnxruntime bf16 rewritten", "bf16")
        assert skipped == [plain]
    assert find(subject, ["onnxruntime"], ["fp32"], "cpu", 1) == ([], [])


def test_a_worker_opens_what_its_contender_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "from_path", lambda *asked: asked)
    monkeypatch.setattr(registry, "open_model", lambda *asked: asked)
    monkeypatch.setattr(registry, "open", lambda *asked, **named: (asked, named))
    file = ("x.gantk", "fp16", "rewritten", "onnxruntime", "cuda")
    assert subject.open_file("x.gantk", "onnxruntime", "fp16", "rewritten", "cuda", 3) == (
        file,
        "onnxruntime",
        "cuda",
        3,
    )
    engine = ("x.gantk", "tensorrt", "fp16", "cuda")
    assert subject.open_engine("x.gantk", "tensorrt", "fp16", "adam") == (engine, {"form": "adam"})
