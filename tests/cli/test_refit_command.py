# SPDX-License-Identifier: Apache-2.0
"""`gantk refit`: what it prints, and how it fails where engines cannot be refitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundle_engines import make_engine
from gantk.bundle import Bundle, Writer
from gantk.runtime import driver

Gantk = Callable[..., Any]


@pytest.fixture
def refittable(bundle: Path) -> Path:
    read = Bundle.read(bundle)
    with Writer(bundle, force=True) as writer:
        engine = make_engine(read.manifest.variants[0], {"latent": (1, 4)})
        engine = replace(engine, file=writer.add(engine.file.path, b"engine"))
        writer.commit(replace(read.manifest, engines=(engine,)))
    return bundle


def test_it_passes_on_what_was_asked_for(
    gantk: Gantk, refittable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refit(*arguments: Any, report: Callable[[str], None], progress: object, **options: Any) -> Bundle:
        asked.extend((arguments, options))
        report("  refitted an engine")
        return Bundle.read(refittable)

    monkeypatch.setattr("gantk.export.engines.refit.refit", refit)
    done = gantk("refit", refittable, "runs/two", "-o", "two.gantk", "--psnr-min", "40", "--json", "-")
    assert done.status == 0, done.err
    assert asked == [(refittable, Path("runs/two"), Path("two.gantk")), {"force": False, "psnr_min": 40.0}]
    assert done.json["bundle"] == str(refittable)
    assert "refitted an engine" in done.err


def test_without_a_gpu_it_says_so(gantk: Gantk, refittable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantk.export.engines.refit.load", lambda product: None)
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(False, reason="no NVIDIA driver"))
    done = gantk("refit", refittable, "runs/two")
    assert done.status == 3
    assert "error: tensorrt-rtx cannot refit engines here: no NVIDIA driver" in done.err


def test_a_bundle_without_engines_has_nothing_to_refit(gantk: Gantk, bundle: Path) -> None:
    done = gantk("refit", bundle, "runs/two")
    assert done.status == 1
    assert f"`{bundle}` has no engine to refit" in done.err
    assert "--engine-options refit builds one" in done.err
