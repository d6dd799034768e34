# SPDX-License-Identifier: Apache-2.0
"""What the discriminator is shown is changed at random, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from listener import Listener
from numpy.typing import NDArray
from torch import Tensor

from gantk import checkpoint
from gantk.errors import UsageError
from gantk.train import augment as augmentation
from gantk.train import gan, run_folder
from gantk.train.augment import ALL, AUGMENTATIONS, augment, cut_out, parse, recolour, translate
from gantk.train.config import TrainConfig

Floats = NDArray[np.float64]


def draw(count: int, channels: int, size: int) -> Tensor:
    return torch.rand(count, channels, size, size, generator=seeded(1)) * 2 - 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coloured(picture: Floats, brightness: float, saturation: float, contrast: float) -> Floats:
    """The three changes of `rand_brightness`, `rand_color` and `rand_contrast`, one after the other."""
    brighter = picture + brightness
    grey = brighter.mean(axis=0, keepdims=True)
    saturated = (brighter - grey) * saturation + grey
    return np.asarray((saturated - saturated.mean()) * contrast + saturated.mean())


def moved(picture: Floats, down: int, right: int) -> Floats:
    result = np.zeros_like(picture)
    size = picture.shape[1]
    for row in range(size):
        for column in range(size):
            if 0 <= row - down < size and 0 <= column - right < size:
                result[:, row, column] = picture[:, row - down, column - right]
    return result


def holed(picture: Floats, row: int, column: int) -> Floats:
    result, hole = picture.copy(), picture.shape[1] // 2
    top, left = row - hole // 2, column - hole // 2
    result[:, max(top, 0) : max(top + hole, 0), max(left, 0) : max(left + hole, 0)] = 0
    return result


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_those_of_a_plain_reference(channels: int) -> None:
    pictures = draw(4, channels, 9)
    shares = torch.tensor([[-0.5, 0.4, 0.0, 0.1], [0.0, 2.0, 1.0, 0.3], [0.5, 1.5, 1.0, 0.7]])
    made = recolour(pictures, *shares).numpy()
    for picture, values, got in zip(pictures.double().numpy(), shares.T.tolist(), made, strict=True):
        np.testing.assert_allclose(got, coloured(picture, *values), atol=2e-6)
    np.testing.assert_allclose(made[2], pictures[2], atol=2e-7)


@pytest.mark.parametrize("size", [8, 13, 28, 64, 128])
def test_shifts_are_those_of_a_plain_reference(size: int) -> None:
    pictures, reach = draw(4, 3, size), size // 8
    shifts = [(reach, -reach), (0, 0), (-1, 1), (-reach, 0)]
    made = translate(pictures, torch.tensor(shifts).T).numpy()
    for picture, shift, got in zip(pictures.numpy(), shifts, made, strict=True):
        np.testing.assert_array_equal(got, moved(picture, *shift))


@pytest.mark.parametrize("size", [8, 14, 28, 30])
def test_holes_are_those_of_a_plain_reference(size: int) -> None:
    centres = [(0, size), (size // 2, size // 2), (size - 1, 1), (3, 5)]
    pictures = draw(4, 3, size)
    made = cut_out(pictures, torch.tensor(centres).T).numpy()
    for picture, centre, got in zip(pictures.numpy(), centres, made, strict=True):
        np.testing.assert_array_equal(got, holed(picture, *centre))


def test_colours_are_drawn_from_the_whole_ranges_of_the_paper() -> None:
    """Of a picture of two colours all three draws can be told."""
    pictures = torch.tensor([0.5, -0.1, -0.1]).view(1, 3, 1, 1).repeat(4000, 1, 2, 2)
    pictures[:, :, 1] = torch.tensor([-0.1, -0.1, 0.2]).view(3, 1)
    made = augment(pictures, ["color"], seeded(0))
    brightness = made.mean((1, 2, 3)) - pictures.mean((1, 2, 3))
    contrast = (made.mean(1)[:, 0, 0] - made.mean(1)[:, 1, 0]) / 0.1
    saturation = (made[:, 0, 0, 0] - made[:, 1, 0, 0]) / 0.6 / contrast
    for drawn, low, high in ((brightness, -0.5, 0.5), (saturation, 0.0, 2.0), (contrast, 0.5, 1.5)):
        assert drawn.min() == pytest.approx(low, abs=0.005)
        assert drawn.max() == pytest.approx(high, abs=0.005)
        assert drawn.std() == pytest.approx((high - low) / 12**0.5, rel=0.03)
    assert abs(np.corrcoef(np.stack([brightness, saturation, contrast]))[np.triu_indices(3, 1)]).max() < 0.05


@pytest.mark.parametrize(("size", "reach"), [(28, 3), (32, 4), (64, 8)])
def test_shifts_reach_an_eighth_of_the_size(size: int, reach: int) -> None:
    pictures = torch.zeros(2000, 1, size, size)
    pictures[:, :, size // 2, size // 2] = 1
    places = augment(pictures, ["translation"], seeded(0)).nonzero()[:, 2:] - size // 2
    assert len(places) == 2000
    for axis in places.T:
        values, counts = axis.unique(return_counts=True)
        assert values.tolist() == list(range(-reach, reach + 1))
        assert counts.min() > 0.6 * 2000 / (2 * reach + 1)
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.1


@pytest.mark.parametrize("size", [28, 30])
def test_holes_are_anywhere_and_of_half_the_size(size: int) -> None:
    made = augment(torch.ones(4000, 1, size, size), ["cutout"], seeded(0))[:, 0] == 0
    rows, columns = made.any(2), made.any(1)
    assert torch.equal(made, rows[:, :, None] & columns[:, None])
    assert rows.sum(1).max() == columns.sum(1).max() == size // 2
    # As often above as below, on the left as on the right; the middle twice as often as the border.
    for covered in (rows.float().mean(0), columns.float().mean(0)):
        assert torch.allclose(covered, covered.flip(0), atol=0.04)
        assert covered[size // 2] == pytest.approx(0.5, abs=0.05)
        assert covered[0] == pytest.approx(0.27, abs=0.04)


@pytest.mark.parametrize("names", [*((name,) for name in AUGMENTATIONS), AUGMENTATIONS])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_those_of_what_was_done(names: tuple[str, ...], channels: int) -> None:
    """All changes are affine, so that the gradient along any direction is known from two pictures."""
    pictures, weights = draw(6, channels, 16).requires_grad_(), torch.randn(6, channels, 16, 16)
    direction = draw(6, channels, 16).roll(1, 0)
    made = augment(pictures, names, seeded(2))
    (gradient,) = torch.autograd.grad((made * weights).sum(), pictures)
    along = augment(pictures.detach() + direction, names, seeded(2)) - made.detach()
    found, expected = (values.sum((1, 2, 3)) for values in (gradient * direction, along * weights))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)
    assert gradient.flatten(1).any(1).all()


def test_pictures_differ_by_their_own_draws_and_stay_as_they_are() -> None:
    pictures = draw(1, 3, 32).repeat(8, 1, 1, 1)
    before = pictures.clone()
    for name in AUGMENTATIONS:
        made = augment(pictures, [name], seeded(0))
        assert torch.equal(made, augment(pictures, [name], seeded(0)))
        assert len({picture.numpy().tobytes() for picture in made}) >= 7
    assert torch.equal(pictures, before)


def test_without_a_name_nothing_is_drawn() -> None:
    """So that a run without augmentation is what it was before there was any."""
    pictures, draws = draw(2, 3, 8), seeded(0)
    before = draws.get_state()
    assert augment(pictures, (), draws) is pictures
    assert torch.equal(draws.get_state(), before)


def test_names_are_those_of_the_paper() -> None:
    assert parse("none") == ()
    assert ALL == "color,translation,cutout"
    assert parse(ALL) == AUGMENTATIONS
    assert parse("cutout, color") == ("cutout", "color")


@pytest.mark.parametrize("text", ["", "colour", "color,none", "color,color", "color,", "all"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="allowed are auto, none and a list of color, translation, cutout"):
        TrainConfig(data="a", out="b", augment=text)


def config(pictures: Path, run: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        data=str(pictures), out=str(run), size=28, width=2, batch=8, steps=3,
        threads=1, precision="fp32", sample_every=100, augment=ALL,
    )  # fmt: skip
    return replace(base, **changes)


def train(config: TrainConfig) -> checkpoint.Checkpoint:
    gan.train(config)
    return checkpoint.read_newest(Path(config.out))[0]


def test_one_seed_gives_one_result_and_each_augmentation_another(pictures: Path, tmp_path: Path) -> None:
    weights = [
        train(config(pictures, tmp_path / str(number), augment=text)).tensors["generator.enlarge.0.weight"]
        for number, text in enumerate((ALL, ALL, *AUGMENTATIONS, "none"))
    ]
    assert torch.equal(weights[0], weights[1])
    assert len({tensor.numpy().tobytes() for tensor in weights}) == 5


@pytest.mark.parametrize(
    "changes", [{}, {"network": "mlp"}, {"channels": 3, "size": 32}, {"precision": "bf16"}]
)
def test_both_players_see_nothing_else(
    changes: dict[str, Any], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where augmentation wipes all out, real pictures and samples look alike, and no gradient reaches the generator."""
    shown: list[Tensor] = []

    def wipe(pictures: Tensor, names: tuple[str, ...], draws: torch.Generator) -> Tensor:
        assert names == AUGMENTATIONS
        shown.append(pictures)
        return augment(pictures, names, draws) * 0

    monkeypatch.setattr(gan, "augment", wipe)
    one = train(config(pictures, tmp_path / "one", steps=1, **changes))
    assert [(tensor.requires_grad, tensor.dtype) for tensor in shown] == [
        (False, torch.float32), (False, torch.float32), (True, torch.float32),
    ]  # fmt: skip
    assert torch.equal(shown[1], shown[2])
    assert not torch.equal(shown[0], shown[1])
    three = train(config(pictures, tmp_path / "three", **changes))
    learned = [name for name in one.part("generator") if name.endswith("weight")]
    assert all(torch.equal(one.part("generator")[name], three.part("generator")[name]) for name in learned)
    monkeypatch.undo()
    free = train(config(pictures, tmp_path / "free", **changes))
    assert not any(torch.equal(one.part("generator")[name], free.part("generator")[name]) for name in learned)


def test_measures_and_grids_are_of_pictures_as_they_are(pictures: Path, tmp_path: Path) -> None:
    """Of networks that do not learn they are the same with augmentation as without."""
    snapshots = []
    for text in ("none", ALL):
        run = tmp_path / text
        train(config(pictures, run, augment=text, lr_g=0.0, lr_d=0.0))
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        (snapshot,) = (line for line in lines if line["event"] == "snapshot")
        del snapshot["d_accuracy"]
        snapshots.append((snapshot, (run / "samples" / "epoch-0001.png").read_bytes()))
    assert snapshots[0] == snapshots[1]


def test_a_run_says_how_its_pictures_were_augmented(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config(pictures, run, augment="color,cutout"))
    assert run_folder.read(run)["config"]["augment"] == "color,cutout"
    with pytest.raises(UsageError, match="has augment color,cutout and cannot go on with none"):
        gan.resume(run, {"augment": "none"})


def test_classes_are_learned_from_augmented_pictures(kinds: Path, tmp_path: Path) -> None:
    """Of brightness too, which augmentation changes by less than the classes differ in."""
    run = tmp_path / "run"
    changes = {"conditional": True, "steps": 300, "width": 4, "lr_g": 2e-3, "lr_d": 2e-3, "ema": 0.9}
    gan.train(config(kinds, run, **changes))
    generator = checkpoint.load_generator(run).module
    latents = torch.randn(64, 100, generator=seeded(0))
    black, white = (generator(latents, torch.full((64,), label)).mean().item() for label in (0, 1))
    assert white - black > 0.8


@pytest.mark.parametrize(
    ("asked", "few", "channels", "used"),
    [("auto", 40, 3, ALL), ("auto", 39, 3, "none"), ("auto", 40, 1, "none"), ("none", 40, 3, "none")],
)
def test_few_pictures_in_colour_are_augmented_by_default(
    asked: str,
    few: int,
    channels: int,
    used: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(augmentation, "FEW", few)
    run, listener = tmp_path / "run", Listener()
    gan.train(config(pictures, run, augment=asked, channels=channels), reporter=listener)
    assert run_folder.read(run)["config"]["augment"] == used
    said = [text for text in listener.said if "40 pictures are few" in text and "--augment none" in text]
    assert len(said) == (asked == "auto" and used == ALL)
    # What was chosen stays, whatever would be chosen now, and is not said again.
    monkeypatch.setattr(augmentation, "FEW", 79 - few)
    again = Listener()
    gan.resume(run, {"steps": 4}, reporter=again)
    assert run_folder.read(run)["config"]["augment"] == used
    assert again.said == ["goes on from step 3 (step-0000003.safetensors)"]


def test_a_run_from_before_goes_on_without(pictures: Path, tmp_path: Path) -> None:
    whole, before = tmp_path / "whole", tmp_path / "before"
    train(config(pictures, whole, augment="none", steps=5))
    train(config(pictures, before, augment="none"))
    record = run_folder.read(before)
    del record["config"]["augment"]
    (before / "run.json").write_text(json.dumps(record))
    gan.resume(before, {"steps": 5})
    first, second = (checkpoint.read_newest(run)[0].tensors for run in (whole, before))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert run_folder.read(before)["config"]["augment"] == "none"
