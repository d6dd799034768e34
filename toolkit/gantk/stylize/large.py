# SPDX-License-Identifier: Apache-2.0
"""Pictures larger than memory, as the network would paint them whole.

Instance normalisation wants the mean and variance of every layer over the whole picture. So the network runs
in stages, one after the other over all strips of the picture; each stage measures the statistics of one layer,
under those of the layers before it, and leaves what the next ones begin with in temporary files.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from gantk.errors import GantkError
from gantk.files import ANOTHER_PLACE, free_bytes, named_errors, temporary_place
from gantk.runtime.model import Model, from_bytes, from_path
from gantk.runtime.pictures import Pixels, to_pixels
from gantk.runtime.registry import open_model
from gantk.runtime.runner import Array, Runner
from gantk.stylize.network import Look, StyleNetwork, pad_to, to_input
from gantk.stylize.stages import MEAN, ROWS, SIZE, VARIANCE, Plan, Stage, plan_stages, sliced_name
from gantk.stylize.statistics import STATISTICS, Pool

MEMORY_BYTES = 5 * 2**29
"""So that a frame of 1920 x 1080 pixels is painted whole by a style network of usual width."""
PROBE_SIDE = 384

Progress = Callable[[int, int], None]
"""Called with the number of strips done and in all."""

_STRIPS_LEAST_BYTES = 256 * 2**20
_ARENA = 2.4  # Backends take memory ahead, and lay tensors out anew.


@dataclass(frozen=True)
class Painted:
    """A picture painted in strips.

    Args:
        pixels: uint8[H, W, 3].
        statistics: float64[2, C]: the means and variances of all normalised channels that it was painted with.
    """

    pixels: Pixels
    statistics: Array


@dataclass(frozen=True)
class Strip:
    """Rows `first` to `end` of a picture, and those from `begin` to `until` that they depend on."""

    first: int
    end: int
    begin: int
    until: int


class LargePainter:
    """Paints pictures of any size with a style network, within a memory budget.

    Args:
        network: An open network; strips run on its backend, in float32.
        memory_bytes: What to stay within, about, the decoded picture included.
        folder: For temporary files; by default where the system has them.

    Raises:
        GantkError: The network cannot be run in strips.
    """

    def __init__(
        self, network: StyleNetwork, memory_bytes: int = MEMORY_BYTES, folder: Path | None = None
    ) -> None:
        self._network, self._memory_bytes = network, memory_bytes
        self._folder = folder or temporary_place()
        self.plan = plan_stages(
            _plain(network.path).data, network.picture.name, network.runner.outputs[0].name
        )

    def paint(
        self, pixels: Pixels, look: Look, progress: Progress | None = None, *, rows: int | None = None
    ) -> Painted:
        """Paint one picture.

        Args:
            pixels: uint8[H, W, 3].
            look: The style.
            progress: Told after each strip.
            rows: The height of a strip in pixels; by default what memory allows.

        Raises:
            GantkError: The backend failed, or temporary files cannot be written.
        """
        height, width, _ = pixels.shape
        padded = pad_to(self._network.picture.smallest, pixels[None])[0]
        sweep = _Sweep(self._network, self.plan, padded, self._given(look), self._folder)
        works = [strips(len(padded), self.plan.stride, stage.above, stage.below, rows or self._rows(stage, padded))
                 for stage in self.plan.stages]  # fmt: skip
        total, done = sum(map(len, works)), 0
        try:
            for stage, work in zip(self.plan.stages, works, strict=True):
                with self._open(stage.data) as runner:
                    for strip in work:
                        sweep.run(runner, stage, strip)
                        done += 1
                        if progress is not None:
                            progress(done, total)
                sweep.end(stage)
        finally:
            sweep.close()
        return Painted(sweep.painted[:height, :width], sweep.statistics)

    def distance_db(self, pixels: Pixels, look: Look) -> float:
        """How far from the whole network's result that in strips is, on the picture reduced: PSNR in dB, 99 at most."""
        probe = np.asarray(_reduced(pixels))
        whole = self._network.paint(probe[None], look)[0].astype(np.float64)
        parts = self.paint(probe, look, rows=max(self.plan.stride, len(probe) // 4)).pixels
        return psnr_db(whole, parts)

    def _given(self, look: Look) -> dict[str, Array]:
        """All inputs of the stages that are the same for all strips."""
        feeds = self._network.feeds(look, 1)
        if self.plan.prelude is None:
            return feeds
        with self._open(self.plan.prelude) as runner:
            return {**feeds, **runner.run({spec.name: feeds[spec.name] for spec in runner.inputs})}

    def _open(self, data: bytes) -> Runner:
        network = self._network
        return open_model(from_bytes(data), network.runner.backend, network.runner.device, network.threads)

    def _rows(self, stage: Stage, pixels: Pixels) -> int:
        """The height of a strip for which the memory suffices, with the rows around it."""
        # The picture and the result, and once more while either is decoded or encoded at four bytes a pixel.
        held = 10 * pixels.shape[0] * pixels.shape[1]
        free = max(_STRIPS_LEAST_BYTES, self._memory_bytes - held)
        return int(free / (_ARENA * stage.pixel_bytes * pixels.shape[1])) - stage.above - stage.below


class _Sweep:
    """One picture on its way through all stages."""

    def __init__(
        self, network: StyleNetwork, plan: Plan, pixels: Pixels, feeds: Mapping[str, Array], folder: Path
    ) -> None:
        self._network, self._plan, self._pixels, self._folder = network, plan, pixels, folder
        self._feeds = dict(feeds)
        self._kept: dict[str, _Rows] = {}
        self._pool = Pool()
        self.statistics = np.zeros((2, plan.norms[-1].span.stop))
        self.statistics[1] = 1.0
        self.painted = np.empty_like(pixels)

    def run(self, runner: Runner, stage: Stage, strip: Strip) -> None:
        outputs = runner.run(self._inputs(runner, stage, strip))
        for name, scale in stage.kept.items():
            self._keep(name, outputs[sliced_name(name)], strip.first // scale)
        if stage.norm is not None:
            count = int(np.prod(outputs[SIZE]))
            self._pool.add(count, outputs[MEAN].ravel(), outputs[VARIANCE].ravel())
        else:
            spec = self._network.runner.outputs[0]
            painted = to_pixels(outputs[spec.name], spec, spec.layout)[0]
            end = min(strip.end, len(self._pixels))
            self.painted[strip.first : end] = painted[strip.first - strip.begin : end - strip.begin]

    def end(self, stage: Stage) -> None:
        """Note what a stage measured, and let go of what nobody wants any more."""
        if stage.norm is not None:
            self.statistics[:, stage.norm.span] = self._pool.statistics
            self._pool = Pool()
        for name in stage.dropped:
            self._kept.pop(name).close()

    def close(self) -> None:
        for rows in self._kept.values():
            rows.close()

    def _inputs(self, runner: Runner, stage: Stage, strip: Strip) -> dict[str, Array]:
        picture = self._network.picture
        given: dict[str, Array] = {
            **self._feeds,
            STATISTICS: self.statistics[None].astype(np.float32),
            ROWS: np.array([strip.first - strip.begin, strip.end - strip.begin], np.int64),
        }
        for name, scale in stage.sources.items():
            if name == picture.name:
                given[name] = to_input(self._pixels[None, strip.begin : strip.until], picture)
            else:
                given[name] = self._kept[name].read(strip.begin // scale, -(-strip.until // scale))
        return {spec.name: given[spec.name] for spec in runner.inputs}

    def _keep(self, name: str, array: Array, first: int) -> None:
        if name not in self._kept:
            rows = -(-len(self._pixels) // self._plan.stride)
            self._kept[name] = _Rows(array.shape[1], rows, array.shape[3], self._folder)
        self._kept[name].write(first, array[0])


class _Rows:
    """A tensor float32[C, H, W] in a file that is gone when it is closed, or when the process dies."""

    def __init__(self, channels: int, rows: int, width: int, folder: Path) -> None:
        self._channels, self._rows, self._width = channels, rows, width
        self._folder = folder
        need = 4 * channels * rows * width
        if need > free_bytes(folder):
            raise GantkError(
                f"{need / 2**30:.1f} GiB are wanted for a temporary file; {free_bytes(folder) / 2**30:.1f} are free",
                where=str(folder),
                hint=ANOTHER_PLACE,
            )
        with named_errors(folder, "write a temporary file in", ANOTHER_PLACE):
            self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 - closed by `close`

    def write(self, first: int, array: Array) -> None:
        with named_errors(self._folder, "write a temporary file in", ANOTHER_PLACE):
            for channel, plane in enumerate(np.ascontiguousarray(array)):
                self._all(os.pwrite, plane, self._place(channel, first))

    def read(self, first: int, end: int) -> Array:
        end = min(end, self._rows)
        array = np.empty((1, self._channels, end - first, self._width), np.float32)
        for channel, plane in enumerate(array[0]):
            self._all(_pread_into, plane, self._place(channel, first))
        return array

    def close(self) -> None:
        self._file.close()

    def _place(self, channel: int, row: int) -> int:
        return 4 * self._width * (channel * self._rows + row)

    def _all(self, move: Callable[[int, memoryview, int], int], plane: Array, place: int) -> None:
        """Read or write a whole plane; the system moves up to 2 GiB at a time."""
        left = memoryview(plane.data).cast("B")
        while left:
            count = move(self._file.fileno(), left, place)
            assert count > 0, "a temporary file is shorter than what was written to it"
            left, place = left[count:], place + count


def _pread_into(descriptor: int, buffer: memoryview, place: int) -> int:
    return os.preadv(descriptor, [buffer], place)


def strips(height: int, stride: int, above: int, below: int, rows: int) -> list[Strip]:
    """Cut a picture into strips of almost equal height that begin at multiples of `stride`.

    Args:
        height: Of the picture.
        stride: What strips begin at multiples of.
        above: Rows that a strip needs above its own, a multiple of `stride`.
        below: Likewise below.
        rows: The largest height of a strip; `stride` where it is less.
    """
    units = -(-height // stride)
    count = -(-units // max(1, rows // stride))
    cuts = [units * index // count * stride for index in range(count + 1)]
    return [
        Strip(first, end, max(0, first - above), min(height, end + below)) for first, end in pairwise(cuts)
    ]


def psnr_db(a: Array, b: Array) -> float:
    """Of two pictures in 0..255; 99 for equal ones."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return min(99.0, 10 * math.log10(255.0**2 / error)) if error else 99.0


def _plain(path: Path) -> Model:
    return from_path(path, "fp32", "plain") if path.is_dir() else from_path(path)


def _reduced(pixels: Pixels) -> Image.Image:
    height, width = pixels.shape[:2]
    scale = min(1.0, PROBE_SIDE / max(height, width))
    step = max(1, int(1 / scale) // 2)  # Take every so many pixels first: the whole picture is large.
    small = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    return small.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)
