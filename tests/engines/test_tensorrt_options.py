# SPDX-License-Identifier: Apache-2.0
"""TensorRT proper builds on a machine with a GPU alone: that its options reach it is seen on a stand-in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fake_builder import FLAG, Flag, Flagged, TensorRT
from fake_cuda import FakeCuda
from gantk.bundle import ShapeRange
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export.engines.build import BuildOptions, Built, build
from gantk.runtime import driver
from gantk.runtime.products import PRODUCTS

PRODUCT = PRODUCTS["tensorrt"]
PROFILE = {"x": ShapeRange((1, 3), (2, 3), (4, 3))}


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRT:
    made = TensorRT()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("gantk.export.engines.build.load", lambda product: made)
    monkeypatch.setattr("gantk.export.engines.build.check_tensors", lambda *_: None)  # Its network has none.
    monkeypatch.setattr("gantk.export.engines.build.raised_in_kernels", lambda: None)
    monkeypatch.setattr("gantk.runtime.products.installed", lambda *_: {"tensorrt": "11.4.0.106"})
    found = driver.Driver(True, "13.0", ("H100",), targets=("sm_90",))
    monkeypatch.setattr(driver, "probe", lambda: found)
    return made


def made(options: BuildOptions) -> Built:
    return build(PRODUCT, b"onnx", "fp32", (PROFILE,), options, "x.onnx")


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ((), set()),
        (("version-compatible",), {Flag.VERSION_COMPATIBLE}),
        (("refit",), {Flag.REFIT}),
        (("strip", "refit"), {Flag.STRIP_PLAN, Flag.REFIT}),
    ],
)
def test_flags(trt: TensorRT, options: tuple[str, ...], flags: set[Flag]) -> None:
    built = made(BuildOptions(options=options))
    assert built.targets == ("sm_90",)
    assert trt.config.flags == flags  # TF32, which is on by default, is off.
    assert (trt.config.hardware_compatibility_level, trt.config.limits) == ("none", {})
    assert trt.created == [0]
    assert trt.config.profiles == [{"x": ((1, 3), (2, 3), (4, 3))}]


def test_before_release_11_a_strongly_typed_network_is_asked_for(
    trt: TensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "NetworkDefinitionCreationFlag", SimpleNamespace(STRONGLY_TYPED=1))
    made(BuildOptions())
    assert trt.created == [1 << 1]


def test_weights_are_left_out_only_where_they_can_be_put_in(trt: TensorRT) -> None:
    with pytest.raises(UsageError, match="strip leaves the weights out, and without refit") as caught:
        made(BuildOptions(options=("strip",)))
    assert caught.value.hint == "--engine-options refit,strip"


def test_a_version_compatible_engine_is_not_refitted(trt: TensorRT) -> None:
    with pytest.raises(UsageError, match="its lean runtime, refits none"):
        made(BuildOptions(options=("refit", "version-compatible")))


def test_levels_and_limits(trt: TensorRT) -> None:
    made(BuildOptions(tf32=True, options=("hardware-compatible",), workspace_bytes=2**30))
    assert trt.config.flags == {Flag.TF32}
    assert trt.config.hardware_compatibility_level == "ampere"
    assert trt.config.limits == {"workspace": 2**30}


def test_what_was_measured_is_kept_for_the_next_build(trt: TensorRT, tmp_path: Path) -> None:
    first = made(BuildOptions())
    (path,) = (tmp_path / "gantk/timing").iterdir()
    assert path.name == "tensorrt-11.4.0.106-sm_90.cache"
    assert path.read_bytes() == b"+measured"
    assert first.timing_cache == hashlib.sha256(b"+measured").hexdigest()
    second = made(BuildOptions())
    assert path.read_bytes() == b"+measured+measured"
    assert second.timing_cache != first.timing_cache
    path.write_bytes(b"rubbish")  # What the library does not take is begun again.
    made(BuildOptions())
    assert path.read_bytes() == b"+measured"


def test_what_another_gpu_measured_is_measured_anew(trt: TensorRT, tmp_path: Path) -> None:
    made(BuildOptions())
    (path,) = (tmp_path / "gantk/timing").iterdir()
    trt.config.refused = {b"+measured"}  # By a GPU of the same architecture.
    built = made(BuildOptions())
    assert path.read_bytes() == b"+measured"
    assert built.timing_cache == hashlib.sha256(b"+measured").hexdigest()
    trt.config.refused = {b"+measured", b""}
    path.unlink()
    with pytest.raises(GantkError, match="the library takes no timing cache"):
        made(BuildOptions())


def test_every_profile_has_every_input(trt: TensorRT) -> None:
    one, two = ShapeRange((1,), (1,), (1,)), ShapeRange((2,), (3,), (4,))
    build(PRODUCT, b"onnx", "fp32", ({"x": one, "y": two}, {"x": two, "y": one}), BuildOptions(), "x.onnx")
    ones, twos = ((1,), (1,), (1,)), ((2,), (3,), (4,))
    assert trt.config.profiles == [{"x": ones, "y": twos}, {"x": twos, "y": ones}]


def test_a_profile_that_the_library_refuses_is_told(trt: TensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt.config, "add_optimization_profile", lambda profile: -1)
    with pytest.raises(GantkError, match="the profile x 1x3 - 2x3 - 4x3 does not suit `x.onnx`"):
        made(BuildOptions())


@pytest.mark.parametrize("cache", ["unwritable", "homeless"])
def test_an_engine_whose_measurements_cannot_be_kept_is_built(
    trt: TensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    if cache == "unwritable":
        (tmp_path / "gantk").touch()
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", homeless)
    built = made(BuildOptions())
    assert (built.data, built.timing_cache) == (b"plan", None)


@pytest.mark.parametrize("data_dependent", [False, True])
def test_an_engine_can_be_captured_where_the_network_can(
    trt: TensorRT, monkeypatch: pytest.MonkeyPatch, data_dependent: bool
) -> None:
    monkeypatch.setattr(Flag, "REQUIRE_USER_ALLOCATION", FLAG, raising=False)
    builder = Flagged(trt, data_dependent)
    assert made(BuildOptions()).data == b"plan"
    assert builder.seen == ([True, False] if data_dependent else [True])


@pytest.mark.parametrize(("refuses", "tries"), [(True, [True, False]), (False, [True])])
def test_what_a_build_failed_of_is_told_not_what_was_tried_before(
    trt: TensorRT, monkeypatch: pytest.MonkeyPatch, refuses: bool, tries: list[bool]
) -> None:
    monkeypatch.setattr(Flag, "REQUIRE_USER_ALLOCATION", FLAG, raising=False)
    builder = Flagged(trt, refuses, then="no tactic was found")
    with pytest.raises(GantkError, match=r"for sm_90: no tactic was found\n"):
        made(BuildOptions())
    assert builder.seen == tries


def test_nothing_is_kept_of_a_build_that_fails(trt: TensorRT, tmp_path: Path) -> None:
    trt.made = None
    with pytest.raises(
        GantkError, match="tensorrt 11.4.0.106 cannot build `x.onnx` in fp32 for sm_90: it gave"
    ):
        made(BuildOptions())
    assert not (tmp_path / "gantk").exists()


@pytest.mark.parametrize("call", ["Builder", "OnnxParser", "HardwareCompatibilityLevel"])
def test_what_the_library_raises_is_told_in_its_words(
    trt: TensorRT, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    class Raises:
        def __call__(self, *_: object) -> None:
            raise RuntimeError("CUDA initialization failure with error: 35")

        AMPERE_PLUS = property(__call__)

    monkeypatch.setattr(trt, call, Raises())
    with pytest.raises(GantkError, match="tensorrt cannot build `x.onnx`: CUDA initialization failure"):
        made(BuildOptions(options=("hardware-compatible",)))


def test_it_builds_for_the_gpu_at_hand(trt: TensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="tensorrt builds for the GPU at hand alone, and takes no --target"):
        made(BuildOptions(("sm_89",)))
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(False, reason="no driver"))
    with pytest.raises(BackendMissingError, match="tensorrt cannot build engines here: no driver"):
        made(BuildOptions())
    assert trt.created == []


def test_the_kernels_are_in_what_is_parsed(trt: TensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def put_kernels(*arguments: Any, tf32: bool) -> tuple[bytes, tuple[str, ...]]:
        asked.append((*arguments, tf32))
        return b"with kernels", ("quick-plugins",)

    monkeypatch.setattr("gantk.export.engines.build.put_kernels", put_kernels)
    built = made(BuildOptions(tf32=True, options=("refit",)))
    assert asked == [(PRODUCT, trt, b"onnx", {"x": (2, 3)}, ("refit",), True)]
    assert (trt.parsed, built.rewrites) == ([b"with kernels"], ("quick-plugins",))
    trt.made = None
    with pytest.raises(GantkError, match="cannot build") as caught:
        made(BuildOptions())
    assert caught.value.hint == "--no-plugins builds it of ordinary operators"
    del asked[:], trt.parsed[:]
    trt.made = b"plan"
    assert made(BuildOptions(plugins=False)).rewrites == ()
    assert (asked, trt.parsed) == ([], [b"onnx"])


def test_out_of_memory_says_what_is_free(trt: TensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    trt.made = None
    monkeypatch.setattr("gantk.runtime.cuda.bindings", FakeCuda)
    said = "Error Code 2: OutOfMemory (Requested size was 9663676416 bytes.)"
    monkeypatch.setattr("gantk.runtime.product_log.Log.said", lambda self: said)
    with pytest.raises(
        GantkError,
        match=r"Requested size was 9663676416 bytes.\); of the GPU's memory 1024.0 of 1024.0 MiB are free",
    ) as caught:
        made(BuildOptions())
    assert "--workspace MIB" in (caught.value.hint or "")


@pytest.mark.parametrize(("target", "precision"), [("sm_80", "fp8"), ("sm_75", "bf16")])
def test_a_precision_that_the_gpu_at_hand_does_not_have(
    trt: TensorRT, monkeypatch: pytest.MonkeyPatch, target: str, precision: str
) -> None:
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(True, "13.0", ("A100",), targets=(target,)))
    with pytest.raises(UsageError, match=f"{target} does not compute in {precision}, which begins with sm_8"):
        build(PRODUCT, b"onnx", precision, (PROFILE,), BuildOptions(), "x.onnx")
    assert trt.parsed == []


@pytest.mark.parametrize("at", ["parsing", "building"])
def test_what_a_kernel_raised_is_why_there_is_no_engine(
    trt: TensorRT, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    raised = GantkError("gantk's kernels do not go into the engine: that", hint="--no-plugins")
    put = ("quick-plugins",)
    monkeypatch.setattr("gantk.export.engines.build.put_kernels", lambda *_, **__: (b"onnx", put))
    monkeypatch.setattr("gantk.export.engines.build.raised_in_kernels", lambda: raised)
    if at == "parsing":
        parser = SimpleNamespace(parse=lambda data: False, num_errors=0)
        monkeypatch.setattr(trt, "OnnxParser", lambda *_: parser)
    trt.made = None
    with pytest.raises(GantkError, match="gantk's kernels do not go into the engine: that"):
        made(BuildOptions())
