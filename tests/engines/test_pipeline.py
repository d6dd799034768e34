# SPDX-License-Identifier: Apache-2.0
"""Engines get into a bundle all at once or not at all, from whatever they are built."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import pytest
from safetensors.numpy import load

import engine_graphs as graphs
import networks
from gantk.bundle import Bundle, Variant
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export.engines.build import BuildOptions
from gantk.export.engines.pipeline import EngineRequest, add_engines
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.runtime import driver, products
from gantk.runtime.products import Product, targets
from gantk.runtime.products import load as load_product
from tampering import tamper

ADA = BuildOptions(("sm_89",))


def request(*precisions: str, options: BuildOptions = ADA, largest: tuple[str, ...] = ()) -> EngineRequest:
    return EngineRequest(("tensorrt-rtx",), precisions, options, largest=largest)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("built_once")
def test_a_bundle_gains_engines(rtx: Product, bundle: Path) -> None:
    before = Bundle.read(bundle).manifest
    lines: list[str] = []
    made = add_engines(bundle, request(), lines.append)
    assert made.manifest.variants == before.variants
    assert [(engine.precision, engine.version) for engine in made.manifest.engines] == [
        ("fp32", rtx.version),
        ("fp16", rtx.version),
    ]
    for engine in made.manifest.engines:
        assert made.read_file(engine.file)[:4] == b"vtrt"
        assert made.manifest.source(engine).precision == engine.precision
        assert not engine.verified
        assert {layer.precision for layer in engine.heavy_layers} == {engine.precision}
    assert len(lines) == 2
    assert made == Bundle.read(bundle)


@pytest.mark.usefixtures("built_once")
def test_on_a_gpu_that_runs_none_it_builds_for_others_and_says_so(
    rtx: Product, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(True, "13.0", ("H100",), targets=("sm_90",)))
    lines: list[str] = []
    made = add_engines(bundle, request("fp16", options=BuildOptions()), lines.append)
    (engine,) = made.manifest.engines
    assert engine.targets == targets(load_product(rtx))
    assert "sm_90" not in engine.targets
    (_, line) = lines
    assert line.startswith(
        "  none of these runs here: tensorrt-rtx runs no engine on H100 (sm_90); backend onnx"
    )


@pytest.mark.usefixtures("built_once")
def test_the_same_engine_is_replaced_and_another_is_added(rtx: Product, bundle: Path) -> None:
    add_engines(bundle, request("fp16"))
    add_engines(bundle, request("fp16"))
    made = add_engines(bundle, request("fp16", options=BuildOptions(("sm_120",))))
    assert [engine.targets for engine in made.manifest.engines] == [("sm_89",), ("sm_120",)]


@pytest.mark.usefixtures("built_once")
def test_one_for_other_shapes_is_replaced_in_words(rtx: Product, bundle: Path) -> None:
    add_engines(bundle, request("fp16"))
    told: list[str] = []
    made = add_engines(bundle, request("fp16", largest=("latent=8x4",)), told.append)
    (engine,) = made.manifest.engines
    assert engine.profiles[0]["latent"].max == (8, 4)
    assert any("in the place of the one for latent 1x4 - 1x4 - 64x4" in line for line in told)


@pytest.mark.usefixtures("built_once")
def test_targets_have_no_order(rtx: Product, bundle: Path) -> None:
    for named in (("sm_120", "sm_89"), ("sm_89", "sm_120")):
        made = add_engines(bundle, request("fp16", options=BuildOptions(named)))
    assert [engine.targets for engine in made.manifest.engines] == [("sm_89", "sm_120")]


@pytest.mark.usefixtures("built_once")
def test_a_form_that_was_rewritten_for_a_backend_is_no_source(rtx: Product, tmp_path: Path) -> None:
    """What ONNX Runtime sums in float32 by itself, and is given in fp16, TensorRT would sum in fp16."""
    forms = ("plain", "rewritten")
    files = {("fp16", form): networks.generator("fp16", seed=seed) for seed, form in enumerate(forms)}
    root = networks.bundle(tmp_path / "half.gantk", files).root
    made = add_engines(root, request())
    assert [(engine.form, engine.source) for engine in made.manifest.engines] == [
        ("plain", made.find("fp16", "plain").file.sha256)
    ]
    alone = {("fp16", "rewritten"): files["fp16", "rewritten"]}
    assert add_engines(networks.bundle(tmp_path / "x.gantk", alone).root, request()).manifest.engines == ()


def test_a_failure_leaves_the_bundle_as_it_was(rtx: Product, bundle: Path) -> None:
    before = {path: (bundle / path).read_bytes() for path in files(bundle)}
    starved = BuildOptions(("sm_89",), workspace_bytes=4096)
    with pytest.raises(GantkError, match=r"tiny.gantk/model.fp32.plain.onnx` in fp32 .* workspace limit"):
        add_engines(bundle, request(options=starved))
    assert {path: (bundle / path).read_bytes() for path in files(bundle)} == before
    with pytest.raises(GantkError, match="has no bf16 .* variant; it has fp32"):
        add_engines(bundle, request("bf16"))
    with pytest.raises(GantkError, match="does not exist; a bundle is a folder"):
        add_engines(bundle.with_name("other.gantk"), request())
    assert not bundle.with_name("other.gantk").exists()


@pytest.mark.usefixtures("built_once")
@pytest.mark.parametrize("fault", ["flipped", "missing"])
def test_nothing_is_built_into_a_damaged_bundle(rtx: Product, bundle: Path, fault: str) -> None:
    """It would be refused once it is built, or be in a bundle that is not whole."""
    variant = Bundle.read(bundle).find("fp32")
    tamper(bundle / variant.file.path, fault, bundle.parent / "outside")
    told: list[str] = []
    with pytest.raises(GantkError, match=re.escape(variant.file.path)):
        add_engines(bundle, request("fp16"), told.append)
    assert told == []


@pytest.mark.usefixtures("built_once")
def test_an_engine_that_was_removed_is_no_longer_named(rtx: Product, bundle: Path) -> None:
    """So one that takes too much room is got rid of."""
    held = {engine.precision: engine for engine in add_engines(bundle, request()).manifest.engines}
    (bundle / held["fp16"].file.path).unlink()
    told: list[str] = []
    made = add_engines(bundle, request("fp32", options=BuildOptions(("sm_120",))), told.append)
    assert {(engine.precision, engine.targets) for engine in made.manifest.engines} == {
        ("fp32", ("sm_89",)),
        ("fp32", ("sm_120",)),
    }
    assert any("no longer named: tensorrt-rtx" in line and "fp16" in line for line in told)


def test_an_interruption_leaves_the_bundle_as_it_was(rtx: Product, bundle: Path) -> None:
    before = files(bundle)

    def interrupt(phase: str, done: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_engines(bundle, request(), progress=interrupt)
    assert files(bundle) == before


@pytest.mark.usefixtures("built_once")
def test_the_same_build_again_is_the_same_bundle(rtx: Product, bundle: Path) -> None:
    # The fixture builds once; two real builds are compared below.
    first = add_engines(bundle, request("fp16")).manifest
    before = files(bundle)
    for _ in range(2):
        assert add_engines(bundle, request("fp16")).manifest.engines == first.engines
        assert files(bundle) == before


def test_sigterm_ends_a_build_and_leaves_nothing(rtx: Product, bundle: Path, tmp_path: Path) -> None:
    """However often it comes: timeout(1) sends it twice."""
    before, temporary = files(bundle), tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "gantk", "export", bundle, "--to", "tensorrt-rtx", "--target", "sm_89"]
    process = subprocess.Popen(
        [str(part) for part in command], env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE
    )
    while not any(temporary.glob("gantk-build-*/request.json")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    while process.poll() is None:
        process.terminate()
        time.sleep(0.001)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.decode().splitlines()[-1]) == (143, "interrupted")
    assert files(bundle) == before
    assert list(temporary.iterdir()) == []


def test_no_room_for_a_build(rtx: Product, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "model.onnx":
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(GantkError, match="cannot build in `.*`: No space left") as caught:
        add_engines(bundle, request("fp32"))
    assert "TMPDIR" in (caught.value.hint or "")


def test_what_cannot_be_asked_for(rtx: Product) -> None:
    with pytest.raises(UsageError, match="'tensorflow'; known are tensorrt, tensorrt-rtx"):
        EngineRequest(("tensorflow",)).check()
    with pytest.raises(UsageError, match="tf32 is a way to compute fp32 engines; asked for are fp16"):
        EngineRequest(("tensorrt-rtx",), ("fp16",), BuildOptions(tf32=True)).check()
    with pytest.raises(UsageError, match="sm_75 does not compute in bf16"):
        EngineRequest(("tensorrt-rtx",), ("bf16",), BuildOptions(("sm_75",))).check()
    with pytest.raises(UsageError, match="'fp64' is not a precision; known are fp32, fp16, bf16, int8, fp8"):
        EngineRequest(("tensorrt-rtx",), ("fp64",)).check()


def test_what_the_last_file_does_not_suit_is_refused_before_the_first_build(
    rtx: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("gantk.export.engines.pipeline.build_apart")
    kinds = ("fp32", "bf16")
    root = networks.bundle(
        tmp_path / "x.gantk", {(kind, "plain"): networks.generator(kind) for kind in kinds}
    ).root
    with pytest.raises(UsageError, match="sm_75 does not compute in bf16") as caught:
        add_engines(root, request(options=BuildOptions(("sm_75",))))
    assert caught.value.hint == (
        "leave sm_75 out of --target, or build for it alone with --precision fp32, fp16 or int8"
    )


def test_what_does_not_have_tf32_is_refused_before_a_build(rtx: Product) -> None:
    asked = EngineRequest(("tensorrt-rtx",), ("fp32",), BuildOptions(("sm_75",), tf32=True))
    with pytest.raises(UsageError, match="sm_75 does not compute in tf32, which begins with sm_80") as caught:
        asked.check()
    assert "--precision fp32" in (caught.value.hint or "")


def test_tf32_is_asked_for_with_fp32_among_others(rtx: Product) -> None:
    EngineRequest(("tensorrt-rtx",), ("fp16", "fp32"), BuildOptions(("sm_89",), tf32=True)).check()


def test_every_product_is_looked_at_first(rtx: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = products.installed
    monkeypatch.setattr(products, "installed", lambda *names: {} if "tensorrt" in names else honest(*names))
    with pytest.raises(BackendMissingError, match="tensorrt is not installed"):
        EngineRequest(("tensorrt-rtx", "tensorrt"), options=ADA).check()


@pytest.mark.parametrize(("beside", "fits"), [("fp32", False), ("fp16", True)])
def test_what_is_not_int8_is_narrowed_where_there_is_a_fp16_file(
    rtx: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str, fits: bool
) -> None:
    asked: dict[str, bool] = {}

    def adapt(product: Product, data: bytes, precision: str, where: str, *, fits_fp16: bool) -> NoReturn:
        asked[precision] = fits_fp16
        raise GantkError("enough")

    monkeypatch.setattr("gantk.export.engines.pipeline.adapt", adapt)
    kinds = {(kind, "plain"): networks.generator() for kind in ("int8", beside)}
    with pytest.raises(GantkError, match="enough"):
        add_engines(networks.bundle(tmp_path / "x.gantk", kinds).root, request("int8"))
    assert asked == {"int8": fits}


def test_tf32_without_a_file_that_it_is_for(rtx: Product, tmp_path: Path) -> None:
    bundle = networks.bundle(tmp_path / "half.gantk", {("fp16", "plain"): networks.generator("fp16")})
    with pytest.raises(UsageError, match="there is no fp32 file"):
        add_engines(bundle.root, request(options=BuildOptions(("sm_89",), tf32=True)))


@pytest.mark.usefixtures("built_once")
def test_tf32_is_of_fp32_engines_alone_and_in_their_names(rtx: Product, bundle: Path) -> None:
    made = add_engines(bundle, request(options=BuildOptions(("sm_89",), tf32=True)))
    assert [(engine.precision, engine.tf32, engine.file.path) for engine in made.manifest.engines] == [
        ("fp32", True, "engines/tensorrt-rtx-fp32-tf32-sm_89.engine"),
        ("fp16", False, "engines/tensorrt-rtx-fp16-sm_89.engine"),
    ]


def test_a_damaged_file_is_not_built(rtx: Product, bundle: Path) -> None:
    path = bundle / "model.fp32.plain.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(GantkError, match="the manifest says"):
        add_engines(bundle, request("fp32"))


def test_a_foreign_file_becomes_a_bundle(rtx: Product, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(networks.generator(metadata=False))
    made = bundle_onnx(path, tmp_path / "theirs.gantk", request())
    manifest = made.manifest
    assert (manifest.family, manifest.name) == ("onnx", "theirs")
    assert isinstance(manifest.variants[0], Variant)
    assert made.read_file(manifest.variants[0].file) == path.read_bytes()
    assert [engine.precision for engine in manifest.engines] == ["fp32"]
    assert manifest.probe is not None
    probe = load(made.read_file(manifest.probe))
    import gantk

    with gantk.open(path) as runner:
        outputs = runner.run({"latent": probe["input.latent"]})
    np.testing.assert_array_equal(outputs["picture"], probe["output.picture"])


def test_a_rewritten_file_is_no_source_of_engines(rtx: Product, tmp_path: Path) -> None:
    proto = onnx.load_from_string(networks.generator())
    next(entry for entry in proto.metadata_props if entry.key == "gantk.form").value = '"rewritten"'
    (tmp_path / "x.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(GantkError, match="is the rewritten form, made for another backend"):
        bundle_onnx(tmp_path / "x.onnx", tmp_path / "x.gantk", EngineRequest((rtx.name,)))
    assert not (tmp_path / "x.gantk").exists()
    assert (
        bundle_onnx(tmp_path / "x.onnx", tmp_path / "y.gantk", None).manifest.variants[0].form == "rewritten"
    )


def test_a_foreign_file_that_does_not_build_leaves_nothing(rtx: Product, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(graphs.refused("Resize", mode="linear", antialias=1))
    wanted = EngineRequest(
        ("tensorrt-rtx",),
        options=ADA,
        **dict.fromkeys(("smallest", "usual", "largest"), ("x=1x16x16x16",)),
    )
    with pytest.raises(GantkError, match=r"node `culprit` \(Resize\) of `.*/theirs.onnx`"):
        bundle_onnx(path, tmp_path / "theirs.gantk", wanted)
    assert files(tmp_path) == ["theirs.onnx"]


def without_torch(*words: str | Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from gantk.cli.main import main\n"
        f"sys.exit(main({[*map(str, words)]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_engines_are_built_without_torch(rtx: Product, bundle: Path, tmp_path: Path) -> None:
    engines = ("--to", "tensorrt-rtx", "--target", "sm_89")
    without_torch("export", bundle, *engines)
    assert len(Bundle.read(bundle).manifest.engines) == 2
    (tmp_path / "theirs.onnx").write_bytes(networks.generator(metadata=False))
    without_torch("export", tmp_path / "theirs.onnx", "--precision", "fp16,int8", *engines)
    made = Bundle.read(tmp_path / "theirs.gantk").manifest.engines
    assert [engine.precision for engine in made] == ["fp16", "int8"]
