# SPDX-License-Identifier: Apache-2.0
"""What outputs are compared with, and how they are judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bench_fakes as fakes
import numpy as np
import pytest
from bench_helpers import make_onnx
from safetensors.numpy import save

import gantk
import networks
from gantk.bench import reference, run
from gantk.bench.reference import OnnxReferenceRunner, coarser, judge
from gantk.bundle import STEP_FAMILY, Writer
from gantk.tensors import TensorSpec


def test_the_onnx_reference_serves_where_no_backend_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "status", lambda name: SimpleNamespace(works=False))
    path = make_onnx(tmp_path / "style.onnx")
    document = run.compare(path, shapes=[("content", (1, 3, 8, 8))], threads=1, budget_s=0.2)
    assert {row["parity"]["reference"] for row in document["rows"]} == {"onnx reference"}
    assert all(row["parity"]["passed"] for row in document["rows"])


def test_it_is_told_that_a_random_network_cannot_be_judged(tmp_path: Path) -> None:
    specs = [TensorSpec(name, "float32", (1, 64)) for name in ("x", "y")]
    path = tmp_path / "noise.onnx"
    path.write_bytes(networks.simple("RandomNormalLike", specs[:1], specs[1]))
    document = run.compare(path, backends=["onnxruntime"], threads=1, budget_s=0.2)
    assert "'y' is random, another one in each run: parity cannot tell who is right" in document["warnings"]


def test_the_onnx_reference_fills_the_arrays_that_it_is_given(onnx_file: Path) -> None:
    content = np.random.default_rng(0).standard_normal((1, 3, 5, 4)).astype(np.float32)
    runner = OnnxReferenceRunner(str(onnx_file))
    right = runner.run({"content": content})["styled"]
    out = np.full_like(right, 7.0)
    assert runner.run({"content": content}, out={"styled": out})["styled"] is out
    np.testing.assert_array_equal(out, right)


def test_outputs_are_judged_by_how_far_they_are() -> None:
    right = {"picture": np.zeros((2, 2), np.float32)}
    off = {"picture": np.full((2, 2), 0.5, np.float32)}
    assert judge(right, right, [fakes.PICTURE], "x", "fp32")["passed"]
    assert not judge(off, right, [fakes.PICTURE], "x", "fp32")["passed"]
    assert (
        "NaN" in judge({"picture": right["picture"] * np.nan}, right, [fakes.PICTURE], "x", "fp32")["reason"]
    )
    assert not judge({}, right, [fakes.PICTURE], "x", "fp32")["passed"]


def test_of_several_outputs_the_worst_speaks_in_any_order() -> None:
    specs = [replace(fakes.PICTURE, name=name) for name in ("first", "second")]
    right = {spec.name: np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2) for spec in specs}
    for off, passed in ((1e-5, True), (0.5, False)):
        for spec in specs:
            found = judge({**right, spec.name: right[spec.name] + np.float32(off)}, right, specs, "x", "fp32")
            assert found["passed"] == passed
            assert found["max_abs"] == pytest.approx(off, rel=0.02)
            assert found["psnr_db"] < 110


def test_what_is_judged_by_is_the_coarser_of_two_precisions() -> None:
    for precisions, wanted in (
        (("fp32", "int8"), "int8"),
        (("bf16", "fp32"), "bf16"),
        (("u4", "fp16"), "fp16"),
    ):
        assert coarser(*precisions) == wanted


def test_a_step_of_an_optimisation_is_judged_as_one() -> None:
    """An activation that is cut off here and not there moves the slopes of some pixels by percents."""
    right = {"picture": np.linspace(-1, 1, 20_000, dtype=np.float32).reshape(-1, 2)}
    off = {"picture": right["picture"].copy()}
    off["picture"][0] += 0.05
    assert not judge(off, right, [fakes.PICTURE], "x", "fp32")["passed"]
    assert judge(off, right, [fakes.PICTURE], "x", "fp32", family=STEP_FAMILY)["passed"]


@pytest.mark.parametrize("wrong", [False, True])
def test_without_pytorch_the_probe_tells_what_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    monkeypatch.setattr(reference, "has_torch", lambda: False)
    bundle = networks.bundle(tmp_path / "x.gantk")
    with gantk.open(bundle.root / bundle.find("fp32").file.path, "onnxruntime", device="cpu") as runner:
        pictures = runner.run({"latent": networks.latents(3)})["picture"]
    probe = {"input.latent": networks.latents(3), "output.picture": -pictures if wrong else pictures}
    with Writer(bundle.root, force=True) as writer:
        ref = writer.add("probe.safetensors", save(probe))
        writer.commit(replace(bundle.manifest, probe=ref))
    document = run.compare(bundle.root, backends=["onnxruntime"], batch=[1, 4], threads=1, budget_s=0.1)
    found = [(row["batch"], row["parity"]["reference"], row["parity"]["passed"]) for row in document["rows"]]
    assert found == [(batch, "torch float32 (probe)", not wrong) for batch in (1, 4)]
