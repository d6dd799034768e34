# SPDX-License-Identifier: Apache-2.0
"""Real engines by TensorRT for RTX, which needs no GPU for it, and what it refuses, in words."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import engine_graphs as graphs
from gantk.bundle import HeavyLayer, ShapeRange
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export.engines import build as building
from gantk.export.engines.build import BuildOptions, Built, build
from gantk.export.engines.cells import adapt
from gantk.runtime import driver
from gantk.runtime.products import PRODUCTS, Product, load

ADA = BuildOptions(("sm_89",))


def made(product: Product, data: bytes, precision: str, options: BuildOptions = ADA) -> Built:
    return build(product, data, precision, graphs.profiles_of(data), options, "x.onnx")


def test_an_engine_is_built_and_audited(rtx: Product) -> None:
    told: list[tuple[str, int, int]] = []
    data = graphs.transposed(np.float16)
    profiles = graphs.profiles_of(data)
    built = build(rtx, data, "fp16", profiles, ADA, "x.onnx", lambda *step: told.append(step))
    assert built.targets == ("sm_89",)
    assert built.found.layers == {"fp16": 1}
    assert built.found.heavy_layers == (HeavyLayer("grow", "deconvolution", "fp16"),)
    assert built.timing_cache is None  # TensorRT for RTX measures nothing when it builds.
    assert len(built.data) > 10_000
    phases = {phase for phase, _, _ in told}
    assert "Building engine" in phases
    assert all(0 <= done <= steps for _, done, steps in told)
    assert {(steps, steps) for phase, _, steps in told if phase == "Building engine"} <= {
        (done, steps) for phase, done, steps in told if phase == "Building engine"
    }


def test_tf32_is_off_unless_asked_for(rtx: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, seen = load(rtx), []
    configure = building._configure

    def spy(*arguments: object) -> object:
        config = configure(*arguments)  # type: ignore[arg-type]
        seen.append(config.get_flag(trt.BuilderFlag.TF32))
        return config

    monkeypatch.setattr(building, "_configure", spy)
    data = graphs.transposed(np.float32)
    for tf32 in (False, True):
        made(rtx, data, "fp32", BuildOptions(("sm_89",), tf32=tf32))
    assert seen == [False, True]


def test_an_engine_can_be_captured(rtx: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, configs = load(rtx), []
    configure = building._configure
    monkeypatch.setattr(
        building, "_configure", lambda *arguments: configs.append(configure(*arguments)) or configs[-1]
    )
    made(rtx, graphs.transposed(np.float16), "fp16")
    assert [config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION) for config in configs] == [True]


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_quantised_layer_computes_in_what_it_was_dequantised_from(rtx: Product, kind: str) -> None:
    built = made(rtx, graphs.quantised(kind), kind)
    assert built.found.heavy_layers == (HeavyLayer("conv", "convolution", kind),)


def test_weights_alone_make_no_int8_layer(rtx: Product) -> None:
    with pytest.raises(GantkError, match="asked for int8, and no heavy layer computes in it: .* in fp32"):
        made(rtx, graphs.quantised("int8", only_weights=True), "int8")


def test_a_layer_of_another_precision_is_named(rtx: Product) -> None:
    with pytest.raises(GantkError) as caught:
        made(rtx, graphs.mixed(), "fp16")
    assert "1 of 2 heavy layers compute in something else: convolution `forgotten` in fp32" in str(
        caught.value
    )
    assert caught.value.where == "x.onnx, layer forgotten"


@pytest.mark.parametrize(
    ("data", "text", "hint"),
    [
        (graphs.refused("Det"), r"node `culprit` \(Det\)", "operators that TensorRT has"),
        (graphs.refused("Bar", "elsewhere"), r"node `culprit` \(Bar\).*Plugin not found", "operators"),
        (
            graphs.refused("Resize", mode="linear", antialias=1),
            r"node `culprit` \(Resize\).*Antialiasing is not supported",
            "do without antialias",
        ),
    ],
)
def test_a_node_that_the_parser_refuses_is_named(rtx: Product, data: bytes, text: str, hint: str) -> None:
    profiles = ({"x": ShapeRange((1, 16, 16, 16), (1, 16, 16, 16), (1, 16, 16, 16))},)
    with pytest.raises(GantkError, match=text) as caught:
        build(rtx, data, "fp32", profiles, ADA, "x.onnx")
    assert caught.value.where == "x.onnx, node culprit"
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("size", [10, 200])
def test_half_a_file_is_refused(rtx: Product, size: int) -> None:
    data = graphs.transposed(np.float32)
    with pytest.raises(GantkError, match="cannot be parsed"):
        build(rtx, data[:size], "fp32", graphs.profiles_of(data), ADA, "x.onnx")


def test_a_build_that_fails_says_why(rtx: Product) -> None:
    """Without the rewrite: the vendor's own words, and what to do."""
    data = graphs.transposed(ml_dtypes.bfloat16)
    with pytest.raises(GantkError, match=r"cannot build `x.onnx` in bf16 for sm_89: .*deconv") as caught:
        made(rtx, data, "bf16")
    assert "--precision fp16" in (caught.value.hint or "")
    with pytest.raises(GantkError, match="cannot build `x.onnx` in fp32 .* within workspace limit") as caught:
        made(rtx, graphs.transposed(np.float32), "fp32", BuildOptions(("sm_89",), workspace_bytes=4096))
    assert "--workspace" in (caught.value.hint or "")


def test_too_little_memory_for_a_build_says_what_takes_less(
    rtx: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What pictures of 30000 pixels came to; no GPU is there whose memory could be told."""
    said = "Error Code 2: OutOfMemory (Requested size was 68722841606 bytes.)"
    monkeypatch.setattr("gantk.export.engines.build._serialized", lambda *given: None)
    monkeypatch.setattr("gantk.runtime.product_log.Log.said", lambda self: said)
    with pytest.raises(GantkError, match="68722841606 bytes") as caught:
        made(rtx, graphs.transposed(np.float32), "fp32")
    assert "--max" in (caught.value.hint or "")


def test_a_profile_that_does_not_suit_is_refused(rtx: Product) -> None:
    data = graphs.transposed(np.float32)
    profiles = ({"x": ShapeRange((1, 8, 16, 16), (1, 8, 16, 16), (1, 8, 16, 16))},)
    with pytest.raises(GantkError, match="x.onnx"):
        build(rtx, data, "fp32", profiles, ADA, "x.onnx")


def test_what_a_product_does_not_have_is_a_usage_error(rtx: Product) -> None:
    data = graphs.transposed(np.float32)
    with pytest.raises(UsageError, match="does not build for sm_90; it has sm_75, sm_80"):
        made(rtx, data, "fp32", BuildOptions(("sm_90",)))
    for option in ("version-compatible", "hardware-compatible"):
        for named in ((option,), ("refit", option)):
            with pytest.raises(
                UsageError, match=f"builds no {option} engines; it has refit, strip"
            ) as caught:
                made(rtx, data, "fp32", BuildOptions(options=named))
            assert caught.value.where == "--engine-options"
    with pytest.raises(UsageError, match="sm_75 does not compute in bf16, which begins with sm_80"):
        made(
            rtx,
            adapt(rtx, graphs.transposed(ml_dtypes.bfloat16), "bf16", "x")[0],
            "bf16",
            BuildOptions(("sm_75",)),
        )


@pytest.mark.skipif(driver.probe().works, reason="wants a machine without a GPU")
def test_what_wants_a_gpu_says_so(rtx: Product) -> None:
    with pytest.raises(BackendMissingError, match="cannot build refit and strip engines here: .*driver"):
        made(rtx, graphs.transposed(np.float32), "fp32", BuildOptions(options=("refit", "strip")))


def test_a_refittable_engine_is_built_for_the_gpu_at_hand(
    rtx: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as a builder goes without a driver: what it is told to build for."""
    told: list[object] = []
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(True, "13.0", ("G",), targets=("sm_89",)))

    def configure(*arguments: object) -> object:
        told.append(arguments[-1])
        raise GantkError("enough")

    monkeypatch.setattr(building, "_configure", configure)
    with pytest.raises(GantkError, match="enough"):
        made(rtx, graphs.transposed(np.float32), "fp32", BuildOptions(options=("refit",)))
    assert told == [("sm_89",)]


def test_a_product_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantk.runtime.products.installed", lambda *_: {})
    with pytest.raises(BackendMissingError, match="tensorrt is not installed") as caught:
        made(PRODUCTS["tensorrt"], graphs.transposed(np.float32), "fp32")
    assert caught.value.exit_code == 3
    assert caught.value.hint == "pip install 'gantk[tensorrt]'"


def test_what_progress_raises_ends_the_build(rtx: Product) -> None:
    calls = 0

    def interrupt(phase: str, done: int, steps: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    data = graphs.transposed(np.float32)
    with pytest.raises(KeyboardInterrupt):
        build(rtx, data, "fp32", graphs.profiles_of(data), ADA, "x.onnx", interrupt)
    assert calls == 5  # Nothing is told after it.
