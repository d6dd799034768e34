# SPDX-License-Identifier: Apache-2.0
"""Pictures larger than memory: strips against the network run whole, and memory and time in strips. Prints JSON.

    python benchmarks/large_pictures.py X.gantk PICTURE... [--whole 2048] [--large 8192] [--backend onnxruntime]

Each measurement has a process of its own. The picture is made of those given, enlarged, with a little noise, so
that it has detail at its full size. `whole_db` is the PSNR of strips against the network run whole, which takes the
statistics of its normalisations of the whole picture; `same_statistics_db` against the untiled network given those
of the strips; `border_ratio` is the mean gradient across the borders of strips to that elsewhere, divided by the
same of the network run whole. Eight minutes on two cores for 8192 pixels; the whole run takes 1.2 kB a pixel.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from gantk.runtime.model import from_bytes, from_path
from gantk.runtime.pictures import Pixels
from gantk.runtime.registry import open_model
from gantk.stylize.large import LargePainter, psnr_db
from gantk.stylize.network import choose_look, open_network
from gantk.stylize.statistics import STATISTICS, add_measured, give_statistics

TILE = 1024
STRIP_ROWS = 128


def make_picture(paths: list[Path], side: int) -> Pixels:
    """The pictures given, each enlarged to `TILE`, one beside the other."""
    rng = np.random.default_rng(0)
    picture = np.empty((side, side, 3), np.uint8)
    places = [(top, left) for top in range(0, side, TILE) for left in range(0, side, TILE)]
    for (top, left), path in zip(places, cycle(paths), strict=False):
        with Image.open(path) as opened:
            part = np.asarray(opened.convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC), np.int16)
        noisy = (part + rng.integers(-4, 5, part.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
        room = picture[top : top + TILE, left : left + TILE]
        room[:] = noisy[: room.shape[0], : room.shape[1]]
    return picture


def border_ratio(picture: Pixels, rows: int) -> float:
    """The mean gradient from one row to the next where strips of `rows` meet, to that elsewhere."""
    steps = np.abs(np.diff(picture.astype(np.int16), axis=0)).mean(axis=(1, 2))
    borders = np.arange(rows, len(picture), rows) - 1
    return float(steps[borders].mean() / np.delete(steps, borders).mean())


def compare(bundle: Path, paths: list[Path], side: int, backend: str) -> dict[str, Any]:
    picture = make_picture(paths, side)
    with open_network(bundle, backend) as network:
        look = choose_look(network)
        parts = LargePainter(network).paint(picture, look, rows=STRIP_ROWS)
        whole = network.paint(picture[None], look)[0]
        proto = onnx.load_from_string(from_path(bundle, "fp32", "plain").data)
        add_measured(proto, give_statistics(proto))
        with open_model(from_bytes(proto.SerializeToString()), backend) as runner:
            statistics = parts.statistics[None].astype(np.float32)
            feeds = {**network.feeds(look, 1), network.picture.name: picture[None], STATISTICS: statistics}
            untiled = runner.run(feeds)[network.runner.outputs[0].name][0]
    return {
        "side": side,
        "strip_rows": STRIP_ROWS,
        "whole_db": psnr_db(whole, parts.pixels),
        "same_statistics_db": psnr_db(untiled, parts.pixels),
        "border_ratio": border_ratio(parts.pixels, STRIP_ROWS) / border_ratio(whole, STRIP_ROWS),
    }


def paint_large(bundle: Path, paths: list[Path], side: int, backend: str) -> dict[str, Any]:
    picture = make_picture(paths, side)
    with open_network(bundle, backend) as network:
        look = choose_look(network)
        wall, cpu = time.perf_counter(), time.process_time()
        LargePainter(network).paint(picture, look)
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"side": side, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--whole", type=int, default=2048)
    parser.add_argument("--large", type=int, default=8192)
    parser.add_argument("--backend", default="onnxruntime")
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    for name, work, side in (("whole", compare, options.whole), ("large", paint_large, options.large)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows[name] = pool.apply(work, (options.bundle, options.pictures, side, options.backend))
    about = {"benchmark": "large pictures", "python": platform.python_version(), "backend": options.backend}
    print(json.dumps({**about, **rows}, indent=2))


if __name__ == "__main__":
    main()
