# SPDX-License-Identifier: Apache-2.0
"""The table of docs/engines.md: every cell is built for real, and every refusal is the documented one.

One target of the quick families is always built; the rest is slow.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

import engine_families as families
import engine_graphs as graphs
import networks
from gantk.bundle import PRECISIONS, HeavyLayer
from gantk.errors import GantkError, UsageError
from gantk.export.engines.apart import build_apart
from gantk.export.engines.build import BuildOptions, Built, build, check_options
from gantk.export.engines.cells import (
    PHASES,
    REMAINDER,
    SUBPIXEL,
    adapt,
    asked_targets,
    choose_targets,
    lacks,
    refuse_here,
)
from gantk.export.engines.profiles import make_profiles
from gantk.export.engines.worker import take_turns
from gantk.export.int8 import Quantiser
from gantk.runtime import driver
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import from_bytes
from gantk.runtime.products import PRODUCTS, Product, load, targets
from gantk.runtime.registry import open_model

QUICK = {
    ("dcgan", "sm_89"),
    ("dcgan", "sm_75"),
    ("mlp", "sm_120"),
    ("foreign", "sm_86"),
    ("foreign", "sm_89"),
}
REFUSALS = {
    "no product": "no fp32 matrix products for sm_75",
    "no bf16": "does not compute in bf16, which begins with sm_80",
    "no fp8": "does not compute in fp8, which begins with sm_89",
}


def table() -> tuple[list[str], list[tuple[str, str, str, str]]]:
    """The targets, and of each cell family, precision, target and what the table says."""
    text = (networks.ROOT / "docs/engines.md").read_text(encoding="utf-8")
    lines = text.partition("<!-- cells -->")[2].partition("<!-- /cells -->")[0].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names, cells = rows[0][2:], []
    for family, precision, *row in rows[2:]:
        cells += [(family, precision, target, said) for target, said in zip(names, row, strict=True)]
    return names, cells


TARGETS, CELLS = table()


def made(product: Product, family: str, precision: str, target: str) -> tuple[Built, tuple[str, ...]]:
    data, interface = families.exported(family, precision)
    data, rewrites = adapt(product, data, precision, family)
    shapes = [["x=1x16x16x16"]] * 3 if family == "foreign" else []
    profiles = make_profiles(interface, families.FOLLOWS, *shapes)
    return build(product, data, precision, profiles, BuildOptions((target,)), family), rewrites


def is_quick(cell: tuple[str, str, str, str]) -> bool:
    return (cell[0], cell[2]) in QUICK


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, marks=() if is_quick(cell) else pytest.mark.slow, id="-".join(cell[:3]))
        for cell in CELLS
    ],
)
def test_a_cell(rtx: Product, cell: tuple[str, str, str, str]) -> None:
    family, precision, target, said = cell
    if said in REFUSALS:
        with pytest.raises(UsageError, match=REFUSALS[said]):
            made(rtx, family, precision, target)
        return
    assert said in ("yes", "rewritten")
    built, rewrites = made(rtx, family, precision, target)
    assert built.targets == (target,)
    assert rewrites == (SUBPIXEL if said == "rewritten" else ())
    heavy = [layer for layer in built.found.heavy_layers if layer.name not in built.found.islands]
    kinds = {layer.precision for layer in heavy}
    assert kinds == {precision} if precision not in ("int8", "fp8") else precision in kinds


def test_the_table_has_every_target_of_the_product(rtx: Product) -> None:
    assert list(targets(load(rtx))) == TARGETS
    assert {precision for _, precision, _, _ in CELLS} == set(PRECISIONS)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_product_itself_refuses_what_the_table_does(
    rtx: Product, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should it learn to, the table is to be changed."""
    monkeypatch.setattr("gantk.export.engines.cells.lacks", lambda *_: None)
    with pytest.raises(GantkError, match=r"tensorrt-rtx .* cannot build `dcgan` in \w+ for sm_75"):
        made(rtx, "dcgan", precision, "sm_75")


def test_targets_that_are_not_said_are_those_that_can_be_had(rtx: Product) -> None:
    assert choose_targets(rtx, "fp16", (), TARGETS) == tuple(TARGETS)
    assert choose_targets(rtx, "bf16", (), TARGETS) == tuple(TARGETS[1:])
    assert choose_targets(rtx, "fp8", (), TARGETS) == ("sm_89", "sm_120", "sm_121")
    product = HeavyLayer("fc", "matrix-multiply", "fp32")
    assert lacks(PRODUCTS["tensorrt"], "fp32", "sm_75", [product]) is None
    assert choose_targets(rtx, "tf32", (), TARGETS) == tuple(TARGETS[1:])  # Turing would compute in fp32.


@pytest.mark.parametrize(
    ("named", "options", "here", "asked"),
    [
        ((), (), "sm_89", ()),
        (("sm_89", "sm_120"), (), "sm_86", ("sm_89", "sm_120")),
        ((), ("refit",), "sm_86", ("sm_86",)),
        (("sm_120",), ("refit", "strip"), "sm_90", ("sm_120",)),
        (("sm_89", "sm_120"), ("refit",), "sm_89", "one architecture; asked for are sm_89, sm_120"),
        ((), ("refit",), "sm_90", "does not build for sm_90, the GPU at hand; it has sm_75, sm_80"),
    ],
)
def test_a_refittable_engine_is_for_one_architecture(
    monkeypatch: pytest.MonkeyPatch,
    named: tuple[str, ...],
    options: tuple[str, ...],
    here: str,
    asked: tuple[str, ...] | str,
) -> None:
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(True, "13.0", ("G",), targets=(here, "sm_75")))
    rtx = PRODUCTS["tensorrt-rtx"]
    if isinstance(asked, tuple):
        assert asked_targets(rtx, named, options, TARGETS) == asked
        assert asked_targets(PRODUCTS["tensorrt"], named, options, TARGETS) == named
        return
    with pytest.raises(UsageError, match=asked) as caught:
        asked_targets(rtx, named, options, TARGETS)
    assert "--target" in (caught.value.hint or "")


def test_another_precision_is_named_that_can_be_had_for_an_architecture() -> None:
    """Where a float32 product is at fault none that may have one too."""
    rtx, product = PRODUCTS["tensorrt-rtx"], HeavyLayer("y", "matrix-multiply", "fp32")
    for precision, layers, named in (
        ("bf16", (), "fp32, fp16 or int8"),
        ("fp32", (product,), "fp16"),
    ):
        with pytest.raises(UsageError) as caught:
            choose_targets(rtx, precision, ("sm_75",), ("sm_75", "sm_89"), layers)
        said = f"leave sm_75 out of --target, or build for it alone with --precision {named}"
        assert caught.value.hint == said


def test_where_there_is_no_gpu_no_precision_is_refused_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(False, reason="no NVIDIA driver"))
    refuse_here(PRODUCTS["tensorrt"], "bf16")
    turing = driver.Driver(True, "13.0", ("T4",), targets=("sm_75",))
    monkeypatch.setattr(driver, "probe", lambda: turing)
    with pytest.raises(UsageError, match="sm_75 does not compute in bf16, which begins with sm_80"):
        refuse_here(PRODUCTS["tensorrt"], "bf16")
    refuse_here(PRODUCTS["tensorrt-rtx"], "bf16")


def test_a_rewritten_transposed_convolution_is_equal(rtx: Product) -> None:
    """Weights are moved, not computed with, so that fp16 is enough to tell; the reference evaluator has no bf16."""
    data = graphs.transposed(np.float16)
    graph = ir.from_proto(onnx.load_from_string(data))
    from gantk.export.rewrites import REWRITES

    assert sum(REWRITES[name](graph) for name in SUBPIXEL) == 1
    x = np.random.default_rng(0).standard_normal((2, graphs.CHANNELS, 5, 7)).astype(np.float16)
    (wanted,) = ReferenceEvaluator(onnx.load_from_string(data)).run(None, {"x": x})
    (found,) = ReferenceEvaluator(ir.to_proto(graph)).run(None, {"x": x})
    assert found.dtype == wanted.dtype == np.float16
    np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("kernel", "strides"), [(3, (2, 2)), (4, (1, 1))], ids=["CycleGAN", "DCGAN"])
def test_other_transposed_convolutions_build(rtx: Product, kernel: int, strides: tuple[int, int]) -> None:
    data, rewrites = adapt(rtx, graphs.transposed(ml_dtypes.bfloat16, kernel, strides), "bf16", "x.onnx")
    assert rewrites == (PHASES,)
    built = build(rtx, data, "bf16", graphs.profiles_of(data), BuildOptions(("sm_80",)), "x.onnx")
    assert [layer.precision for layer in built.found.heavy_layers] == ["bf16"]


def test_a_transposed_convolution_that_no_rewrite_takes(rtx: Product) -> None:
    data = graphs.transposed(ml_dtypes.bfloat16, strides=(2, 1))
    with pytest.raises(
        GantkError, match="layer `grow` of `x.onnx` is a transposed convolution, which tensorrt-rtx"
    ) as caught:
        adapt(rtx, data, "bf16", "x.onnx")
    assert caught.value.hint == "a fp16 file builds: --precision fp16"
    assert adapt(rtx, data, "fp16", "x.onnx") == (data, ())
    assert adapt(PRODUCTS["tensorrt"], data, "bf16", "x.onnx") == (data, ())


def partly_int8(folder: Path) -> bytes:
    """A network of two transposed convolutions, the second of which is int8."""
    proto = onnx.load_from_string(networks.generator())
    for index, node in enumerate(proto.graph.node):
        node.name = f"layer{index}"
    feeds = [random_feeds(networks.specs()[:1], {"N": 2}, seed=seed) for seed in range(4)]
    quantiser = Quantiser(proto.SerializeToString(), feeds, "minmax", folder)
    return quantiser.quantise(quantiser.layers[:1])


def test_what_is_not_int8_becomes_fp16_where_that_is_safe(rtx: Product, tmp_path: Path) -> None:
    data = partly_int8(tmp_path)
    narrow, rewrites = adapt(rtx, data, "int8", "x.onnx", fits_fp16=True)
    assert rewrites == (REMAINDER,)
    assert adapt(rtx, data, "int8", "x.onnx") == (data, ())
    built = build(rtx, narrow, "int8", graphs.profiles_of(narrow), BuildOptions(("sm_75",)), "x.onnx")
    assert [layer.precision for layer in built.found.heavy_layers] == ["fp16", "int8"]
    feeds = {"latent": networks.latents(3)}
    with (
        open_model(from_bytes(data), "onnxruntime") as wide,
        open_model(from_bytes(narrow), "onnxruntime") as half,
    ):
        np.testing.assert_allclose(half.run(feeds)["picture"], wide.run(feeds)["picture"], atol=0.05)


@pytest.mark.parametrize(
    ("of_weights", "small", "holds"),
    [
        (False, 2.0**-14 * 0.999, False),
        (False, 2.0**-14, True),
        (True, 2.0**-21 * 0.999, False),
        (True, 2.0**-21, True),
    ],
)
def test_a_scale_that_fp16_cannot_hold_keeps_the_rest_wide(
    rtx: Product, tmp_path: Path, of_weights: bool, small: float, holds: bool
) -> None:
    proto = onnx.load_from_string(partly_int8(tmp_path))
    quantised = {node.output[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    name = next(
        node.input[1]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and (node.input[0] not in quantised) == of_weights
    )
    (scale,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(scale).copy()
    values.reshape(-1)[-1] = small  # Of weights each channel has one.
    scale.CopyFrom(onnx.numpy_helper.from_array(values, name))
    data = proto.SerializeToString()
    narrow, rewrites = adapt(rtx, data, "int8", "x.onnx", fits_fp16=True)
    assert (rewrites, narrow == data) == (((REMAINDER,), False) if holds else ((), True))


def test_a_scale_that_only_a_run_tells_keeps_the_rest_wide(rtx: Product, tmp_path: Path) -> None:
    proto = onnx.load_from_string(partly_int8(tmp_path))
    node = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    proto.graph.node.insert(0, onnx.helper.make_node("Identity", [node.input[1]], ["told"]))
    node.input[1] = "told"
    data = proto.SerializeToString()
    assert adapt(rtx, data, "int8", "x.onnx", fits_fp16=True) == (data, ())


def may_take_turns() -> bool:
    """Whether a process may run its threads first in, first out."""
    code = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "precision"),
    [
        (family, precision)
        for family, precision, target, said in CELLS
        if target == "sm_89" and said not in REFUSALS
    ],
)
def test_rebuilds_are_equal_byte_for_byte(rtx: Product, family: str, precision: str) -> None:
    if not may_take_turns():
        pytest.skip("wants to run threads in turns: root, or ulimit -r 1")
    data, interface = families.exported(family, precision)
    data, _ = adapt(rtx, data, precision, family)
    shapes = [["x=1x16x16x16"]] * 3 if family == "foreign" else []
    profiles = make_profiles(interface, families.FOLLOWS, *shapes)
    options = BuildOptions(("sm_89",), reproducible=True)
    first, *more = (build_apart(rtx, data, precision, profiles, options, family) for _ in range(3))
    assert more == [first] * 2


def test_a_process_that_may_not_run_threads_in_turns_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    monkeypatch.setattr("os.sched_setscheduler", refuse)
    with pytest.raises(GantkError, match="threads cannot take turns here: .* not permitted") as caught:
        take_turns()
    assert "ulimit -r 1" in str(caught.value.hint)


def test_what_is_measured_is_not_reproducible(rtx: Product) -> None:
    with pytest.raises(UsageError, match="tensorrt chooses by measuring"):
        check_options(PRODUCTS["tensorrt"], load(rtx), BuildOptions(reproducible=True))
