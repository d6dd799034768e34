# SPDX-License-Identifier: Apache-2.0
"""Video: every frame stylised at its own time, the sound as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk.errors import GantkError, UsageError
from gantk.files import check_file, replacing
from gantk.runtime.pictures import Pixels, check_suffix
from gantk.stylize.damping import Damper
from gantk.stylize.painter import Painter
from gantk.stylize.pictures import Picture, reduce

if TYPE_CHECKING:
    import av
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""What is written, and how FFmpeg calls it."""

SUFFIXES = (*FORMATS, ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".ogv", ".3gp")
"""What is taken for video."""

END_SLACK_S = 0.25
"""A file that ends by less before its declared length is whole: lengths are of the longest track, and rounded."""

_CODECS = {"webm": "libvpx-vp9"}
_HD_HEIGHT = 720
_BT709, _BT601, _SMPTE_170M = 1, 5, 6  # As in H.273; SMPTE 170M has the matrix of BT.601.
_LIMITED_RANGE = 1

Progress = Callable[[int, int], None]
"""Called with the number of frames done and expected; 0 where the file does not say."""


@dataclass(frozen=True)
class VideoResult:
    """What became of a video.

    Args:
        frames: Frames written.
        expected: Frames that the input declares, or has by its length, about; `None` where it does not say.
        audio: The number of sound tracks copied.
        fault: Why reading stopped before the end, if it did.
    """

    frames: int
    expected: int | None
    audio: int
    fault: str | None


def stylize_video(
    painter: Painter, source: Path, target: Path, *, damp: float = 0.0, progress: Progress | None = None
) -> VideoResult:
    """Stylise a video: as many frames at the same times, with its sound tracks copied.

    What cannot be decoded ends the output, and is told. Frames of odd size get an edge of one pixel, for 4:2:0
    video has even sizes; frames that are to be turned are turned. H.264 in 4:2:0, or VP9 for WebM.

    Args:
        painter: The network and how to use it.
        source: The video.
        target: Ends in one of `FORMATS`.
        damp: How much to damp flicker where the picture stands still, from 0 to 1.
        progress: Told after each frame.

    Raises:
        GantkError: It cannot be opened, has no video, no frame can be decoded, or `target` cannot hold its sound.
        UsageError: Another suffix, or `damp` out of range.
    """
    import av

    kind = check_suffix(target, FORMATS)
    if not 0.0 <= damp <= 1.0:
        raise UsageError(f"damp is {damp:g}; 0 to 1 are allowed", where="--damp")
    check_file(source)
    try:
        with av.open(str(source)) as given, replacing(target) as partial:
            stream = _video_stream(given, source)
            with av.open(str(partial), "w", format=kind) as made:
                work = _Work(painter, given, made, stream, Damper(damp), _CODECS.get(kind, "libx264"))
                work.run(progress)
            if not work.frames:
                reason = work.fault or "it has no frames"
                raise GantkError(f"no frame of `{source}` can be decoded: {reason}", where=str(source))
    except av.error.FFmpegError as error:
        raise GantkError(
            f"FFmpeg cannot handle `{source}`: {error.strerror}",
            where=str(source),
            hint="an MP4 that was cut has lost its index, which is at its end",
        ) from error
    return VideoResult(work.frames, work.expected, len(work.sounds), work.fault)


class _Work:
    """One video on its way."""

    def __init__(
        self,
        painter: Painter,
        given: InputContainer,
        made: OutputContainer,
        stream: VideoStream,
        damper: Damper,
        codec: str,
    ) -> None:
        import av

        self._painter, self._given, self._made, self._stream = painter, given, made, stream
        self._damper, self._codec = damper, codec
        self._output: Any = None
        self.sounds = _add_sounds(given, made)
        self.frames = 0
        self.fault: str | None = None
        self._seconds = given.duration / av.time_base if given.duration else 0.0
        self._reached = 0.0
        rate = stream.average_rate
        self.expected = stream.frames or (round(self._seconds * rate) if rate else 0) or None

    def run(self, progress: Progress | None) -> None:
        waiting: list[Any] = []  # Sound that comes before the first frame, when the size is not known yet.
        for packet in self._packets():
            if packet.stream.type == "audio":
                waiting.append(packet)
            else:
                self._paint_all(packet, progress)
            if self._output is not None:
                self._copy(waiting)
        if self._output is not None:
            self._made.mux(self._output.encode())
        self.fault = self.fault or self._early_end()

    def _early_end(self) -> str | None:
        """How the file ends before what it declares, if it does."""
        if self._stream.frames:
            missing = self._stream.frames - self.frames
            return f"the file ends {missing} frames early" if missing > 0 else None
        missing_s = self._seconds - self._reached
        return f"the file ends {missing_s:.1f} s early" if missing_s > END_SLACK_S else None

    def _packets(self) -> Iterator[Any]:
        """Packets of video and sound, until the file ends or is damaged."""
        import av

        packets = self._given.demux(self._stream, *self.sounds)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.fault = error.strerror or str(error)
                return
            if packet is None:
                return
            if packet.pts is not None and packet.time_base is not None:
                self._reached = max(
                    self._reached, float((packet.pts + (packet.duration or 0)) * packet.time_base)
                )
            yield packet

    def _paint_all(self, packet: Any, progress: Progress | None) -> None:
        import av

        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            self.fault = error.strerror or str(error)
            return
        for frame in frames:
            self._paint(frame)
            if progress is not None:
                progress(self.frames, self.expected or 0)

    def _paint(self, frame: av.VideoFrame) -> None:
        content = reduce(_upright(frame), self._painter.size)
        painted = self._painter.paint(Picture(content)).pixels
        even = _even(self._damper.damp(painted, content))
        if self._output is None:
            self._output = self._start(even.shape[1], even.shape[0])
        fresh = self._encoded(even)
        fresh.pts, fresh.time_base = frame.pts, frame.time_base
        self._made.mux(self._output.encode(fresh))
        self.frames += 1

    def _start(self, width: int, height: int) -> Any:
        """The output's video stream, with the clock of the input's."""
        rate = self._stream.average_rate or self._stream.guessed_rate or 25
        output: Any = self._made.add_stream(self._codec, rate=rate)
        output.width, output.height, output.pix_fmt = width, height, "yuv420p"
        output.codec_context.time_base = self._stream.time_base
        output.options = {"crf": "18"} if self._codec == "libx264" else {"crf": "24", "b": "0"}
        matrix = _BT709 if height >= _HD_HEIGHT else _SMPTE_170M
        output.codec_context.colorspace = matrix
        output.codec_context.color_primaries = matrix
        output.codec_context.color_trc = matrix
        output.codec_context.color_range = _LIMITED_RANGE
        return output

    def _encoded(self, pixels: Pixels) -> av.VideoFrame:
        import av

        matrix = _BT709 if self._output.height >= _HD_HEIGHT else _BT601
        whole = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return whole.reformat(self._output.width, self._output.height, "yuv420p", dst_colorspace=matrix)

    def _copy(self, waiting: list[Any]) -> None:
        for packet in waiting:
            if packet.dts is not None:  # The empty packet at the end is for decoders.
                packet.stream = self.sounds[packet.stream]
                self._made.mux(packet)
        waiting.clear()


def _video_stream(given: InputContainer, source: Path) -> VideoStream:
    import av

    for stream in given.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:  # A cover is no video.
            stream.thread_type = "AUTO"
            return stream
    raise GantkError(f"`{source}` has no video", where=str(source))


def _add_sounds(given: InputContainer, made: OutputContainer) -> dict[Any, Any]:
    """The output's sound tracks by the input's.

    Raises:
        GantkError: The output's format cannot hold one of them.
    """
    sounds: dict[Any, Any] = {}
    for stream in given.streams.audio:
        if stream.codec_context.name.partition("_")[0] not in made.supported_codecs:
            raise GantkError(
                f"a {made.format.name} file cannot hold the sound, which is {stream.codec_context.name}",
                hint="-o NAME.mkv holds any",
            )
        sounds[stream] = made.add_stream_from_template(stream)
    return sounds


def _upright(frame: av.VideoFrame) -> Pixels:
    """The pixels of a frame as they are to be seen."""
    pixels: Pixels = frame.to_ndarray(format="rgb24")
    return (
        np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4)) if frame.rotation else pixels
    )


def _even(pixels: Pixels) -> Pixels:
    height, width, _ = pixels.shape
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
