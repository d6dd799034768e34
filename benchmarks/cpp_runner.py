# SPDX-License-Identifier: Apache-2.0
"""What the C++ runner costs over ONNX Runtime's own API, written by hand. Prints JSON.

    python benchmarks/cpp_runner.py BUILD [--calls 2000] [--rounds 15] [--output FILE]

BUILD is a folder of toolkit/cpp built for release. All with one thread, at batch 1, on the networks of two suites:

- a call: both in one process in turns, one call each into buffers that exist, so that drift and neighbours meet
  both alike; `difference_us` is the median of the differences. On a busy machine it is lost in the network's own
  jitter, so it is also measured on a network of one node, where nothing hides it (`one node`);
- start-up: a fresh process each, in turns, from nothing to the first result, with the library loaded before and the
  time of hashing the file, which the bare session does not do, taken off;
- memory: what those processes hold after twenty runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from gantk.bench import machine
from gantk.bundle import Bundle, Manifest, Variant, Writer
from gantk.export import export
from gantk.tensors import TensorSpec
from overhead import one_node
from run import load, make_weights

LIMITS = {"share": 0.01, "difference_us": 20.0, "start_ratio": 1.2, "memory_mib": 5.0}


def call(program: Path, *words: object) -> dict[str, Any]:
    done = subprocess.run(
        [program, *map(str, words)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def make_bundle(suite: str, folder: Path) -> Path:
    """The network of a suite, in float32 and one form."""
    network = load(suite)["network"]
    weights = folder / f"{suite}.safetensors"
    weights.write_bytes(make_weights(network))
    return export(weights, folder / f"{suite}.gantk", precisions=("fp32",), rewrites=False).root


def make_one_node(folder: Path) -> Path:
    """A bundle of `overhead.one_node`."""
    latent, picture = (TensorSpec(name, "float32", ("N", 100)) for name in ("latent", "picture"))
    with Writer(folder / "tanh.gantk") as writer:
        variant = Variant(writer.add("model.fp32.onnx", one_node()), "fp32", "plain", 20)
        return writer.commit(Manifest("any", "one node", {}, (latent,), (picture,), (variant,))).root


def measure(
    program: Path, title: str, bundle: Path, shape: tuple[int, ...], calls: int, rounds: int
) -> dict[str, Any]:
    ref = Bundle.read(bundle).find("fp32").file
    begins: dict[str, list[dict[str, Any]]] = {"bare": [], "gantk": []}
    for _ in range(rounds):
        for who, found in begins.items():
            found.append(call(program, "start", who, bundle, bundle / ref.path, *shape))
    in_turns = call(program, "calls", bundle, calls, *shape)

    def middle(who: str, field: str) -> float:
        return statistics.median(each[field] for each in begins[who])

    hash_ms = middle("gantk", "hash_ms")
    bare_ms, gantk_ms = middle("bare", "first_result_ms"), middle("gantk", "first_result_ms") - hash_ms
    extra = middle("gantk", "resident_bytes") - middle("bare", "resident_bytes")
    return {
        "network": title,
        "shape": list(shape),
        "file_bytes": ref.size_bytes,
        **in_turns,
        "share": in_turns["difference_us"] / in_turns["by_hand_us"],
        "bare_start_ms": bare_ms,
        "gantk_start_ms": gantk_ms,
        "hash_ms": hash_ms,
        "start_ratio": gantk_ms / bare_ms,
        "memory_mib": extra / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build", type=Path)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    program = arguments.build / "tests/gantk_overhead"
    about = machine.describe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = (
            ("one node", make_one_node(folder), (1, 100), 20 * arguments.calls),
            ("DCGAN, 64 px", make_bundle("dcgan64", folder), (1, 100), arguments.calls),
            (
                "style network, 256 px",
                make_bundle("style512", folder),
                (1, 256, 256, 3),
                arguments.calls // 20,
            ),
        )
        rows = [measure(program, title, *rest, arguments.rounds) for title, *rest in cases]  # type: ignore[arg-type]
    document = {
        "benchmark": "C++ runner",
        "commit": machine.commit(),
        "machine": about,
        "versions": machine.versions(),
        "limits": LIMITS,
        "load_average_after": machine.describe()["load_average"],
        "rows": rows,
    }
    text = json.dumps(document, indent=1) + "\n"
    if arguments.output:
        arguments.output.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
