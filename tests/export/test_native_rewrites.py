# SPDX-License-Identifier: Apache-2.0
"""Rewrites that only gain with gantk's native operators are tried where these are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gantk
from gantk.bundle import WHOLLY_NATIVE, Bundle
from gantk.export import export, rewritten
from gantk.runtime.model import from_path
from gantk.runtime.operators import OPERATORS
from native_build import onnxruntime_library

pytestmark = pytest.mark.usefixtures("traced_once")

NATIVE = "transposed-to-native"


def has_native(data: bytes) -> bool:
    """Whether a file has the native node of `NATIVE`, and not that of channels last."""
    return b"TransposedConvolution4x4" in data and not is_whole(data)


def is_whole(data: bytes) -> bool:
    return b"NhwcTransposedConvolution4x4" in data


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that were asked for the gain of a file with native nodes; it is pretended to be large."""
    backends: list[str] = []

    def speedup(plain: bytes, other: bytes, backend: str, inputs: object) -> float:
        if not has_native(other):
            return 1.0
        backends.append(backend)
        return 1.5

    monkeypatch.setattr(rewritten, "speedup", speedup)
    return backends


def test_they_are_kept_where_the_operators_are(
    source: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPERATORS, str(onnxruntime_library()))
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32", "bf16"))
    native = bundle.find("fp32", "rewritten")
    assert native.rewrites == (NATIVE,)
    assert native.fastest_on == ("onnxruntime",)
    assert native.failed_on("onnxruntime", "cpu") is None
    assert set(asked) == {"onnxruntime"}
    # Nothing else runs bf16 there.
    half = [v for v in bundle.manifest.variants if v.precision == "bf16"]
    assert [(v.form, v.is_wholly_native) for v in half] == [("plain", False), ("rewritten", True)]
    assert_runs_alike(bundle, monkeypatch)


def test_beside_one_stands_the_same_without_operators(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPERATORS, str(onnxruntime_library()))
    monkeypatch.setattr(
        rewritten,
        "speedup",
        lambda plain, other, *_: (
            0.5 if is_whole(other) else 1.5 + (has_native(other) and not has_native(plain))
        ),
    )
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32",))
    plain, native, portable = (
        variant
        for variant in bundle.manifest.variants
        if "onnxruntime" in variant.fastest_on or not variant.rewrites
    )
    assert NATIVE in native.rewrites and native.is_native
    assert portable.rewrites == tuple(name for name in native.rewrites if name != NATIVE)
    assert portable.gains["onnxruntime"] == dict.fromkeys(portable.rewrites, 1.5)
    assert from_path(bundle.root, backend="onnxruntime").data == bundle.read_file(native.file)
    monkeypatch.setenv(OPERATORS, "")
    assert from_path(bundle.root, backend="onnxruntime").data == bundle.read_file(portable.file)
    assert from_path(bundle.root).data == bundle.read_file(plain.file)


def test_operators_alone_are_tried_against_what_is_fastest(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPERATORS, str(onnxruntime_library()))
    # Twice as fast as what is fastest otherwise, and four times as fast as the plain one.
    monkeypatch.setattr(
        rewritten,
        "speedup",
        lambda best, other, *_: (
            1.5 if not is_whole(other) else 2.0 if b"phases" in best or has_native(best) else 4.0
        ),
    )
    said: list[str] = []
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32",), report=said.append)
    native = next(v for v in bundle.manifest.variants if v.is_wholly_native)
    assert (native.rewrites, native.fastest_on) == ((WHOLLY_NATIVE,), ("onnxruntime",))
    assert native.gains == {"onnxruntime": {WHOLLY_NATIVE: 4.0}}
    (portable,) = (v for v in bundle.manifest.variants if "onnxruntime" in v.fastest_on and v is not native)
    assert portable.rewrites and not portable.is_native
    assert portable.gains["onnxruntime"] == dict.fromkeys(portable.rewrites, 1.5)
    *told, over_fastest, over_plain = (line for line in said if " on onnxruntime: " in line)
    assert told and all(line.endswith(" makes it 1.50 times as fast") for line in told)
    whole = f"  fp32 on onnxruntime: {WHOLLY_NATIVE} makes it"
    assert over_fastest == f"{whole} 2.00 times as fast as with {', '.join(portable.rewrites)}"
    assert over_plain == f"{whole} 4.00 times as fast"
    assert from_path(bundle.root, backend="onnxruntime").data == bundle.read_file(native.file)
    monkeypatch.setenv(OPERATORS, "")
    assert from_path(bundle.root, backend="onnxruntime").data == bundle.read_file(portable.file)


def assert_runs_alike(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the native kernels, few features and many, and by the bodies where the library is not."""
    for count in (1, 40):
        latent = np.random.default_rng(0).standard_normal((count, 16), np.float32)
        with gantk.open(bundle.root, "onnxruntime", form="plain") as runner:
            wanted = runner.run({"latent": latent})["picture"]
        with gantk.open(bundle.root, "onnxruntime") as runner:
            found = runner.run({"latent": latent})["picture"]
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv(OPERATORS, "")
            with gantk.open(bundle.root, "onnxruntime", form="rewritten") as runner:
                portable = runner.run({"latent": latent})["picture"]
        np.testing.assert_allclose(found, wanted, atol=2e-4)
        assert (found != wanted).any()  # It is the rewritten one, with other sums.
        np.testing.assert_array_equal(portable, wanted)


def test_they_are_not_tried_without_operators(
    source: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPERATORS, "")
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32",))
    assert [variant.form for variant in bundle.manifest.variants] == ["plain"]
    assert asked == []
