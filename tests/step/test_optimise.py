# SPDX-License-Identifier: Apache-2.0
"""The optimisation without torch against the one with it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import networks
from gantk.errors import GantkError, UsageError
from gantk.gatys.config import GatysConfig
from gantk.gatys.stylize import stylize
from gantk.stylize.descent import Lbfgs
from gantk.stylize.optimise import Listener, optimise
from gantk.stylize.resample import enlarge, noise
from gantk.stylize.schedule import Losses
from gantk.stylize.settings import Settings
from step_networks import CONTENT, LAYERS

CASES: list[dict[str, Any]] = [
    {"optimizer": "adam", "init": "noise", "scales": 1, "variation_weight": 0.5},
    {"optimizer": "adam", "scales": 2, "lr": 0.03, "beta1": 0.8, "adam_eps": 1e-4, "style_size": 28},
    {"optimizer": "lbfgs", "scales": 2, "init": "blend", "noise": 0.6, "seed": 7},
    {"optimizer": "adam", "scales": 1, "measure": "sums", "style_weight": 1e4, "content_weight": 2.0},
]


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["optimizer"])
def test_it_paints_what_torch_paints(
    bundle: Path, vgg_file: Path, content: Path, style: Path, tmp_path: Path, case: dict[str, Any]
) -> None:
    case = {"size": 32, "steps": 6, **case}
    layers = {
        "content_layers": ((CONTENT, 1.0),),
        "style_layers": tuple((layer, 1.0) for layer in LAYERS),
        "vgg": str(vgg_file),
        "precision": "fp32",
    }
    config = GatysConfig(str(content), (str(style), str(content)), shares=(3, 1), threads=1, **layers, **case)
    wanted = stylize(config, tmp_path / "torch.png")
    settings = Settings(shares=(3, 1), **case)
    made = optimise(content, [style, content], bundle, tmp_path / "here.png", settings, threads=1)
    assert (made.steps, made.size) == (wanted.steps, wanted.size)
    off = np.abs(pixels(made.picture) - pixels(wanted.picture))
    assert off.max() <= 4  # Where a slope is next to 0 the rounding has a say in its sign.
    assert off.mean() < 0.1
    for name, value in dataclasses.asdict(made.losses).items():
        assert value == pytest.approx(getattr(wanted.losses, name), rel=2e-3, abs=1e-9)


def test_the_loss_falls_and_previews_appear(bundle: Path, content: Path, style: Path, tmp_path: Path) -> None:
    class Recorder(Listener):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int, int, float]] = []

        def step(self, done: int, total: int, longer: int, losses: Losses) -> None:
            self.seen.append((done, total, longer, losses.total))

        def ends(self) -> bool:
            return len(self.seen) == 14

    recorder, out = Recorder(), tmp_path / "out.png"
    settings = Settings(size=48, steps=10, scales=2, preview_every=12)
    result = optimise(content, [style], bundle, out, settings, listener=recorder, threads=1)
    assert [seen[:3] for seen in recorder.seen] == [(n, 20, 24 if n <= 10 else 48) for n in range(1, 15)]
    assert recorder.seen[9][3] < 0.7 * recorder.seen[0][3]
    assert (result.interrupted, result.steps, result.size) == (True, 14, (48, 36))
    assert pixels(tmp_path / "out.preview.png").shape == (36, 48, 3)


def test_noise_is_that_of_torch() -> None:
    for seed in (0, 1, 2**31 - 1):
        wanted = torch.rand((1, 3, 33, 7), generator=torch.Generator().manual_seed(seed))
        np.testing.assert_array_equal(noise((1, 3, 33, 7), seed), wanted.numpy())


@pytest.mark.parametrize("size", [(14, 21), (15, 20), (7, 10), (40, 11)])
def test_enlarging_is_that_of_torch(size: tuple[int, int]) -> None:
    picture = torch.rand(1, 3, 7, 10)
    wanted = F.interpolate(picture, size, mode="bicubic", align_corners=False).clamp(0, 1)
    np.testing.assert_allclose(enlarge(picture.numpy(), size), wanted.numpy(), rtol=0, atol=2e-6)


def test_lbfgs_is_that_of_torch() -> None:
    matrix = torch.diag(torch.tensor([1.0, 5.0, 30.0]))
    place = torch.tensor([3.0, -2.0, 1.0])
    reference = torch.optim.LBFGS(
        [place], 0.7, max_iter=1, history_size=12, tolerance_grad=0, tolerance_change=0
    )
    here, mine = place.numpy().copy(), Lbfgs(0.7)
    for _ in range(20):
        place.grad = matrix @ place
        reference.step(lambda: 0.0)
        here = here + mine.step((matrix.numpy() @ here).astype(np.float32))
        np.testing.assert_allclose(here, place.numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(here).max() < 1e-2


def test_it_needs_no_torch(bundle: Path, content: Path, style: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from gantk.cli.main import main; "
        f"sys.exit(main(['stylize', {str(content)!r}, '--style', {str(style)!r}, '--model', {str(bundle)!r}, "
        f"'--size', '24', '--steps', '2', '--preset', 'lesson-blend', '-o', {str(tmp_path / 'out.png')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "after 2 steps" in done.stderr
    assert pixels(tmp_path / "out.png").shape == (18, 24, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "1"])
def test_pictures_of_other_channels(bundle: Path, content: Path, tmp_path: Path, mode: str) -> None:
    grey = Image.open(content).convert(mode)
    path = tmp_path / f"style.{'tif' if mode == 'CMYK' else 'png'}"
    grey.save(path)
    result = optimise(
        content, [path], bundle, tmp_path / "out.png", Settings(size=16, steps=1, scales=1), threads=1
    )
    assert pixels(result.picture).shape == (12, 16, 3)


def test_bundles_that_hold_no_step(content: Path, style: Path, tmp_path: Path) -> None:
    networks.bundle(tmp_path / "x.gantk")
    with pytest.raises(GantkError, match="holds a dcgan network and no optimisation step") as caught:
        optimise(content, [style], tmp_path / "x.gantk", tmp_path / "out.png")
    assert caught.value.hint is not None
    assert "gantk export --gatys" in caught.value.hint
    assert not (tmp_path / "out.png").exists()


def test_pictures_that_are_too_narrow(bundle: Path, content: Path, style: Path, tmp_path: Path) -> None:
    Image.new("RGB", (400, 8)).save(tmp_path / "narrow.png")
    with pytest.raises(UsageError, match=r"narrow.png` would have 64 x 1 pixels; the step wants at least 4"):
        optimise(tmp_path / "narrow.png", [style], bundle, tmp_path / "out.png", Settings(size=64))
    with pytest.raises(UsageError, match="narrow.png` would have"):
        optimise(content, [tmp_path / "narrow.png"], bundle, tmp_path / "out.png", Settings(size=64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "grey"}, "content, noise, blend"),
        ({"optimizer": "sgd"}, "lbfgs, adam"),
        ({"size": 8}, "16 to 4096"),
        ({"steps": 0}, "steps is 0; 1 to"),
        ({"noise": 1.5}, "noise is 1.5; 0 to 1 is allowed"),
        ({"seed": -1}, "seed is -1; 0 to"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"shares": (0.0, 0.0)}, "not all 0"),
        ({"style_weight": float("nan")}, "style_weight is nan"),
        ({"content_weight": 0, "style_weight": 0}, "nothing to paint"),
    ],
)
def test_settings_that_are_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(**options)


def test_what_is_there_is_not_replaced(bundle: Path, content: Path, style: Path, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_text("mine")
    with pytest.raises(GantkError, match="exists"):
        optimise(content, [style], bundle, tmp_path / "out.png")
    with pytest.raises(UsageError, match=r"\.txt"):
        optimise(content, [style], bundle, tmp_path / "out.txt")
    assert (tmp_path / "out.png").read_text() == "mine"
