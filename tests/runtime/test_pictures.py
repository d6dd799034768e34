# SPDX-License-Identifier: Apache-2.0
"""Pixels, grids, files and walks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from gantk.errors import GantkError, UsageError
from gantk.runtime.pictures import grid, load, save, save_animation, slerp, to_pixels, walk
from gantk.tensors import TensorSpec

RNG = np.random.default_rng(0)


def test_values_become_pixels() -> None:
    values = np.array([-1, 1, 0, -2, 3, 2 / 255 - 1], np.float32).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(to_pixels(values).ravel(), [0, 255, 128, 0, 255, 1])
    halves = np.array([0.5, 1.5, 2.5, 254.5], np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(to_pixels(halves, (0.0, 255.0)).ravel(), [0, 2, 2, 254])


@given(st.integers(0, 255), st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-3.0, 7.0)]))
def test_every_pixel_value_survives(value: int, limits: tuple[float, float]) -> None:
    low, high = limits
    tensor = np.full((1, 3, 2, 2), low + value / 255 * (high - low), np.float32)
    assert (to_pixels(tensor, limits) == value).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_layouts(layout: str, channels: int) -> None:
    pixels = RNG.integers(0, 256, (2, 5, 7, channels), np.uint8)
    given_ = pixels if layout == "NHWC" else pixels.transpose(0, 3, 1, 2)
    shape = ("N", 5, 7, channels) if layout == "NHWC" else ("N", channels, 5, 7)
    spec = TensorSpec("picture", "uint8", shape, (0.0, 255.0), layout)
    np.testing.assert_array_equal(to_pixels(given_, spec), pixels)
    np.testing.assert_array_equal(to_pixels(given_), pixels)  # By the number of channels.
    np.testing.assert_array_equal(to_pixels(given_.astype(np.float32), (0.0, 255.0)), pixels)
    np.testing.assert_array_equal(to_pixels(given_[0], spec), pixels[:1])


def test_half_precision_is_scaled_in_single() -> None:
    values = np.linspace(-1, 1, 256, dtype=np.float16).reshape(1, 1, 16, 16)
    wanted = np.rint((values.astype(np.float64) + 1) * 127.5)
    np.testing.assert_array_equal(to_pixels(values)[0, :, :, 0], wanted[0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_black_pictures_are_refused(bad: float) -> None:
    values = np.zeros((1, 3, 4, 4), np.float32)
    values[0, 1, 2, 3] = bad
    with pytest.raises(GantkError, match="NaN or infinite"):
        to_pixels(values)


@pytest.mark.parametrize("shape", [(4,), (4, 4), (1, 2, 4, 5), (1, 5, 4, 2), (1, 1, 1, 1, 1)])
def test_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(GantkError):
        to_pixels(np.zeros(shape, np.float32))


def test_a_grid_has_every_picture_once() -> None:
    pictures = np.arange(1, 8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 5, 1), np.uint8)
    sheet = grid(pictures, padding=1)
    assert sheet.shape == (3 * 4 + 1, 3 * 6 + 1, 1)
    for index in range(9):
        row, column = divmod(index, 3)
        cell = sheet[1 + row * 4 : 4 + row * 4, 1 + column * 6 : 6 + column * 6]
        assert (cell == (index + 1 if index < 7 else 0)).all()
    borders = sheet.copy()
    borders.reshape(-1)[:] = sheet.reshape(-1)
    assert not sheet[::4].any()
    assert not sheet[:, ::6].any()


@pytest.mark.parametrize(
    ("count", "columns", "shape"), [(1, None, (3, 3)), (64, None, (8, 8)), (5, 2, (3, 2)), (2, 9, (1, 2))]
)
def test_grid_shapes(count: int, columns: int | None, shape: tuple[int, int]) -> None:
    sheet = grid(np.ones((count, 3, 3, 3), np.uint8), columns, padding=0)
    assert sheet.shape[:2] == ((shape[0] * 3, shape[1] * 3) if count > 1 else (3, 3))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".PNG"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_saved_pictures_are_read_again(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = RNG.integers(0, 256, (6, 5, channels), np.uint8)
    if channels == 4:
        pixels[..., 3] = 255  # WebP keeps no colour under full transparency.
    save(tmp_path / f"p{suffix}", pixels)
    with Image.open(tmp_path / f"p{suffix}") as opened:
        again = np.asarray(opened.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])).reshape(pixels.shape)
    np.testing.assert_array_equal(again, pixels)


def test_jpeg_is_close(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 32).astype(np.uint8)[None, :, None], (32, 1, 3))
    save(tmp_path / "p.jpg", ramp)
    assert np.abs(load(tmp_path / "p.jpg")[0].astype(int) - ramp).max() < 12


@pytest.mark.parametrize("suffix", [".bmp", "", ".gif"])
def test_unknown_suffixes(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UsageError, match=r"known are \.png"):
        save(tmp_path / f"p{suffix}", np.zeros((2, 2, 3), np.uint8))


def test_a_failed_save_leaves_the_old_picture(tmp_path: Path) -> None:
    save(tmp_path / "p.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(Exception):  # noqa: B017
        save(tmp_path / "p.png", np.zeros((0, 2, 3), np.uint8))
    assert not load(tmp_path / "p.png").any()
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize(
    ("suffix", "fps", "milliseconds"), [(".gif", 20, 50), (".gif", 50, 20), (".webp", 30, 33)]
)
def test_animations(tmp_path: Path, suffix: str, fps: float, milliseconds: int) -> None:
    frames = [np.full((8, 8, 3), 20 * index, np.uint8) for index in range(6)]
    save_animation(tmp_path / f"a{suffix}", frames, fps)
    with Image.open(tmp_path / f"a{suffix}") as opened:
        assert opened.n_frames == 6
        assert opened.info["loop"] == 0
        for frame, wanted in zip(ImageSequence.Iterator(opened), frames, strict=True):
            frame.load()
            assert frame.info["duration"] == milliseconds
            assert np.abs(np.asarray(frame.convert("RGB")).astype(int) - wanted).max() <= 8


def test_a_rate_that_gif_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="up to 50"):
        save_animation(tmp_path / "a.gif", [np.zeros((2, 2, 3), np.uint8)], 60)


@pytest.mark.parametrize("fault", ["missing", "text", "cut", "bomb"])
def test_pictures_that_cannot_be_read(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.png"
    save(path, RNG.integers(0, 256, (64, 64, 3), np.uint8))
    if fault == "missing":
        path.unlink()
    elif fault == "text":
        path.write_text("not a picture")
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-4000])
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(GantkError, match=r"p\.png"):
        load(path)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    save(tmp_path / "p.png", np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8))
    np.testing.assert_array_equal(load(tmp_path / "p.png"), [[[[10, 20, 30], [255, 255, 255]]]])


@given(st.integers(2, 200), st.floats(0, 1), st.integers(0, 1000))
@settings(max_examples=50)
def test_slerp_stays_on_the_sphere(size: int, share: float, seed: int) -> None:
    start, end = np.random.default_rng(seed).standard_normal((2, size))
    start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
    between = slerp(start, end, share)
    if abs(start @ end) < 0.999:
        assert np.linalg.norm(between) == pytest.approx(1, abs=1e-6)
        angle = np.arccos(np.clip(start @ end, -1, 1))  # Even steps of the angle.
        assert np.arccos(np.clip(start @ between, -1, 1)) == pytest.approx(share * angle, abs=1e-6)
    np.testing.assert_allclose(slerp(start, end, 0.0), start, atol=1e-12)
    np.testing.assert_allclose(slerp(start, end, 1.0), end, atol=1e-12)


def test_slerp_of_parallel_latents_is_a_line() -> None:
    start = np.array([1.0, 2.0, 2.0])
    np.testing.assert_allclose(slerp(start, 2 * start, 0.25), 1.25 * start)
    assert np.isfinite(slerp(start, -start, 0.5)).all()
    assert np.isfinite(slerp(start, np.zeros(3), 0.5)).all()


def test_a_walk_is_closed_and_even() -> None:
    stops = RNG.standard_normal((4, 100)).astype(np.float32)
    path = walk(stops, 40)
    assert path.dtype == np.float32
    for index in range(4):
        np.testing.assert_allclose(path[10 * index], stops[index], atol=1e-6)
    steps = np.linalg.norm(path - np.roll(path, 1, axis=0), axis=1)
    assert steps.max() < 2.5 * steps.min()
    norms = np.linalg.norm(path, axis=1)
    assert norms.min() > 0.85 * np.linalg.norm(stops, axis=1).min()
