# SPDX-License-Identifier: Apache-2.0
"""A value that is not allowed is named with those that are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gantk.data import Source, find_source
from gantk.errors import UsageError
from gantk.train.config import TrainConfig, resolve

DIGITS = Source(Path("digits.gz"), 60_000, size=28)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 1}, "batch is 1; 2 to 65536"),
        ({"lr_g": float("nan")}, "lr_g is nan; 0 to 1"),
        ({"lr_d": -1.0}, "lr_d is -1.0; 0 to 1"),
        ({"label_smoothing": 0.6}, r"0 to 0\.5"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"steps": 0}, "steps is 0"),
        ({"precision": "fp8"}, "'fp8'; allowed are auto, fp32, bf16, fp16"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
        ({"network": "vae"}, "dcgan, mlp"),
        ({"size": 48}, "28, 32, 64, 128"),
        ({"channels": 4}, "1, 3"),
        ({"width": 0}, "1 to 512"),
    ],
)
def test_what_is_not_allowed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TrainConfig(data="a", out="b", **changes)


def test_a_configuration_survives_json() -> None:
    config = TrainConfig(data="a", out="b", steps=7, flip=True)
    assert TrainConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("asked", "per_epoch", "steps"),
    [
        ({}, 1000, 25_000),
        ({}, 7, 2002),  # 286 epochs: 25 of so few pictures would show nothing yet.
        ({"epochs": 3}, 7, 21),
        ({"epochs": 3, "steps": 5}, 7, 5),
    ],
)
def test_how_long_it_trains(asked: dict[str, int], per_epoch: int, steps: int) -> None:
    assert TrainConfig(data="a", out="b", **asked).total_steps(per_epoch) == steps  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("per_epoch", "total", "steps"), [(4, 2000, 52), (63, 2016, 63), (30, 1500, 60), (4, 40_000, 200)]
)
def test_how_often_it_is_shown(per_epoch: int, total: int, steps: int) -> None:
    assert TrainConfig(data="a", out="b").show_every(per_epoch, total) == steps
    assert TrainConfig(data="a", out="b", sample_every=1).show_every(per_epoch, total) == per_epoch


def test_defaults_follow_the_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    config = TrainConfig(data="a", out="b", device="cpu")
    digits, colour = resolve(config, DIGITS), resolve(config, find_source(tmp_path))
    assert (digits.size, digits.channels) == (28, 1)
    assert (colour.size, colour.channels) == (64, 3)
    assert (digits.augment, colour.augment) == ("none", "color,translation,cutout")
    assert digits.threads is not None
    assert resolve(TrainConfig(data="a", out="b", size=32, channels=3), DIGITS).size == 32


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "precision"),
    [(True, True, "bf16"), (False, True, "bf16"), (True, False, "bf16"), (False, False, "fp32")],
)
def test_auto_precision_is_the_faster_one(
    amx: bool, avx512_bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    assert resolve(TrainConfig(data="a", out="b", device="cpu"), DIGITS).precision == precision


def test_fp16_wants_cuda() -> None:
    with pytest.raises(UsageError, match="fp16 training wants a CUDA device"):
        resolve(TrainConfig(data="a", out="b", device="cpu", precision="fp16"), DIGITS)
