# SPDX-License-Identifier: Apache-2.0
"""`gantk stylize --model`: what a user types, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import style_networks
from gantk.cli.applying import parse_memory
from gantk.errors import UsageError
from style_pictures import scene


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return style_networks.style_bundle(tmp_path / "many.gantk", 3).root


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(scene(40, 60)).save(tmp_path / "photo.jpg", quality=95)
    return tmp_path / "photo.jpg"


def pixels(path: str | Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_a_picture(gantk: Callable[..., object], many: Path, photo: Path) -> None:
    done = gantk("stylize", photo, "--model", many, "--style", "candy", "--json", "-")
    assert done.status == 0, done.err
    assert "wrote photo-stylized.jpg (60 x 40), with onnxruntime in fp32" in done.err
    facts = done.json
    assert facts["files"] == ["photo-stylized.jpg"]
    assert (facts["kind"], facts["size"], facts["style_weights"]) == ("picture", [60, 40], [0.0, 1.0, 0.0])
    assert facts["in_strips"] == []
    with Image.open("photo-stylized.jpg") as painted:
        assert painted.size == (60, 40)
        assert np.asarray(painted).std() > 10
    again = gantk("stylize", photo, "--model", many)
    assert again.status == 1
    assert "`photo-stylized.jpg` exists" in again.err
    assert "--force" in again.err
    assert gantk("stylize", photo, "--model", many, "--force").status == 0
    # Said before there is anything to lose, were it only the reading of the picture.
    lost = gantk("stylize", "nowhere.jpg", "--model", many, "-o", "photo-stylized.jpg/x.jpg")
    assert (lost.status, "cannot write" in lost.err) == (1, True)


def test_of_an_animation_the_first_picture_is_painted_with_a_word(
    gantk: Callable[..., object], many: Path, photo: Path
) -> None:
    with Image.open(photo) as first:
        first.save("moving.gif", save_all=True, append_images=[first.transpose(Image.Transpose.ROTATE_180)])
        first.save("moving.jpg", format="MPO", save_all=True, append_images=[first.resize((6, 4))])
    done = gantk("stylize", "moving.gif", "--model", many)
    assert (done.status, "`moving.gif` holds several pictures; the first was painted" in done.err) == (
        0,
        True,
    )
    assert "several" not in gantk("stylize", "moving.jpg", "--model", many).err  # A camera's, with a preview.


def test_in_strips_it_says_how_far_it_is(gantk: Callable[..., object], many: Path, photo: Path) -> None:
    done = gantk("stylize", photo, "--model", many, "-o", "a.png", "--tile-above", 0.001, "--json", "-")
    assert done.status == 0, done.err
    assert "60 x 40 pixels, painted in strips" in done.err
    assert done.json["in_strips"][0]["distance_db"] >= 60
    gantk("stylize", photo, "--model", many, "-o", "b.png", "--precision", "auto")
    parts, whole = (pixels(name) for name in ("a.png", "b.png"))
    assert np.abs(parts - whole).max() <= 1


def test_a_folder_and_several_files(gantk: Callable[..., object], many: Path, photo: Path) -> None:
    folder = photo.parent / "in"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(scene(30, 30, len(name))).save(folder / name)
    (folder / "c.png").write_bytes(b"junk")
    done = gantk("stylize", folder, "--model", many, "-o", "out", "--format", "webp", "--json", "-")
    assert done.status == 0, done.err
    assert done.json["files"] == ["out/a.webp", "out/sub/b.webp"]
    assert [Path(each["file"]).name for each in done.json["skipped"]] == ["c.png"]
    assert "1 could not be stylised" in done.err
    assert done.err.count("c.png") == 1
    assert (
        "2 were there already"
        in gantk("stylize", folder, "--model", many, "-o", "out", "--format", "webp").err
    )
    both = gantk("stylize", photo, folder / "a.png", folder / "c.png", "--model", many)
    assert both.status == 0, both.err
    assert sorted(path.name for path in Path("stylized").glob("[!.]*")) == ["a.png", "photo.jpg"]


def test_a_video(gantk: Callable[..., object], many: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from stylize_video_files import make

    make(tmp_path / "clip.mkv", 20)
    blend = ("--style-weights", "waves=1,mosaic=1", "--damp", 0.5)
    done = gantk("stylize", "clip.mkv", "--model", many, *blend, "--json", "-")
    assert done.status == 0, done.err
    assert "wrote clip-stylized.mkv: 20 frames and 1 sound track, with" in done.err
    assert (done.json["frames"], done.json["audio"], done.json["fault"]) == (20, 1, None)
    data = (tmp_path / "clip.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    cut = gantk("stylize", "cut.mkv", "--model", many, "-o", "cut.mp4")
    assert cut.status == 0
    assert "warning: `cut.mkv` is cut or damaged" in cut.err


def test_a_style_picture(gantk: Callable[..., object], photo: Path, tmp_path: Path) -> None:
    bundle = style_networks.adain_bundle(tmp_path / "any.gantk").root
    Image.new("RGB", (9, 9), (0, 0, 255)).save("blue.png")
    done = gantk("stylize", photo, "--model", bundle, "--style", "blue.png", "--alpha", 0.5, "-o", "half.png")
    assert done.status == 0, done.err
    half = pixels("half.png")
    content = pixels(photo)
    assert np.abs(half - (content + np.array([0, 0, 255])) / 2).max() <= 1
    missing = gantk("stylize", photo, "--model", bundle, "-o", "other.png")
    assert missing.status == 2
    assert "--style PIC" in missing.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--style", "7"), "its styles are 0 waves, 1 candy, 2 mosaic"),
        (("--style", "a", "--style", "b"), "one style at a time"),
        (("--style-weights", "candy=x"), "is not STYLE=SHARE"),
        (("--alpha", "0.5"), "takes no style picture"),
        (("--memory", "little"), "not a memory size"),
        (("--format", "bmp"), "known are png"),
        (("--size", "0"), "size of 0"),
        (("--steps", "9"), "--steps cannot go with --model"),
        (("-o", "x.gif"), "known are .png"),
        (("--backend", "cuda"), "known are onnxruntime"),
    ],
)
def test_wrong_options(
    gantk: Callable[..., object], many: Path, photo: Path, options: tuple[str, ...], said: str
) -> None:
    done = gantk("stylize", photo, "--model", many, *options)
    assert done.status == 2, done.err
    assert said in done.err
    assert [path.name for path in Path().iterdir()] in (
        ["many.gantk", "photo.jpg"],
        ["photo.jpg", "many.gantk"],
    )


def test_options_of_models_want_one(gantk: Callable[..., object], photo: Path) -> None:
    done = gantk("stylize", photo, "--style", photo, "--damp", "0.5")
    assert done.status == 2
    assert "--damp wants --model" in done.err
    assert gantk("stylize", photo, photo, "--style", photo).status == 2


def test_what_is_missing_or_damaged(gantk: Callable[..., object], many: Path, photo: Path) -> None:
    for arguments in ((photo, "--model", "none.gantk"), ("none.jpg", "--model", many)):
        done = gantk("stylize", *arguments, "--json", "error.json")
        assert done.status == 1
        assert "none" in json.loads(Path("error.json").read_text())["error"]
    (many / "model.fp32.onnx").write_bytes(b"junk")
    done = gantk("stylize", photo, "--model", many)
    assert done.status == 1
    assert "the manifest says" in done.err


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("512M", 2**29), ("1.5 gb", 3 * 2**29), ("67108864", 2**26), ("1t", 2**40)],
)
def test_memory_sizes(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1G", "10", "1 apple", "1e9", "63MiB"])
def test_no_memory_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="memory size"):
        parse_memory(text)
