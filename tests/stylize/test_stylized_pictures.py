# SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind come in as the eye sees them, and go out with what belongs to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from gantk.errors import GantkError, UsageError
from gantk.stylize.network import Look, StyleNetwork
from gantk.stylize.painter import Painter
from gantk.stylize.pictures import Picture, keep_colors, read, reduce, write
from style_pictures import scene


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("mode", "color", "seen"),
    [
        ("L", 80, (80, 80, 80)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 80 * 257, (80, 80, 80)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
    ],
)
def test_every_mode_becomes_colours(tmp_path: Path, mode: str, color: object, seen: tuple[int, ...]) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture = read(save(path, Image.new(mode, (9, 7), color)))  # type: ignore[arg-type]
    assert picture.pixels.shape == (7, 9, 3)
    assert np.abs(picture.pixels.reshape(-1, 3).astype(int) - seen).max() <= 1
    assert (picture.alpha is not None) == (mode == "RGBA")


def test_transparency_goes_through_to_png_and_webp_and_not_to_jpeg(tmp_path: Path) -> None:
    picture = Image.fromarray(scene(20, 30)).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 10, 20))
    source = read(save(tmp_path / "a.png", picture))
    for suffix, mode in ((".png", "RGBA"), (".webp", "RGBA"), (".jpg", "RGB")):
        write(tmp_path / f"b{suffix}", source, 100)
        with Image.open(tmp_path / f"b{suffix}") as again:
            assert again.mode == mode
            if mode == "RGBA":
                assert (np.asarray(again)[:, :, 3] == np.asarray(picture)[:, :, 3]).all()


def test_exif_turns_the_picture_and_is_kept_without_the_turn(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 255, 255), (0, 0, 40, 10))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"  # A quarter clockwise: what is above comes to the right.
    source = read(save(tmp_path / "a.jpg", picture, exif=exif, quality=95))
    assert source.pixels.shape == (40, 20, 3)
    assert source.pixels[:, 12:].min() > 225
    write(tmp_path / "b.jpg", source)
    with Image.open(tmp_path / "b.jpg") as again:
        assert again.getexif().get(0x0112, 1) == 1
        assert again.getexif()[0x010F] == "Camera"


def test_the_colour_profile_goes_with_the_colours_it_is_of(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = read(save(tmp_path / "a.png", Image.new("RGB", (8, 8)), icc_profile=profile))
    write(tmp_path / "b.webp", kept)
    with Image.open(tmp_path / "b.webp") as again:
        assert again.info["icc_profile"] == profile
    grey = read(save(tmp_path / "g.png", Image.new("L", (8, 8)), icc_profile=profile))
    assert grey.icc is None


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 200))
def test_the_longest_side_is_what_was_asked_for(height: int, width: int, size: int) -> None:
    small = reduce(np.zeros((height, width, 3), np.uint8), size)
    assert max(small.shape[:2]) == min(size, max(height, width))
    shrunk = max(1.0, max(height, width) / size)
    assert abs(small.shape[0] - max(1.0, height / shrunk)) <= 0.5 + 1e-9


def test_a_reduced_photo_is_the_same_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(scene(400, 600)), quality=95)
    small = read(path, 150).pixels
    assert small.shape == (100, 150, 3)
    wanted = Image.fromarray(read(path).pixels).resize((150, 100), Image.Resampling.LANCZOS)
    assert np.abs(small.astype(int) - np.asarray(wanted)).mean() < 3


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(GantkError, match=r"a\.png` cannot be read as a picture"):
        read(path)
    with pytest.raises(GantkError, match="is a folder; a file is wanted"):
        read(tmp_path)
    with pytest.raises(GantkError, match="does not exist"):
        read(tmp_path / "b.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("1", (11_000, 11_000)))
    with pytest.raises(GantkError, match="121000000|11000 x 11000"):
        read(path)


def test_formats_have_their_limits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"known are \.png"):
        write(tmp_path / "a.gif", Picture(scene(8, 8)))
    long = Picture(np.zeros((1, 20_000, 3), np.uint8))
    with pytest.raises(GantkError, match="up to 16383") as caught:
        write(tmp_path / "a.webp", long)
    assert "a.png" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_quality_decides_over_bytes_and_100_is_lossless_webp(tmp_path: Path) -> None:
    picture = Picture(scene(64, 64))
    sizes = []
    for quality in (20, 95):
        write(tmp_path / "a.jpg", picture, quality)
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2
    write(tmp_path / "a.webp", picture, 100)
    assert (read(tmp_path / "a.webp").pixels == picture.pixels).all()


def test_colours_are_kept_and_brightness_is_not() -> None:
    content = np.full((1500, 4, 3), (200, 40, 40), np.uint8)
    painted = np.full((1500, 4, 3), 90, np.uint8)
    kept = keep_colors(painted, content)
    brightness = np.asarray(Image.fromarray(kept).convert("YCbCr"), int)
    wanted = np.asarray(Image.fromarray(content).convert("YCbCr"), int)
    assert np.abs(brightness[:, :, 0] - 90).max() <= 2
    assert np.abs(brightness[:, :, 1:] - wanted[:, :, 1:]).max() <= 3


def test_a_picture_keeps_what_belongs_to_it_when_painted(network: StyleNetwork) -> None:
    alpha = np.zeros((20, 30), np.uint8)
    picture = Picture(scene(20, 30), alpha, b"profile", b"exif")
    painted = Painter(network, Look()).paint(picture)
    assert (painted.pixels == network.paint(picture.pixels[None], Look())[0]).all()
    assert (painted.alpha is alpha, painted.icc, painted.exif) == (True, b"profile", b"exif")
    kept = Painter(network, Look(), colors=True).paint(picture)
    assert (kept.pixels == keep_colors(painted.pixels, picture.pixels)).all()


def test_large_pictures_go_in_strips_by_themselves(network: StyleNetwork) -> None:
    picture = Picture(scene(90, 120))
    whole, parts = Painter(network, Look()), Painter(network, Look(), strips_above=10_000)
    difference = np.abs(whole.paint(picture).pixels.astype(int) - parts.paint(picture).pixels)
    assert difference.max() <= 1
    assert whole.in_strips == []
    assert [(each.width, each.height, str(each)[:8]) for each in parts.in_strips] == [(120, 90, "120 x 90")]
    parts.paint(picture)
    first, second = (each.distance_db for each in parts.in_strips)
    assert first is not None
    assert first >= 60
    assert second is None
    assert Painter(network, Look(), memory_bytes=2**26).is_large(1000, 1000)
    assert not Painter(network, Look(), memory_bytes=2**31).is_large(1000, 1000)
