# SPDX-License-Identifier: Apache-2.0
"""The benchmark of augmentation: its measures say what they claim to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from gantk.models.vgg import Vgg19

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import augmentation

    yield augmentation
    sys.modules.pop("augmentation")


def test_the_distance_is_that_of_a_plain_reference(benchmark: ModuleType) -> None:
    x, y = (torch.rand(n, 5, generator=torch.Generator().manual_seed(n)).double() + n / 20 for n in (7, 9))
    a, b = (values.numpy() / np.sqrt(np.square(x.numpy()).mean()) for values in (x, y))

    def mean(p: np.ndarray, q: np.ndarray) -> float:
        return float(
            np.mean(
                [
                    (u @ v / 5 + 1) ** 3
                    for i, u in enumerate(p)
                    for j, v in enumerate(q)
                    if p is not q or i != j
                ]
            )
        )

    assert benchmark.distance(x, y) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)))


def test_the_distance_is_none_between_halves_of_one_set(benchmark: ModuleType) -> None:
    values = torch.randn(800, 16, generator=torch.Generator().manual_seed(0)).double().abs()
    halves = benchmark.distance(values[:400], values[400:])
    assert abs(halves) < 0.02 * benchmark.distance(values[:400], values[400:] + 0.5)


def test_pairs_of_trainings_are_judged_and_not_repeated(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for index in range(140):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(tmp_path / "data" / f"{index:03d}.png")
    monkeypatch.setattr(benchmark, "SAMPLES", 64)
    monkeypatch.setattr(benchmark, "load_vgg19", lambda path, last: Vgg19(last).requires_grad_(False))
    command = (
        f"x {tmp_path / 'data'} --counts 70 --held-out 70 --seeds 4 --width 2 --steps 4 --threads 1 "
        f"--out {tmp_path / 'out'} --json {tmp_path / 'results.json'}"
    )
    monkeypatch.setattr(sys, "argv", command.split())
    torch.manual_seed(0)
    benchmark.main()
    document = json.loads((tmp_path / "results.json").read_text())
    assert [(row["pictures"], row["augment"], row["seed"]) for row in document["rows"]] == [
        (70, "none", 4), (70, "color,translation,cutout", 4),
    ]  # fmt: skip
    for row in document["rows"]:
        assert [judged["step"] for judged in row["judged"]] == [2, 4]
        # Both are judged by the same pictures, which networks that learned nothing yet are far from.
        assert row["distance_real"] == document["rows"][0]["distance_real"]
        assert all(judged["distance"] > 10 * abs(row["distance_real"]) for judged in row["judged"])
    learned = {int(path.resolve().stem) for path in (tmp_path / "out" / "pictures-70").iterdir()}
    assert learned == set(np.random.default_rng(0).permutation(140)[70:].tolist())
    capsys.readouterr()
    benchmark.main()
    assert capsys.readouterr().out == ""
