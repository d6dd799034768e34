# SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind become what the eye sees, or are refused in words."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gantk.data.decode import decode, decode_grey, decode_whole
from gantk.runtime.decode import UnreadableError


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def test_colours_and_channels_first(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (50, 40), (200, 100, 50)))
    pixels = decode(path, 16, 3)
    assert pixels.shape == (3, 16, 16)
    assert [int(plane.min()) for plane in pixels] == [int(plane.max()) for plane in pixels] == [200, 100, 50]


def test_the_middle_square_is_taken(tmp_path: Path) -> None:
    picture = np.zeros((40, 120), np.uint8)
    picture[:, 40:80] = 255
    for turned in (picture, picture.T):
        path = save(tmp_path / "a.png", Image.fromarray(turned))
        assert decode(path, 20, 1).min() > 235  # The filter reaches a little beyond the square.


def test_a_reduction_averages_instead_of_picking(tmp_path: Path) -> None:
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = decode(save(tmp_path / "a.png", Image.fromarray(board)), 16, 1)
    assert np.abs(pixels.astype(int) - 127).max() <= 2


def test_exif_orientation_is_heeded(tmp_path: Path) -> None:
    picture = Image.new("L", (32, 32))
    picture.paste(255, (0, 0, 32, 16))  # White above.
    exif = Image.Exif()
    exif[0x0112] = 3  # Upside down.
    pixels = decode(save(tmp_path / "a.jpg", picture, exif=exif, quality=95), 32, 1)[0]
    assert pixels[:12].max() < 30
    assert pixels[20:].min() > 225


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        picture = Image.new("P", (8, 8), 0)
        picture.putpalette([255, 0, 0])
        path = save(tmp_path / "a.png", picture, transparency=0)
    else:
        path = save(tmp_path / "a.png", Image.new(mode, (8, 8), (40,) * (len(mode) - 1) + (0,)))
    assert decode(path, 8, 3).min() == 255


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.webp", Image.new("RGBA", (8, 8), (0, 0, 0, 128)), lossless=True)
    assert np.abs(decode(path, 8, 3).astype(int) - 127).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = decode(save(tmp_path / "a.png", Image.fromarray(values)), 64, 1)[0]
    np.testing.assert_allclose(pixels, values / 257, atol=1)


def test_what_white_is_in_floating_point_is_not_guessed(tmp_path: Path) -> None:
    """Values from 0 to 1 would become a black picture without a word."""
    path = save(tmp_path / "a.tif", Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)))
    with pytest.raises(UnreadableError, match="floating-point numbers"):
        decode(path, 8, 3)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    red, green, blue = decode(path, 8, 3).reshape(3, -1).mean(1)
    assert red > 200
    assert green < 60
    assert blue < 60


def test_the_first_picture_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), grey) for grey in (50, 200)]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert np.abs(decode(path, 8, 1).astype(int) - 50).max() <= 1


def test_idx_pictures_are_resized_alike() -> None:
    pixels = decode_grey(np.full((28, 28), 77, np.uint8), 32, 3)
    assert pixels.shape == (3, 32, 32)
    assert (pixels == 77).all()


def test_a_cut_png_is_unreadable(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = save(tmp_path / "a.png", Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UnreadableError, match="truncated"):
        decode(path, 8, 1)


def bomb(side: int) -> bytes:
    """A PNG of some hundred bytes that declares `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_decompression_bomb_is_not_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(bomb(side))
    with pytest.raises(UnreadableError, match="100000000"):
        decode(path, 8, 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF", b"BM", b"P5"]),
)
def test_any_other_bytes_are_unreadable(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.png"
    path.write_bytes(magic + data)
    try:
        pixels = decode(path, 8, 3)
    except UnreadableError as error:
        assert str(error)
    else:  # By chance a picture, e.g. a PGM of one pixel.
        assert pixels.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((60, 40), (20, 30)),
        ((40, 60), (30, 20)),
        ((1, 1), (20, 20)),
        ((1, 5000), (80, 20)),
        ((300, 3), (20, 80)),
    ],
)
def test_a_whole_picture_keeps_its_shape(
    size: tuple[int, int], expected: tuple[int, int], tmp_path: Path
) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", size, (9, 120, 200)))
    pixels = decode_whole(path, 20)
    assert pixels.shape == (3, *expected)
    assert pixels.reshape(3, -1).T.tolist() == [[9, 120, 200]] * (expected[0] * expected[1])


def test_a_whole_picture_loses_nothing(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 90).astype(np.uint8)[None, :].repeat(30, 0)
    pixels = decode_whole(save(tmp_path / "a.png", Image.fromarray(ramp)), 30)
    np.testing.assert_array_equal(pixels, ramp[None].repeat(3, 0))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "1", "P"])
def test_a_whole_picture_of_any_mode_is_colour(mode: str, tmp_path: Path) -> None:
    picture = Image.new(mode, (12, 8))
    path = save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), picture)
    assert decode_whole(path, 8).shape == (3, 8, 12)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UnreadableError):
        decode_whole(path, 8)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_would_block_or_never_end_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UnreadableError, match="is not a regular file"):
        decode(path, 8, 3)


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    file = save(tmp_path / "file.png", Image.new("L", (8, 8), 90))
    (tmp_path / "link.png").symlink_to(file)
    assert decode(tmp_path / "link.png", 8, 1).min() == 90
