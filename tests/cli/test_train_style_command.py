# SPDX-License-Identifier: Apache-2.0
"""`gantk train style` and `gantk train adain`: what goes wrong is said, and nothing is left lying about."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from style_helpers import write_photos, write_style, write_vgg

from gantk import checkpoint
from gantk.cli.main import main

pytestmark = pytest.mark.usefixtures("blank_curves")

QUICK = "--data photos --vgg vgg.safetensors --size 64 --batch 2 --steps 1 --threads 1 --precision fp32"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos", 2)
    write_style(tmp_path / "paintings" / "flag.png", ((220, 30, 30), (20, 40, 220)), 8)
    write_vgg(tmp_path / "vgg.safetensors")
    (tmp_path / "text.jpg").write_text("hello")
    whole = (tmp_path / "photos" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    weights = load_file(tmp_path / "vgg.safetensors")
    weights["features.2.bias"][5] = torch.nan
    save_file(weights, tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "vgg.safetensors").read_bytes()[:9000])
    return tmp_path


def test_runs_of_both_kinds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chdir(folder):
        odd = Image.fromarray(np.full((70, 1, 4), 99, np.uint8))  # One pixel wide, and transparent.
        odd.save("odd.png")
        style = "train style --style paintings/flag.png --style odd.png --width 2 --blocks 1"
        assert main([*style.split(), *QUICK.split(), "--json", "-"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["run"], result["step"]) == ("runs/flag+odd", 1)
        assert checkpoint.load_generator("runs/flag+odd").config["styles"] == ["flag", "odd"]
        assert main(["train", "style", "--resume", "--out", "runs/flag+odd", "--epochs", "2"]) == 0
        assert "trained to step 2 " in capsys.readouterr().err  # An epoch has one.

        assert main(["train", "adain", "--styles", "paintings", *QUICK.split()]) == 0
        assert checkpoint.load_generator("runs/paintings").config == {"layer": "relu2_1"}
        assert "gantk export runs/paintings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("style", 2, "--style is missing: a picture to take style from"),
        ("style --style paintings/flag.png", 2, "--data is missing"),
        ("style --resume", 2, "--resume wants to know which run"),
        ("style --resume --force --out run", 2, "exclude each other"),
        (f"style --style nowhere.png {QUICK}", 1, "`nowhere.png` does not exist"),
        (f"style --style paintings {QUICK}", 1, "`paintings` is a folder; a file is wanted"),
        (f"style --style text.jpg {QUICK}", 1, "`text.jpg` cannot be read as a picture"),
        (f"style --style cut.png {QUICK}", 1, "`cut.png` cannot be read as a picture"),
        (f"style --style paintings/flag.png {QUICK} --data empty", 1, "`empty` is empty"),
        (f"style --style paintings/flag.png {QUICK} --data nowhere", 1, "`nowhere` does not exist"),
        (f"style --style paintings/flag.png {QUICK} --vgg nowhere.pth", 1, "cannot read `nowhere.pth`"),
        (f"style --style paintings/flag.png {QUICK} --vgg cut.safetensors", 1, "not a whole file of weights"),
        (f"style --style paintings/flag.png {QUICK} --vgg nan.safetensors", 1, "NaN or infinite"),
        (f"style --style paintings/flag.png {QUICK} --content-layer relu4_1", 1, "its last is relu2_2"),
        (f"style --style paintings/flag.png {QUICK} --style-layer conv1", 2, "VGG-19 has no layer 'conv1'"),
        (f"style --style paintings/flag.png {QUICK} --size 63", 2, "size is 63; 64 to 2048"),
        (f"style --style paintings/flag.png {QUICK} --precision fp8", 2, "auto, fp32, bf16, fp16"),
        ("adain --data photos", 2, "--styles is missing: a folder of pictures"),
        (f"adain --styles empty {QUICK}", 1, "`empty` is empty"),
        (f"adain --styles nowhere {QUICK}", 1, "`nowhere` does not exist"),
        (f"adain --styles paintings {QUICK} --layer relu3_1", 1, "lacks the layers relu3_1"),
        (f"adain --styles paintings {QUICK} --layer relu7_1", 2, "VGG-19 has no layer 'relu7_1'"),
        (f"adain --styles paintings {QUICK} --vgg nan.safetensors", 1, "NaN or infinite"),
    ],
)
def test_what_goes_wrong_is_said(
    arguments: str, status: int, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    before = sorted(folder.rglob("*"))
    with chdir(folder):
        assert main(["train", *arguments.split()]) == status
    assert words in capsys.readouterr().err.replace("\n", " ")
    assert [path for path in sorted(folder.rglob("*")) if path.name != "runs"] == before


def test_an_imported_run_is_not_trained_further(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chdir(folder):
        style = ["train", "style", "--style", "paintings/flag.png", "--width", "2", "--blocks", "1"]
        assert main([*style, *QUICK.split(), "--out", "run"]) == 0
        record = json.loads(Path("run/run.json").read_text())
        Path("run/run.json").write_text(json.dumps({**record, "kind": "import"}))
        assert main(["train", "style", "--resume", "--out", "run", "--steps", "5"]) == 1
    assert "was imported: it holds a network alone" in capsys.readouterr().err
