# SPDX-License-Identifier: Apache-2.0
"""What a manifest says of engines: read strictly, and only of variants that are there too."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

import networks
from bundle_engines import make_engine
from gantk.bundle import FileRef, Manifest, ShapeRange, Variant
from gantk.errors import GantkError
from gantk.tensors import SIZE_LIMIT, TensorSpec


def document(**changes: Any) -> dict[str, Any]:
    """A manifest of one engine, as JSON."""
    latent, picture = networks.specs()
    variant = Variant(FileRef.of("model.fp16.onnx", b"x"), "fp16", "plain", 20)
    made = Manifest("dcgan", "tiny", {}, (latent,), (picture,), (variant,))
    made = replace(made, engines=(make_engine(variant, {"latent": (1, 4)}),))
    written: dict[str, Any] = json.loads(made.dumps())
    written["engines"][0].update(changes)
    return written


def shapes(*sizes: tuple[int, ...]) -> dict[str, list[int]]:
    return {key: list(size) for key, size in zip(("min", "opt", "max"), sizes, strict=True)}


def test_a_manifest_of_before_engines_is_read() -> None:
    old = document()
    for engines in ([], None):
        old["engines"] = engines
        if engines is None:
            del old["engines"]
        assert Manifest.from_json(old).engines == ()


def test_files_of_engines_exist() -> None:
    probe = FileRef.of("probe-01234567.safetensors", b"probe")
    manifest = Manifest.from_json(document(probe=probe.to_json()))
    assert [ref.path for ref in manifest.files] == [
        "model.fp16.onnx",
        "engines/tensorrt-rtx-sm_89.engine",
        "probe-01234567.safetensors",
    ]
    assert manifest.source(manifest.engines[0]) == manifest.variants[0]


def test_an_engine_of_before_probes_is_read() -> None:
    old = document()
    del old["engines"][0]["probe"]
    assert Manifest.from_json(old) == Manifest.from_json(document())


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("backend", "onnxruntime", "has backend 'onnxruntime'; known are tensorrt, tensorrt-rtx"),
        ("version", "latest", "is of version 'latest'"),
        ("targets", [], "targets such as 'sm_89' are wanted"),
        ("targets", ["sm_89", "SM75"], "targets such as 'sm_89' are wanted"),
        ("targets", ["sm_89", "sm_89"], "are called the same: sm_89, sm_89"),
        ("precision", "fp32", "which the manifest does not have"),
        ("form", "rewritten", "which the manifest does not have"),
        ("source", "1" * 64, "with sha256 111111111111..., which the manifest does not have"),
        ("source", "x", "the source of .* 64 hexadecimal digits"),
        ("timing_cache", "x", "the timing cache of .* 64 hexadecimal digits"),
        ("workspace_bytes", 0, "cannot have been built in 0 bytes of scratch memory"),
        ("workspace_bytes", 1.5, "'workspace_bytes' wants int, not float"),
        ("options", ["fast"], "known are version-compatible, hardware-compatible, refit, strip"),
        ("layers", {"fp99": 1}, "a layer computes in 'fp99'"),
        ("layers", {"fp16": -1}, "cannot have -1 layers of fp16"),
        ("plugins", ["./evil.so"], "wants the plugin library './evil.so'; a name without a folder is wanted"),
        ("plugins", ["/evil.so"], "a name without a folder is wanted"),
        ("plugins", ["..", "x.so"], "wants the plugin library '..'"),
        ("tf32", 1, "'tf32' wants bool, not int"),
        ("verified", False, "called verified where its parity says otherwise"),
        ("parity", [], "called verified where its parity says otherwise"),
        ("probe", "x", "'probe' wants dict, not str"),
        ("profiles", [], "has no profile"),
        ("profiles", [[]], r"profiles\[0\]: a profile is an object"),
        ("profiles", [{}], "is for nothing; the inputs are latent"),
        ("profiles", [{"noise": shapes((1, 4), (1, 4), (1, 4))}], "is for noise; the inputs are latent"),
        ("profiles", [{"latent": shapes((1, 5), (1, 5), (1, 5))}], "has 1x5 - 1x5 - 1x5 for latent: float32"),
        ("profiles", [{"latent": shapes((4,), (4,), (4,))}], "has 4 - 4 - 4 for latent"),
        ("profiles", [{"latent": shapes((2, 4), (1, 4), (3, 4))}], "2x4 - 1x4 - 3x4 is no range of shapes"),
        ("profiles", [{"latent": shapes((0, 4), (1, 4), (3, 4))}], "0x4 - 1x4 - 3x4 is no range of shapes"),
        ("profiles", [{"latent": shapes((1, 4), (1, 4), (2**31, 4))}], "is no range of shapes"),
        ("profiles", [{"latent": shapes((1, 4), (1, 4), (1,))}], "is no range of shapes"),
    ],
)
def test_what_cannot_be_is_refused(field: str, value: Any, text: str) -> None:
    with pytest.raises(GantkError, match=text):
        Manifest.from_json(document(**{field: value}))


@pytest.mark.parametrize(
    ("version", "allowed"),
    [("1.7", True), ("11.4.0.106.dev1+cu13", True), ("1.2.3.4.5.6", True), ("1.2.3.4.5.6.7", False), ("11", False),
     ("1.", False), ("1.7 ", False), ("v1.7", False), ("1.7/../x", False)],
)  # fmt: skip
def test_versions(version: str, allowed: bool) -> None:
    with nullcontext() if allowed else pytest.raises(GantkError, match="is of version"):
        assert Manifest.from_json(document(version=version)).engines[0].version == version


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("sm_50", True),
        ("sm_121", True),
        ("sm_9", False),
        ("sm_075", False),
        ("sm_1000", False),
        ("xsm_89", False),
    ],
)
def test_targets(target: str, allowed: bool) -> None:
    with nullcontext() if allowed else pytest.raises(GantkError, match="targets such as"):
        assert Manifest.from_json(document(targets=[target])).engines[0].targets == (target,)


def test_ranges_have_limits() -> None:
    assert ShapeRange((1,) * 16, (1,) * 16, (1,) * 15 + (SIZE_LIMIT,)).max[-1] == SIZE_LIMIT
    for size, rank in ((SIZE_LIMIT + 1, 16), (1, 17)):
        with pytest.raises(GantkError, match="is no range of shapes"):
            ShapeRange((1,) * rank, (1,) * rank, (size,) * rank)
    with pytest.raises(GantkError, match="is no range of shapes"):
        ShapeRange((1,), (3,), (2,))


@pytest.mark.parametrize(
    ("low", "high", "suits"),
    [((1, 3), (9, 3), True), ((1, 2), (9, 3), False), ((1, 3), (9, 4), False), ((1,), (9,), False)],
)
def test_a_fixed_side_is_in_every_shape(low: tuple[int, ...], high: tuple[int, ...], suits: bool) -> None:
    assert ShapeRange(low, high, high).suits(TensorSpec("x", "float32", ("N", 3))) == suits


def test_two_engines_are_told_apart_and_may_share_a_probe() -> None:
    written = document(probe=FileRef.of("probe-01234567.safetensors", b"probe").to_json())
    twin = json.loads(json.dumps(written["engines"][0]))
    twin["file"]["path"] = "engines/twin.engine"
    written["engines"].append(twin)
    with pytest.raises(GantkError, match="two engines are called the same"):
        Manifest.from_json(written)
    twin["tf32"] = True
    manifest = Manifest.from_json(written)
    assert [engine.tf32 for engine in manifest.engines] == [False, True]
    assert [ref.path for ref in manifest.files].count("probe-01234567.safetensors") == 1
    twin["probe"]["sha256"] = "0" * 64
    with pytest.raises(GantkError, match=r"two entries name one file: .*probe-01234567.safetensors, probe-"):
        Manifest.from_json(written)


def test_label() -> None:
    engine = Manifest.from_json(document()).engines[0]
    assert engine.label == "tensorrt-rtx 1.7.1.116 fp16 (plain, refit) for sm_89 + sm_120"


def test_a_range_holds_what_lies_between() -> None:
    found = ShapeRange((1, 3, 16), (2, 3, 64), (4, 3, 128))
    assert found.holds((1, 3, 16))
    assert found.holds((4, 3, 128))
    assert not found.holds((5, 3, 16))
    assert not found.holds((1, 3, 15))
    assert not found.holds((1, 4, 16))
    assert not found.holds((1, 3))


def test_verified_is_what_every_verdict_says() -> None:
    engine = Manifest.from_json(document()).engines[0]
    assert engine.verified
    assert not replace(engine, parity=()).verified
    assert not replace(
        engine, parity=(*engine.parity, networks.parity("tensorrt-rtx", passed=False))
    ).verified
