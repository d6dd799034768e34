# SPDX-License-Identifier: Apache-2.0
"""Small clips for tests of stylising."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from gantk.runtime.pictures import Pixels
from style_pictures import scene

FPS = 10


def make(
    path: Path,
    frames: int = 12,
    size: tuple[int, int] = (48, 64),
    *,
    sound: bool = True,
    codec: str = "libx264",
) -> Path:
    """A bright square that moves over a still scene, and a tone; frame times are not even."""
    import av

    height, width = size
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=FPS)
        video.width, video.height = width, height
        video.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio: Any = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width), format="rgb24")
            frame.pts, frame.time_base = times_ms(frames)[index], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            tone = np.sin(np.arange(8000 * frames // FPS) * 0.3) * 9000
            for start in range(0, len(tone), 1024):
                part = av.AudioFrame.from_ndarray(
                    tone[None, start : start + 1024].astype(np.int16), "s16", "mono"
                )
                part.sample_rate, part.pts = 8000, start
                container.mux(audio.encode(part))
            container.mux(audio.encode())
    return path


def picture(index: int, height: int, width: int) -> Pixels:
    frame = scene(height, width).copy()
    frame[8:20, 3 * index : 3 * index + 10] = 255
    return frame


def times_ms(frames: int) -> list[int]:
    return [100 * index + 30 * (index % 2) for index in range(frames)]
