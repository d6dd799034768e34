# SPDX-License-Identifier: Apache-2.0
"""Which engines run on a GPU with a release of their product, and which of several is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import networks
from bundle_engines import make_engine
from gantk.bundle import FileRef
from gantk.runtime.engines import choose_engine, runs_on, version_fits


@pytest.mark.parametrize(
    ("options", "target", "version", "fits"),
    [
        ((), "sm_89", "1.7.1.116", (True, True)),
        ((), "sm_86", "1.7.1", (False, False)),
        (("hardware-compatible",), "sm_75", "1.7.1.117", (False, False)),
        (("hardware-compatible",), "sm_80", "1.7.1.116", (True, True)),
        (("hardware-compatible",), "sm_121", "2.7.1.116", (True, False)),
        (("version-compatible",), "sm_86", "1.8.0", (False, True)),
        (("version-compatible",), "sm_120", "2.7.1.116", (True, False)),
        (("version-compatible",), "sm_120", "17.1", (True, False)),
        (("version-compatible",), "sm_120", "1.7.0", (True, False)),
    ],
)
def test_what_an_engine_runs_on(
    tmp_path: Path, options: tuple[str, ...], target: str, version: str, fits: tuple[bool, bool]
) -> None:
    (variant,) = networks.bundle(tmp_path / "x.gantk").manifest.variants
    engine = make_engine(variant, {"latent": (1, 4)}, options=options)
    assert (runs_on(engine, target), version_fits(engine, version)) == fits


@pytest.mark.parametrize(
    ("built", "installed", "fits"),
    [
        ("11.1.0", "11.4.0", True),
        ("11.4.0", "11.1.0", False),
        ("10.9.0", "10.16.1", True),
        ("10.16.1", "11.4.0", True),
        ("11.4.0", "10.16.1", False),
        ("11.4.0", "12.0.0", False),
    ],
)
def test_version_compatible_engines_run_in_later_versions(
    tmp_path: Path, built: str, installed: str, *, fits: bool
) -> None:
    (variant,) = networks.bundle(tmp_path / "x.gantk").manifest.variants
    facts = {"backend": "tensorrt", "version": built, "options": ("version-compatible",)}
    assert version_fits(make_engine(variant, {"latent": (1, 4)}, **facts), installed) == fits


def test_an_engine_of_the_version_itself_comes_first(tmp_path: Path) -> None:
    bundle = networks.bundle(tmp_path / "x.gantk")
    (variant,) = bundle.manifest.variants
    engines = tuple(
        make_engine(
            variant,
            {"latent": (1, 4)},
            plugins=(),
            version=version,
            options=options,
            file=FileRef.of(f"engines/{version}.engine", b""),
        )
        for version, options in (("1.5.0", ("version-compatible",)), ("1.7.1", ()))
    )
    having = replace(bundle, manifest=replace(bundle.manifest, engines=engines))
    assert choose_engine(having, "tensorrt-rtx", "1.7.1", "sm_89", None, None).version == "1.7.1"
    assert choose_engine(having, "tensorrt-rtx", "1.8.0", "sm_89", None, None).version == "1.5.0"


def test_fp32_is_the_default_among_engines(tmp_path: Path) -> None:
    files = {(precision, "plain"): networks.generator(precision) for precision in ("fp16", "fp32")}
    bundle = networks.bundle(tmp_path / "x.gantk", files)
    engines = tuple(
        make_engine(
            variant,
            {"latent": (1, 4)},
            plugins=(),
            file=FileRef.of(f"engines/{variant.precision}.engine", b""),
        )
        for variant in bundle.manifest.variants
    )
    for held, taken in ((engines, "fp32"), (engines[:1], "fp16")):
        having = replace(bundle, manifest=replace(bundle.manifest, engines=held))
        assert choose_engine(having, "tensorrt-rtx", "1.7.1.116", "sm_89", None, None).precision == taken
