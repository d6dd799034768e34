# SPDX-License-Identifier: Apache-2.0
"""For how long ONNX Runtime's threads may wait in a loop for more work, on a CPU. Prints JSON.

    python benchmarks/waiting_threads.py X.gantk|X.onnx [--size N=1] > benchmarks/results/waiting_threads.json

A thread that waits so keeps a core busy: the next call finds it awake, and whatever else the program does has a core
less. Of each setting the medians of two calls: of a session that is called again and again (`alone_ms`), and of two
sessions of the network that take turns, as those of a program with two networks do (`in_turns_ms`). Blocks of calls of
all settings alternate, with pauses in which every thread falls asleep.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gantk.bench import machine
from gantk.runtime.arrays import random_feeds
from gantk.runtime.backends.onnxruntime_session import PROVIDERS, WAIT, register
from gantk.runtime.cores import core_count
from gantk.runtime.model import Model, from_path
from gantk.runtime.operators import native_operators
from gantk.runtime.runner import Array

WAITS_US = (None, 0, 50, 200, 1000)
"""Tried settings; `None` is ONNX Runtime as it comes."""

ROUNDS, BLOCK_S, PAUSE_S = 10, 0.2, 0.1


def call_of(model: Model, feeds: dict[str, Array], wait_us: int | None) -> Callable[[], object]:
    """A call of a session with one of the settings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    operators = native_operators("cpu")
    if operators is not None:
        register(options, operators)
    options.intra_op_num_threads = core_count()
    options.log_severity_level = 3
    if wait_us is not None:
        options.add_session_config_entry(WAIT, str(wait_us))
    session = onnxruntime.InferenceSession(model.data, options, providers=[PROVIDERS["cpu"]])
    return lambda: session.run(None, feeds)


def block_ms(calls: Sequence[Callable[[], object]]) -> float:
    """The median of calls that take turns, after a pause and one of each that does not count."""
    time.sleep(PAUSE_S)
    for call in calls:
        call()
    times: list[float] = []
    end = time.perf_counter() + BLOCK_S
    while time.perf_counter() < end:
        for call in calls:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def measured(model: Model, sizes: dict[str, int]) -> list[dict[str, Any]]:
    feeds = random_feeds(model.inputs, sizes, seed=0)
    pairs = {wait: [call_of(model, feeds, wait) for _ in range(2)] for wait in WAITS_US}
    alone: dict[int | None, list[float]] = {wait: [] for wait in pairs}
    in_turns: dict[int | None, list[float]] = {wait: [] for wait in pairs}
    for _ in range(ROUNDS):
        for wait, calls in pairs.items():
            alone[wait].append(block_ms(calls[:1]))
            in_turns[wait].append(block_ms(calls))
    return [
        {
            "wait_us": wait,
            "alone_ms": round(median(alone[wait]), 4),
            "in_turns_ms": round(median(in_turns[wait]), 4),
        }
        for wait in pairs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="+")
    parser.add_argument("--precision", help="of a bundle's file")
    parser.add_argument("--size", action="append", default=[], metavar="NAME=NUMBER", help="of an axis")
    arguments = parser.parse_args()
    sizes = {name: int(number) for name, _, number in (size.partition("=") for size in arguments.size)}
    networks = []
    for path in arguments.model:
        model = from_path(path, arguments.precision, backend="onnxruntime")
        rows = measured(model, sizes)
        networks.append(
            {"network": model.name, "precision": model.precision, "form": model.form, "rows": rows}
        )
        for row in rows:
            print(f"{model.name}: {row}", file=sys.stderr)
    document = {
        "benchmark": "waiting_threads",
        "machine": machine.describe(),
        "versions": machine.versions("cpu"),
        "commit": machine.commit(),
        "threads": core_count(),
        "sizes": sizes,
        "networks": networks,
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
