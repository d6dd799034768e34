# SPDX-License-Identifier: Apache-2.0
"""Video: every frame at its time, the sound as it was, less flicker where nothing moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantk.errors import GantkError, UsageError
from gantk.runtime.pictures import Pixels
from gantk.stylize.damping import DAMPING_LIMIT, Damper
from gantk.stylize.network import Look
from gantk.stylize.painter import Painter
from gantk.stylize.pictures import reduce
from gantk.stylize.video import stylize_video
from style_pictures import scene
from stylize_video_files import make, picture

av = pytest.importorskip("av")


def frames_of(path: Path) -> tuple[list[Pixels], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames]


def brightness(frame: Pixels) -> np.ndarray[Any, Any]:
    return frame @ np.array([0.299, 0.587, 0.114])


def sound_of(path: Path) -> tuple[str, np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        name = container.streams.audio[0].codec_context.name
        return name, np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_frames_times_and_sound_stay(painter: Painter, tmp_path: Path, suffix: str) -> None:
    source, target = make(tmp_path / "in.mp4"), tmp_path / f"out{suffix}"
    told: list[tuple[int, int]] = []
    result = stylize_video(painter, source, target, progress=lambda *both: told.append(both))
    assert (result.frames, result.expected, result.audio, result.fault) == (12, 12, 1, None)
    assert told == [(done, 12) for done in range(1, 13)]
    (given, before), (made, after) = frames_of(source), frames_of(target)
    assert len(made) == 12
    steps = [np.diff(times) for times in (before, after)]
    np.testing.assert_allclose(*steps, atol=1.5e-3)  # Matroska counts milliseconds.
    # The tone's bytes were copied; where formats begin at another time, picture and sound moved together.
    assert sound_of(target)[0] == "aac"
    np.testing.assert_array_equal(sound_of(source)[1][:, -4096:], sound_of(target)[1][:, -4096:])
    for content, frame in zip(given, made, strict=True):
        wanted = painter.network.paint(content[None], Look())[0]
        assert np.abs(brightness(frame) - brightness(wanted)).mean() < 4  # In colours 4:2:0 loses more.


def test_colours_come_back_as_they_went_in(
    painter: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colors = np.zeros((48, 64, 3), np.uint8)
    for index, color in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 90))):
        colors[:, 16 * index : 16 * index + 16] = color
    monkeypatch.setattr(
        painter.network, "paint", lambda pixels, look: np.repeat(colors[None], len(pixels), 0)
    )
    stylize_video(painter, make(tmp_path / "in.mp4", 3), tmp_path / "out.mp4")
    frame = frames_of(tmp_path / "out.mp4")[0][-1].astype(int)
    middles = frame[24, 8::16]
    assert np.abs(middles - colors[24, 8::16]).max() <= 12


@pytest.mark.parametrize("size", [(49, 65), (48, 65)])
def test_odd_sizes_without_sound(painter: Painter, tmp_path: Path, size: tuple[int, int]) -> None:
    source = make(tmp_path / "in.mkv", 4, size, sound=False)
    result = stylize_video(painter, source, tmp_path / "out.mp4")
    frames, _ = frames_of(tmp_path / "out.mp4")
    assert (result.frames, result.audio, len(frames), result.fault) == (4, 0, 4, None)
    assert frames[0].shape == (size[0] + size[0] % 2, 66, 3)


def test_a_size_is_heeded(painter: Painter, tmp_path: Path) -> None:
    painter.size = 32
    stylize_video(painter, make(tmp_path / "in.mp4", 3), tmp_path / "out.mp4")
    assert frames_of(tmp_path / "out.mp4")[0][0].shape == (24, 32, 3)


def test_webm_holds_no_aac(painter: Painter, tmp_path: Path) -> None:
    with pytest.raises(GantkError, match="cannot hold the sound, which is aac") as caught:
        stylize_video(painter, make(tmp_path / "in.mp4", 3), tmp_path / "out.webm")
    assert ".mkv" in str(caught.value)
    assert ".partial" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
    stylize_video(painter, make(tmp_path / "mute.mp4", 3, sound=False), tmp_path / "out.webm")
    assert len(frames_of(tmp_path / "out.webm")[0]) == 3


def test_a_cut_video_yields_what_decodes_and_says_so(painter: Painter, tmp_path: Path) -> None:
    source = make(tmp_path / "in.mkv", 30)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    result = stylize_video(painter, cut, tmp_path / "out.mp4")
    assert 3 < result.frames < 30
    assert result.fault is not None
    assert "early" in result.fault
    assert len(frames_of(tmp_path / "out.mp4")[0]) == result.frames


def test_what_is_no_video_is_refused(painter: Painter, tmp_path: Path) -> None:
    whole = make(tmp_path / "in.mp4").read_bytes()
    for name, content in (
        ("cut.mp4", whole[: len(whole) // 2]),
        ("junk.mp4", b"junk" * 300),
        ("empty.mkv", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GantkError, match=name):
            stylize_video(painter, tmp_path / name, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "sound.mka"), "w", format="matroska") as container:
        stream: Any = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(GantkError, match="has no video"):
        stylize_video(painter, tmp_path / "sound.mka", tmp_path / "out.mp4")
    with pytest.raises(UsageError, match=r"known are \.mp4"):
        stylize_video(painter, tmp_path / "in.mp4", tmp_path / "out.gif")
    with pytest.raises(UsageError, match="damp is 2"):
        stylize_video(painter, tmp_path / "in.mp4", tmp_path / "out.mp4", damp=2)
    with pytest.raises(GantkError, match="does not exist"):
        stylize_video(painter, tmp_path / "none.mp4", tmp_path / "out.mp4")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_damping_stills_what_stands_still_and_leaves_what_moves() -> None:
    rng = np.random.default_rng(0)
    contents = [picture(index, 48, 64) for index in range(10)]
    painted = [(content * 0.5 + rng.integers(0, 60, content.shape)).astype(np.uint8) for content in contents]
    damper = Damper(0.8)
    damped = [damper.damp(*pair) for pair in zip(painted, contents, strict=True)]
    still, moving = np.s_[30:, :], np.s_[8:20, 30:37]
    flicker = [
        np.abs(np.diff([f[still].astype(int) for f in frames], axis=0)).mean() for frames in (painted, damped)
    ]
    assert flicker[1] < 0.35 * flicker[0]
    # Frame 9's square was not there in frame 8's last columns: nothing of the frame before remains.
    assert np.abs(damped[9][8:20, 35:37].astype(int) - painted[9][8:20, 35:37]).max() <= 1
    assert damped[9][moving].shape == painted[9][moving].shape


@given(st.floats(0, 1), st.integers(0, 2**16))
def test_damped_values_lie_between_the_frames(amount: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = rng.integers(0, 256, (6, 7, 3), np.uint8)
    frames = [rng.integers(0, 256, (6, 7, 3), np.uint8) for _ in range(2)]
    damper = Damper(amount)
    assert (damper.damp(frames[0], content) == frames[0]).all()
    second = damper.damp(frames[1], content).astype(int)
    share = min(amount, DAMPING_LIMIT)
    wanted = frames[1] + share * (frames[0].astype(float) - frames[1])
    assert np.abs(second - wanted).max() <= 0.5 + 1e-3
    assert (second >= np.minimum(*frames)).all()
    assert (second <= np.maximum(*frames)).all()


def test_turned_frames_come_upright(
    painter: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phones write frames lying on their side, with a note."""
    seen: list[tuple[int, ...]] = []
    source = make(tmp_path / "in.mp4", 2)
    paint = painter.network.paint

    def watch(pixels: Pixels, look: Look) -> Pixels:
        seen.append(pixels.shape[1:3])
        return paint(pixels, look)

    monkeypatch.setattr(painter.network, "paint", watch)
    turned = turn(source, tmp_path / "turned.mp4")
    stylize_video(painter, turned, tmp_path / "out.mp4")
    assert seen == [(64, 48)] * 2
    upright = np.rot90(frames_of(source)[0][0], 1)
    wanted = paint(np.ascontiguousarray(upright)[None], Look())[0]
    assert np.abs(brightness(frames_of(tmp_path / "out.mp4")[0][0]) - brightness(wanted)).mean() < 4


def turn(source: Path, target: Path) -> Path:
    """The same MP4 with a display matrix that asks for a quarter turn counterclockwise."""
    data = bytearray(source.read_bytes())
    # Version, times, track and duration; layer, group and volume.
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    one = (1 << 16).to_bytes(4, "big")
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    zero = bytes(4)
    data[at : at + 36] = b"".join(
        [zero, minus, zero, one, zero, zero, zero, zero, (1 << 30).to_bytes(4, "big")]
    )
    target.write_bytes(bytes(data))
    return target


def test_reduced_frames_keep_their_shape() -> None:
    assert reduce(scene(48, 64), 32).shape == (24, 32, 3)
