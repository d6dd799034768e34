# SPDX-License-Identifier: Apache-2.0
"""What the benchmark and its workers say to each other: one JSON object a line, over a pair of pipes.

A worker reads requests from standard input and writes one answer each to standard output; a program in any
language can be one. Standard output carries nothing else: a worker points file descriptor 1 at standard error
before it loads a library that may print. It ends when it is told to, when its input ends, or with its parent.

    {"do": "load", "factory": "module:function", "options": {...}, "imports": ["module", ...]}
        import, note the memory, then open the network with `function(**options)`
        -> {"import_ms", "open_ms", "baseline_rss_bytes", "backend", "version", "device", "precision",
            "file_precision", "launches"}; precision is what it really computes in; launches, which may be left out,
           says that it knows `parts`
    {"do": "feed", "path": "FILE.npz"}
        use the arrays of this file as inputs, each under the name of its tensor -> {}
    {"do": "run", "warmup_s": W, "block_s": B, "most": K}
        calls that do not count for W seconds, then calls that do for B seconds, but no more than K; each time at
        least one -> {"ns": [the duration of each in nanoseconds]}
    {"do": "parts", "block_s": B, "most": K}
        calls on arrays in GPU memory, on one stream, the copies around them apart, for B seconds, but no more than K
        -> {"copy_in", "device", "copy_out": [the GPU's time of each, in ms], "enqueue": [the processor's]}
    {"do": "output", "path": "FILE.npz"}
        call once and write the outputs to this file -> {"ns": the duration of that call}
    {"do": "memory"}
        -> {"rss_bytes", "peak_rss_bytes", "gpu_bytes"}; the peak is since the start of the process; of the GPU what the
           runner says of itself, null where it does not
    {"do": "quit"}
        -> {}, and the worker ends

A request that cannot be met is answered with {"error": "one or more lines"}; the worker then waits for the next.
Between requests a worker may be stopped (SIGSTOP) and continued.
"""

from __future__ import annotations

import json
from typing import Any

VERSION = 1


def encode(message: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message of one line.

    Raises:
        ValueError: It is no JSON object.
    """
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"an object is wanted, not {type(message).__name__}")
    return message
