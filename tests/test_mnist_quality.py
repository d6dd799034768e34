# SPDX-License-Identifier: Apache-2.0
"""Three minutes of training on MNIST give digits that a classifier of real digits is sure of."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk import checkpoint, data
from gantk.train import gan
from gantk.train.config import TrainConfig

DATA = (
    Path(os.environ.get("GANTK_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))
    / "mnist"
)
SIZE = 32

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="MNIST is not here")]


def read_labels(name: str) -> Tensor:
    raw = gzip.decompress((DATA / name).read_bytes())
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=8).astype(np.int64))


def read_pictures(name: str) -> Tensor:
    pictures = data.load(data.find_source(DATA / name), SIZE, 1)
    return torch.from_numpy(pictures.array).float() / 127.5 - 1


def train_classifier() -> nn.Module:
    """A small convolutional network, trained on real digits for three epochs."""
    torch.manual_seed(0)
    classifier = nn.Sequential(
        nn.Conv2d(1, 24, 5, 2, 2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 48, 3, 2, 1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Conv2d(48, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 16, 10),
    )  # fmt: skip
    pictures, labels = read_pictures("train-images-idx3-ubyte.gz"), read_labels("train-labels-idx1-ubyte.gz")
    optimizer = torch.optim.Adam(classifier.parameters(), 3e-3)
    batches = [chosen for _ in range(3) for chosen in torch.randperm(len(pictures)).split(256)]
    for step, chosen in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / len(batches))
        optimizer.zero_grad()
        F.cross_entropy(classifier(pictures[chosen]), labels[chosen]).backward()
        optimizer.step()
    return classifier.eval().requires_grad_(False)


def judge(classifier: nn.Module, run: Path) -> tuple[float, Tensor]:
    """Of 256 samples: the share that the classifier takes for their own class and is at least 0.9 sure of, and how
    many of each digit these are."""
    generator = checkpoint.load_generator(run)
    draws = torch.Generator().manual_seed(1234)
    latents = torch.randn(256, generator.config["latent_size"], generator=draws)
    labels = torch.randint(10, (256,), generator=draws)
    sure, digits = classifier(generator.module(latents, labels)).softmax(1).max(1)
    good = (sure >= 0.9) & (digits == labels)
    return float(good.float().mean()), torch.bincount(digits[good], minlength=10)


def test_digits_within_three_minutes(tmp_path: Path) -> None:
    # Without classes too few samples are sure: what lies between two digits is none.
    config = TrainConfig(
        data=str(DATA), out=str(tmp_path / "run"), size=SIZE, width=32, conditional=True, steps=1000,
        lr_g=2e-3, lr_d=1e-3, label_smoothing=0.1, anneal=True, threads=2,
    )  # fmt: skip
    began_s = time.perf_counter()
    gan.train(config)
    elapsed_s = time.perf_counter() - began_s

    classifier = train_classifier()
    real = read_pictures("t10k-images-idx3-ubyte.gz")
    right = classifier(real).argmax(1) == read_labels("t10k-labels-idx1-ubyte.gz")
    assert right.float().mean() > 0.98
    share, digits = judge(classifier, tmp_path / "run")
    print(f"{elapsed_s:.0f} s; sure of {share:.0%}; digits {digits.tolist()}")
    assert share >= 0.8
    assert (digits > 0).all()
    assert elapsed_s < 180
