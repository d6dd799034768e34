# SPDX-License-Identifier: Apache-2.0
"""`gantk.open`: which file and which backend are chosen, and why not."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import gantk
import networks
from fake_cuda import FakeCuda
from gantk.bundle import WHOLLY_NATIVE, FileRef, Interface, Manifest, Variant, Writer
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.runtime import registry
from gantk.runtime.model import choose, from_path
from gantk.runtime.operators import INSTALL, OPERATORS
from gantk.runtime.registry import BackendStatus

needs_both = pytest.mark.skipif(
    not all(registry.status(name).works for name in registry.BACKENDS),
    reason="wants onnxruntime and openvino",
)
PLAIN, REWRITTEN = ("fp32", "plain"), ("fp32", "rewritten")


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        status = BackendStatus(name, None, (), "it is not installed", f"pip install {name}")
        monkeypatch.setattr(registry._module(name), "probe", lambda status=status: status)


def failed(*backends: str, kind: tuple[str, str] = PLAIN) -> dict[tuple[str, str], list[gantk.bundle.Parity]]:  # type: ignore[name-defined]
    return {kind: [networks.parity(name, passed=False) for name in backends]}


@needs_both
def test_auto_takes_the_first_backend(tmp_path: Path) -> None:
    networks.bundle(tmp_path / "x.gantk")
    with gantk.open(tmp_path / "x.gantk") as runner:
        assert (runner.backend, runner.precision) == ("onnxruntime", "fp32")


@needs_both
def test_auto_passes_over_a_backend_that_was_wrong(tmp_path: Path) -> None:
    networks.bundle(tmp_path / "x.gantk", parities=failed("onnxruntime"))
    with gantk.open(tmp_path / "x.gantk") as runner:
        assert runner.backend == "openvino"
        assert list(runner.passed_over) == ["onnxruntime"]
        assert "7.5 dB" in runner.passed_over["onnxruntime"]
    with pytest.raises(
        GantkError, match=r"onnxruntime computes `model.fp32.plain.onnx` wrong: 7.5 dB .* up to 1.9"
    ) as caught:
        gantk.open(tmp_path / "x.gantk", "onnxruntime")
    assert caught.value.hint == "backend='auto' takes one that computes it right"
    unloaded = replace(networks.parity("onnxruntime", passed=False), batches=())
    networks.bundle(tmp_path / "x.gantk", parities={PLAIN: [unloaded]}, force=True)
    with pytest.raises(GantkError, match="onnxruntime could not load") as caught:
        gantk.open(tmp_path / "x.gantk", "onnxruntime")
    assert caught.value.hint == "backend='auto' takes one that can"


@needs_both
def test_auto_passes_over_a_form_that_was_wrong(tmp_path: Path) -> None:
    files = {PLAIN: networks.generator(), REWRITTEN: networks.generator(seed=1)}
    networks.bundle(tmp_path / "x.gantk", files, parities=failed("onnxruntime"))
    with (
        gantk.open(tmp_path / "x.gantk") as runner,
        gantk.open(tmp_path / "x.gantk", form="rewritten") as other,
    ):
        assert runner.backend == other.backend == "onnxruntime"
        latent = {"latent": networks.latents(1)}
        np.testing.assert_array_equal(runner.run(latent)["picture"], other.run(latent)["picture"])


@needs_both
def test_when_all_were_wrong_every_reason_is_given(tmp_path: Path) -> None:
    networks.bundle(tmp_path / "x.gantk", parities=failed("onnxruntime", "openvino"))
    with pytest.raises(GantkError) as caught:
        gantk.open(tmp_path / "x.gantk")
    assert caught.value.exit_code == 1
    assert all(f"{name} computes" in caught.value.what for name in registry.BACKENDS)


def test_the_fastest_form_is_the_default(tmp_path: Path) -> None:
    files = {PLAIN: networks.generator(), REWRITTEN: networks.generator(seed=1)}
    networks.bundle(tmp_path / "x.gantk", files, fastest_on={REWRITTEN: ["openvino"]})
    assert from_path(tmp_path / "x.gantk", backend="openvino").form == "rewritten"
    assert from_path(tmp_path / "x.gantk", backend="onnxruntime").form == "plain"
    assert from_path(tmp_path / "x.gantk").form == "plain"
    assert from_path(tmp_path / "x.gantk", form="plain", backend="openvino").form == "plain"
    networks.bundle(tmp_path / "z.gantk", files, fastest_on={REWRITTEN: ["onnxruntime cuda"]})
    assert from_path(tmp_path / "z.gantk", backend="onnxruntime").form == "plain"
    assert from_path(tmp_path / "z.gantk", backend="onnxruntime", device="cuda").form == "rewritten"
    networks.bundle(
        tmp_path / "y.gantk",
        files,
        fastest_on={REWRITTEN: ["openvino"]},
        parities=failed("openvino", kind=REWRITTEN),
    )
    assert from_path(tmp_path / "y.gantk", backend="openvino").form == "plain"


def test_native_forms_are_for_where_the_operators_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the one that was fastest without them is taken, else the plain one."""
    ref = FileRef("model.onnx", "0" * 64, 1)
    plain = Variant(ref, "fp16", "plain", 21)
    portable = Variant(ref, "fp16", "rewritten", 21, (), ("onnxruntime cuda",), ("narrow-to-blocks",))
    native = replace(portable, rewrites=(*portable.rewrites, "normalization-to-native"))
    for library, held, taken in (
        ("", (plain, native, portable), portable),
        ("", (plain, native), plain),
        ("x.so", (plain, portable, native), native),
        ("x.so", (plain, portable), portable),
    ):
        monkeypatch.setenv(OPERATORS, library)
        bundle: Any = SimpleNamespace(manifest=SimpleNamespace(variants=held))
        assert choose(bundle, None, None, "onnxruntime", "cuda") is taken
        assert choose(bundle, None, None, None) is plain
        assert choose(bundle, "fp16", None, "openvino") is plain


@pytest.fixture
def half_bundle(tmp_path: Path) -> Path:
    """In bf16 a plain file, and one that says that native operators are all that is heavy in it.

    It is one that ONNX Runtime loads without them.
    """
    with Writer(tmp_path / "x.gantk") as writer:
        variants = []
        for seed, form in enumerate(("plain", "rewritten")):
            data = networks.generator("bf16" if form == "plain" else "fp32", seed=seed)
            file = writer.add(f"model.bf16.{form}.onnx", data)
            variants.append(Variant(file, "bf16", form, 22))
        native = replace(variants[1], fastest_on=("onnxruntime",), rewrites=(WHOLLY_NATIVE,))
        latent, picture = networks.specs()
        writer.commit(Manifest("dcgan", "tiny", {}, (latent,), (picture,), (variants[0], native)))
    return tmp_path / "x.gantk"


@needs_both
def test_bf16_on_onnxruntime_is_for_where_the_operators_are(
    half_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPERATORS, "")
    for form in (None, "rewritten"):
        with pytest.raises(
            GantkError, match="onnxruntime cannot compute bf16 on this machine's cpu"
        ) as caught:
            gantk.open(half_bundle, "onnxruntime", "bf16", "cpu", form=form)
        assert f"gantk's native operators ({INSTALL}, or {OPERATORS}=LIBRARY)" in (caught.value.hint or "")
    monkeypatch.setenv(OPERATORS, str(half_bundle / "missing.so"))
    with pytest.raises(GantkError, match="the library of native operators, does not exist"):
        gantk.open(half_bundle, "onnxruntime", "bf16", "cpu")
    pretend_operators(monkeypatch, half_bundle)
    with gantk.open(half_bundle, "onnxruntime", "bf16", "cpu") as runner:
        assert (runner.precision, runner.file_precision) == ("bf16", "bf16")
        assert runner.run({"latent": networks.latents(2)})["picture"].shape == (2, 3, 8, 8)
    with pytest.raises(GantkError, match="onnxruntime cannot compute bf16"):
        gantk.open(half_bundle, "onnxruntime", "bf16", "cpu", form="plain")


def pretend_operators(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the environment name a library, which no session asks for its operators."""
    from gantk.runtime.backends import onnxruntime

    (folder / "operators.so").touch()
    monkeypatch.setenv(OPERATORS, str(folder / "operators.so"))
    honest = onnxruntime.session_options
    monkeypatch.setattr(
        onnxruntime, "session_options", lambda model, device, threads, _: honest(model, device, threads, None)
    )


@needs_both
def test_auto_takes_a_form_that_was_measured_against_nothing_last(
    half_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gantk.runtime.backends import openvino

    pretend_operators(monkeypatch, half_bundle)
    has_half = True
    monkeypatch.setattr(openvino, "executed", lambda precision, device, **_: precision if has_half else None)
    with gantk.open(half_bundle, precision="bf16", device="cpu") as runner:
        assert (runner.backend, list(runner.passed_over)) == ("openvino", [])
    has_half = False
    with gantk.open(half_bundle, precision="bf16", device="cpu") as runner:
        assert (runner.backend, runner.precision) == ("onnxruntime", "bf16")
        assert list(runner.passed_over) == ["openvino"]
    monkeypatch.setenv(OPERATORS, "")
    with pytest.raises(GantkError, match="onnxruntime cannot compute bf16.*openvino cannot compute bf16"):
        gantk.open(half_bundle, precision="bf16", device="cpu")


@needs_both
def test_what_a_backend_computes_without_native_operators_too_is_not_left_for_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {PLAIN: networks.generator(), REWRITTEN: networks.generator(seed=1)}
    bundle = networks.bundle(tmp_path / "x.gantk", files, fastest_on={REWRITTEN: ["onnxruntime"]})
    plain, other = bundle.manifest.variants
    with Writer(bundle.root, force=True) as writer:
        native = replace(other, rewrites=(WHOLLY_NATIVE,))
        writer.commit(replace(bundle.manifest, variants=(plain, native)))
    pretend_operators(monkeypatch, bundle.root)
    with gantk.open(bundle.root, device="cpu") as runner:
        assert (runner.backend, runner.precision) == ("onnxruntime", "fp32")


@needs_both
@pytest.mark.parametrize("place", ["absolute", "above", "beside"])
@pytest.mark.parametrize("kept", ["dense", "sparse values", "sparse indices", "in a branch"])
def test_no_file_of_a_bundle_reads_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, kept: str
) -> None:
    """Nobody has checked its hash: whatever the backend would do, it never gets to see the place."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(16 * 3 * 4 * 4, dtype="float32").tobytes())
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(networks.generator())
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "w1")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    location = {"absolute": str(secret), "above": "../secret.bin", "beside": "secret.bin"}[place]
    weight.external_data.add(key="location", value=location)
    if kept != "dense":
        if kept == "in a branch":
            model.graph.node.add(op_type="If").attribute.add(name="then_branch").g.initializer.append(weight)
        else:
            model.graph.sparse_initializer.add(**{kept.removeprefix("sparse "): weight})
        model.graph.initializer.remove(weight)
    root = networks.bundle(tmp_path / "x.gantk", {("fp32", "plain"): model.SerializeToString()}).root
    for backend in ("onnxruntime", "openvino", "auto"):
        with pytest.raises(GantkError, match="lie in other files, of which the bundle has no hashes"):
            gantk.open(root, backend, device="cpu")


def test_a_form_with_an_interface_of_its_own_is_only_taken_by_name(tmp_path: Path) -> None:
    latent, picture = networks.specs()
    adam = Interface((latent,), (dataclasses.replace(picture, range=(0.0, 1.0)),))
    with Writer(tmp_path / "x.gantk") as writer:
        variants = [
            Variant(
                writer.add(f"model.fp32.{form}.onnx", networks.generator()), "fp32", form, 20, interface=own
            )
            for form, own in (("adam", adam), ("plain", None))
        ]
        writer.commit(Manifest("dcgan", "tiny", {}, (latent,), (picture,), tuple(variants)))
    assert from_path(tmp_path / "x.gantk").form == "plain"
    taken = from_path(tmp_path / "x.gantk", form="adam")
    assert (taken.form, taken.outputs) == ("adam", adam.outputs)


def test_fp32_is_the_default_where_it_is(tmp_path: Path) -> None:
    half = networks.generator("fp16")
    networks.bundle(tmp_path / "both.gantk", {("fp16", "plain"): half, PLAIN: networks.generator()})
    networks.bundle(tmp_path / "half.gantk", {("fp16", "rewritten"): half})
    assert from_path(tmp_path / "both.gantk").precision == "fp32"
    assert (from_path(tmp_path / "half.gantk").precision, from_path(tmp_path / "half.gantk").form) == (
        "fp16",
        "rewritten",
    )
    with pytest.raises(GantkError, match=r"no bf16 \(plain\) variant; it has fp16"):
        gantk.open(tmp_path / "both.gantk", precision="bf16")


def test_a_missing_backend_is_said_before_any_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "openvino")
    with pytest.raises(
        BackendMissingError, match="openvino does not work here: it is not installed"
    ) as caught:
        gantk.open("nothing", "openvino")
    assert (caught.value.exit_code, caught.value.hint) == (3, "pip install openvino")


def test_auto_uses_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks.bundle(tmp_path / "x.gantk")
    if not registry.status("openvino").works:
        pytest.skip("wants openvino")
    missing(monkeypatch, "onnxruntime")
    with gantk.open(tmp_path / "x.gantk") as runner:
        assert runner.backend == "openvino"
    missing(monkeypatch, "openvino")
    with pytest.raises(BackendMissingError, match=r"onnxruntime does not work.*openvino does not work"):
        gantk.open(tmp_path / "x.gantk")


@needs_both
def test_a_precision_that_a_backend_does_not_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {("bf16", "plain"): networks.generator("bf16"), ("fp16", "plain"): networks.generator("fp16")}
    networks.bundle(tmp_path / "x.gantk", files)
    with pytest.raises(GantkError, match="onnxruntime cannot compute bf16 on this machine's cpu") as caught:
        gantk.open(tmp_path / "x.gantk", "onnxruntime", "bf16")
    assert caught.value.exit_code == 1
    assert "native operators" not in (caught.value.hint or "")  # The bundle has no file for them.
    with pytest.raises(GantkError, match="openvino cannot compute fp16") as caught:
        gantk.open(tmp_path / "x.gantk", "openvino", "fp16")
    assert caught.value.hint is not None
    assert "backend='onnxruntime' can" in caught.value.hint
    with gantk.open(tmp_path / "x.gantk", precision="fp16") as runner:
        assert (runner.backend, runner.precision, runner.file_precision) == ("onnxruntime", "fp32", "fp16")
    missing(monkeypatch, "openvino")
    with pytest.raises(BackendMissingError, match=r"onnxruntime cannot compute bf16.*openvino does not work"):
        gantk.open(tmp_path / "x.gantk", precision="bf16")


@needs_both
def test_no_hint_names_a_backend_that_failed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry._module("openvino"), "executed", lambda precision, *_, **__: precision)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BFLOAT16, ["N", 4]) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "narrow",
        ends[:1],
        ends[1:],
        [onnx.helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [4, 4], np.eye(4).ravel())],
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "x.onnx")
    with pytest.raises(GantkError, match="'x' of .* is bfloat16, which numpy does not have") as caught:
        gantk.open(tmp_path / "x.onnx")
    assert caught.value.hint == "export it with float32 inputs and outputs, as gantk does"


def test_bf16_runs_where_the_cpu_has_it(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from gantk.runtime.backends import openvino

    if openvino.executed("bf16", "cpu") is None:
        pytest.skip("this CPU has no bf16")
    networks.bundle(
        tmp_path / "x.gantk", {("bf16", "plain"): networks.generator("bf16"), PLAIN: networks.generator()}
    )
    feeds = {"latent": networks.latents(4)}
    with (
        gantk.open(tmp_path / "x.gantk", precision="bf16") as narrow,
        gantk.open(tmp_path / "x.gantk") as wide,
    ):
        assert narrow.backend == "openvino"
        assert narrow.file_precision == "bf16"
        assert narrow.precision == max(narrow.layers, key=lambda kind: narrow.layers[kind])
        np.testing.assert_allclose(narrow.run(feeds)["picture"], wide.run(feeds)["picture"], atol=0.05)


@pytest.mark.parametrize(
    "wrong",
    [{"backend": "tensorflow"}, {"precision": "fp4"}, {"form": "fast"}, {"device": "tpu"}, {"threads": 0}],
)
def test_unknown_choices_are_usage_errors(tmp_path: Path, wrong: dict[str, Any]) -> None:
    networks.bundle(tmp_path / "x.gantk")
    (tmp_path / "x.onnx").write_bytes(networks.generator())
    for name in ("x.gantk", "x.onnx"):
        with pytest.raises(UsageError) as caught:
            gantk.open(tmp_path / name, **wrong)
        assert caught.value.exit_code == 2


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(networks.generator())
    if "cuda" in registry.status("onnxruntime").devices:
        pytest.skip("there is a GPU")
    with pytest.raises(BackendMissingError, match="cuda"):
        gantk.open(tmp_path / "x.onnx", "onnxruntime", device="cuda")


@pytest.mark.parametrize("name", ["nothing.onnx", "nothing.gantk", "folder"])
def test_what_is_not_there_is_a_failure(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(GantkError) as caught:
        gantk.open(tmp_path / name)
    assert (type(caught.value), caught.value.exit_code) == (GantkError, 1)


def test_a_provider_that_fell_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from gantk.runtime.backends import onnxruntime as backend
    from gantk.runtime.model import from_bytes

    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    fake = FakeCuda()
    for name in ("cuda", "driver_context"):
        monkeypatch.setattr(f"gantk.runtime.{name}.bindings", lambda: fake)
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is a GPU")
    with (
        pytest.warns(UserWarning, match="CUDA"),
        pytest.raises(BackendMissingError, match="fell back to CPU"),
    ):
        backend.open(from_bytes(networks.generator()), "cuda", 1)


@pytest.mark.parametrize(
    ("versions", "says"),
    [({}, "not installed"), ({"onnxruntime": "1.31", "onnxruntime-gpu": "1.31"}, "both installed")],
)
def test_conflicting_packages(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], says: str) -> None:
    from gantk.runtime.backends import onnxruntime as backend

    monkeypatch.setattr(backend, "installed", lambda *_: versions)
    monkeypatch.setattr(backend, "find_spec", lambda _: None)
    status = backend.probe()
    assert says in (status.reason or "")
    assert "pip" in (status.hint or "")
    assert bool(status.devices) == bool(versions)
