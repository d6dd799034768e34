# SPDX-License-Identifier: Apache-2.0
"""`gantk export --to ...` and what `gantk info` says of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gantk.bundle import Bundle
from gantk.runtime.products import PRODUCTS

Gantk = Callable[..., Any]

needs_rtx = pytest.mark.skipif(
    PRODUCTS["tensorrt-rtx"].version is None, reason="wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'"
)


@needs_rtx
def test_a_bundle_gains_engines_and_info_lists_them(gantk: Gantk, bundle: Path) -> None:
    arguments = ("--to", "tensorrt-rtx", "--target", "sm_89,sm_120", "--tf32")
    shapes = ("--opt", "latent=4x4", "--opt", "latent=32x4", "--max", "latent=40x4")
    done = gantk("export", bundle, *arguments, *shapes, "--json", "-")
    assert done.status == 0, done.err
    (told,) = done.json["manifest"]["engines"]
    assert told["targets"] == ["sm_89", "sm_120"]
    assert (told["tf32"], told["verified"]) == (True, False)
    assert [profile["latent"]["opt"] for profile in told["profiles"]] == [[4, 4], [32, 4]]
    assert [layer["precision"] for layer in told["heavy_layers"]] == ["fp32", "fp32"]
    assert done.json["new_files"] == [told["file"]["path"]]
    assert "unverified" in done.err

    about = gantk("info", bundle)
    assert about.status == 0
    assert "fp32 tf32" in about.out
    assert "sm_89 sm_120" in about.out
    assert "latent 1x4 - 4x4 - 40x4; latent 1x4 - 32x4 - 40x4" in about.out
    path = bundle / told["file"]["path"]
    path.write_bytes(path.read_bytes()[:-1])
    assert f"damaged: {told['file']['path']}" in gantk("info", bundle).err


@needs_rtx
def test_a_foreign_file_becomes_a_bundle(gantk: Gantk, onnx_file: Path) -> None:
    done = gantk("export", onnx_file, "--to", "tensorrt-rtx", "--target", "sm_89")
    assert (done.status, done.out.strip()) == (0, str(onnx_file.with_suffix(".gantk")))
    assert len(Bundle.read(onnx_file.with_suffix(".gantk")).manifest.engines) == 1
    again = gantk("export", onnx_file, "--to", "tensorrt-rtx", "--target", "sm_89")
    assert (again.status, "exists" in again.err) == (1, True)
    assert gantk("export", onnx_file, "--to", "tensorrt-rtx", "--target", "sm_89", "--force").status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ("--to tensorflow", 2, "--to names 'tensorflow'; known are onnx, tensorrt, tensorrt-rtx"),
        ("--to ,", 2, "--to names nothing"),
        ("--to tensorrt-rtx --target ,", 2, "--target names nothing"),
        ("--to tensorrt-rtx --engine-options=", 2, "--engine-options names nothing"),
        ("--target=", 2, "--target is for engines"),
        ("--tf32", 2, "--tf32 is for engines"),
        ("--opt latent=4x4", 2, "--opt is for engines"),
        ("--to tensorrt-rtx --target sm_90", 2, "does not build for sm_90; it has sm_75"),
        ("--to tensorrt-rtx --tf32 --precision fp16", 2, "tf32 is a way to compute fp32 engines"),
        ("--to tensorrt-rtx --engine-options fast", 2, "builds no fast engines; it has refit, strip"),
        (
            "--to tensorrt-rtx --engine-options strip",
            2,
            "strip leaves the weights out, and without refit nothing",
        ),
        ("--to tensorrt-rtx --opt noise=1x4", 2, "'noise=1x4' is of no input; the inputs are latent"),
        ("--to tensorrt-rtx --opt latent=1x5", 2, "'latent=1x5' does not fit latent"),
        ("--to tensorrt-rtx -o other.gantk", 2, "engines are added to `.*tiny.gantk` itself"),
        ("--to tensorrt-rtx --precision bf16", 1, "has no bf16 .* variant"),
    ],
)
@needs_rtx
def test_what_cannot_be(gantk: Gantk, bundle: Path, arguments: str, status: int, says: str) -> None:
    before = sorted(bundle.rglob("*"))
    done = gantk("export", bundle, *arguments.split())
    assert (done.status, bool(re.search(says, done.err))) == (status, True), done.err
    assert sorted(bundle.rglob("*")) == before
    assert not bundle.with_name("other.gantk").exists()


def test_a_product_that_is_missing(gantk: Gantk, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantk.runtime.products.installed", lambda *_: {})
    done = gantk("export", bundle, "--to", "tensorrt")
    assert done.status == 3
    assert "tensorrt is not installed" in done.err
    assert "pip install 'gantk[tensorrt]'" in done.err
    assert gantk("run", bundle, "--backend", "tensorrt-rtx", "--output-dir", "out").status == 3
