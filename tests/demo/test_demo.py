# SPDX-License-Identifier: Apache-2.0
"""The demo: its flowers, its folder, and the whole path on a small scale."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gantk.bundle import Bundle
from gantk.cli.main import main
from gantk.demo import pipeline
from gantk.demo.pictures import draw_flower, draw_pictures
from gantk.demo.reporter import DemoReporter
from gantk.errors import GantkError
from gantk.export import speed
from gantk.runtime.products import PRODUCTS
from gantk.train.config import TrainConfig


def test_flowers_are_drawn_the_same_for_one_seed_and_no_two_are_alike(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "a", 12, 32, seed=5)
    draw_pictures(tmp_path / "b", 12, 32, seed=5)
    draw_pictures(tmp_path / "c", 12, 32, seed=6)
    a, b, c = (
        [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).iterdir())] for name in "abc"
    )
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(a, c, strict=True))
    assert len({picture.tobytes() for picture in a}) == 12


def test_a_flower_is_a_blossom_on_a_meadow() -> None:
    pixels = np.asarray(draw_flower(32, random.Random(0))).astype(int)
    assert pixels.shape == (32, 32, 3)
    sky, meadow, blossom = pixels[1, 1], pixels[30, 1], pixels[8:20, 10:22].reshape(-1, 3).mean(axis=0)
    assert sky[2] > sky[0]
    assert meadow[1] > meadow[2]
    assert np.abs(blossom - sky).sum() > 100


def test_the_demo_replaces_nothing_but_a_demo(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(GantkError, match=r"holds `holiday\.jpg`"):
        pipeline.run_demo(tmp_path)
    with pytest.raises(GantkError, match="is a file"):
        pipeline.run_demo(tmp_path / "holiday.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("pictures_per_second", "steps"), [(10_000, 1300), (64 * 22, 1300), (64 * 8, 480), (1, 100)]
)
def test_a_slow_machine_trains_for_as_many_steps_as_its_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures_per_second: float, steps: int
) -> None:
    def trained(config: TrainConfig) -> SimpleNamespace:
        # As long as a step of the whole training takes.
        assert (config.steps, config.augment) == (pipeline.TRIAL_STEPS, "color,translation,cutout")
        assert tmp_path not in Path(config.out).parents
        return SimpleNamespace(samples_per_second=pictures_per_second)

    monkeypatch.setattr(pipeline, "train", trained)
    assert pipeline._affordable_steps(tmp_path) == steps


@pytest.mark.parametrize(("steps", "augment"), [(1300, "color,translation,cutout"), (1299, "none")])
def test_only_a_whole_training_is_augmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, augment: str
) -> None:
    trained: list[TrainConfig] = []

    def train(config: TrainConfig, **_: object) -> SimpleNamespace:
        trained.append(config)
        return SimpleNamespace(interrupted=False)

    monkeypatch.setattr(pipeline, "train", train)
    pipeline._train(tmp_path, steps, DemoReporter())
    assert [(config.steps, config.augment) for config in trained] == [(steps, augment)]


@pytest.mark.parametrize(
    ("steps", "affordable", "poor"), [(None, 1300, False), (None, 100, True), (100, 100, False)]
)
def test_who_is_to_see_noise_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int | None, affordable: int, poor: bool
) -> None:
    said: list[str] = []
    monkeypatch.setattr(DemoReporter, "begin", lambda *what: said.append(what[-1]))
    monkeypatch.setattr(pipeline, "_draw", lambda _: None)
    monkeypatch.setattr(pipeline, "_affordable_steps", lambda _: affordable)
    monkeypatch.setattr(pipeline, "_train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipeline.run_demo(tmp_path, steps=steps)
    assert f"for {affordable} steps" in said[-1]
    assert ("--steps 1300" in said[-1]) == poor


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same path with fewer pictures, one precision less and hardly any measuring."""
    for name, value in {
        "PICTURES": 128,
        "WIDTH": 8,
        "PRECISIONS": ("fp32", "fp16"),
        "BENCHED": ("fp32",),
        "BATCHES": (1,),
        "BUDGET_S": 0.3,
        "MODES": ("eager",),
    }.items():
        monkeypatch.setattr(pipeline, name, value)
    monkeypatch.setattr(speed, "BLOCK_S", 0.001)


def test_the_demo_does_without_a_product_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantk.runtime.products.installed", lambda *_: {})
    assert pipeline._engines() is None


@pytest.mark.usefixtures("small")
def test_the_whole_path_ends_in_a_page_that_stands_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--steps", "4", "--json", "-"]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert set(summary["seconds"]) == {"draw", "train", "export", "generate", "bench"}
    assert all(f"{number}/5" in said.err for number in range(1, 6))
    assert [row["status"] for row in summary["benchmark"]["rows"]].count("ok") >= 2
    manifest = Bundle.read(out / "flowers.gantk").manifest
    assert manifest.family == "dcgan"
    rtx = PRODUCTS["tensorrt-rtx"]
    engines = [(engine.backend, engine.precision) for engine in manifest.engines]
    assert engines == ([] if rtx.version is None else [("tensorrt-rtx", "fp16")])

    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert page.count("data:image/webp;base64,") == 1
    assert "<svg" in page
    assert "model.fp16.onnx" in page
    assert all(engine.file.path in page for engine in manifest.engines)
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert {path.name for path in out.iterdir()} == set(pipeline._PARTS)

    pipeline._check_free(out)  # Another demo may take its place.
