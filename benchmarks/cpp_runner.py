# SPDX-License-Identifier: Apache-2.0
"""What the C++ runner costs over ONNX Runtime's own API, written by hand. Prints JSON.

    python benchmarks/cpp_runner.py BUILD [--processes 12] [--starts 15] [--output FILE]

BUILD is a folder of toolkit/cpp built for release. All with one thread, at batch 1, on the networks of two suites:

- a call: both on the session that the runner made, so that neither has another place in memory, into buffers that
  exist. Four calls make a round, in the order hand, gantk, gantk, hand and then the other way about; its difference
  is in the processor time of the calling thread, which neighbours do not add to and which is all the time there is,
  for these networks run in that thread. `difference_us` is the mean over several processes of each one's median
  round, with the 95 % interval of a bootstrap over the processes.
  Where a call takes hundreds of milliseconds, its own jitter is wider than the limit in microseconds. So the time
  around the vendor's `Run` is measured too, in the same calls, with the caches as the network left them: `own_us` is
  gantk's less that of the call by hand, and decides where the interval of the whole does not. `bound_us` is of a run
  that is bound to the buffers;
- start-up: a fresh process each, in turns, from nothing to the first result, with the library loaded before and the
  time of hashing the file, which the bare session does not do, taken off;
- memory: what those processes hold after six runs;
- endurance: the resident memory of one process over 100 000 runs of a small network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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


def interval(values: Sequence[float]) -> list[float]:
    """The 95 % interval of a mean, by a bootstrap."""
    picks = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    means = np.asarray(values)[picks].mean(axis=1)
    return [float(end) for end in np.percentile(means, [2.5, 97.5])]


def measure_calls(
    program: Path, bundle: Path, shape: tuple[int, ...], rounds: int, processes: int
) -> dict[str, Any]:
    found = [call(program, "calls", bundle, rounds, *shape) for _ in range(processes)]

    def middle(field: str) -> float:
        return statistics.median(each[field] for each in found)

    differences = [each["difference_us"] for each in found]
    own = [each["gantk_around_us"] - each["by_hand_around_us"] for each in found]
    limit_us = min(LIMITS["difference_us"], LIMITS["share"] * middle("by_hand_us"))
    whole_us, own_us = interval(differences), interval(own)
    return {
        "processes": processes,
        "rounds": rounds,
        "by_hand_us": middle("by_hand_us"),
        "difference_us": statistics.mean(differences),
        "difference_ci95_us": whole_us,
        "own_us": statistics.mean(own),
        "own_ci95_us": own_us,
        "share": statistics.mean(own) / middle("by_hand_us"),
        "limit_us": limit_us,
        "whole_holds": whole_us[1] <= limit_us,
        "own_holds": own_us[1] <= limit_us,
        "by_hand_allocations": found[0]["by_hand_allocations"],
        "gantk_allocations": found[0]["gantk_allocations"],
        "bound_us": middle("bound_us"),
        "bound_allocations": found[0]["bound_allocations"],
    }


def measure_starts(program: Path, bundle: Path, shape: tuple[int, ...], starts: int) -> dict[str, Any]:
    ref = Bundle.read(bundle).find("fp32").file
    begins: dict[str, list[dict[str, Any]]] = {"bare": [], "gantk": []}
    for _ in range(starts):
        for who, found in begins.items():
            found.append(call(program, "start", who, bundle, bundle / ref.path, *shape))

    def middle(who: str, field: str) -> float:
        return statistics.median(each[field] for each in begins[who])

    hash_ms = middle("gantk", "hash_ms")
    bare_ms, gantk_ms = middle("bare", "first_result_ms"), middle("gantk", "first_result_ms") - hash_ms
    extra = middle("gantk", "resident_bytes") - middle("bare", "resident_bytes")
    return {
        "starts": starts,
        "file_bytes": ref.size_bytes,
        "bare_start_ms": bare_ms,
        "gantk_start_ms": gantk_ms,
        "hash_ms": hash_ms,
        "start_ratio": gantk_ms / bare_ms,
        "memory_mib": extra / 2**20,
    }


def make_small(folder: Path) -> Path:
    """A bundle of 4 values through a matrix and tanh, for the endurance run."""
    from onnx import TensorProto, helper, numpy_helper

    latent, picture = TensorSpec("latent", "float32", ("N", 4)), TensorSpec("picture", "float32", ("N", 192))
    weights = np.random.default_rng(0).standard_normal((4, 192)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["latent", "w"], ["y"]), helper.make_node("Tanh", ["y"], ["picture"])]
    ends = [
        helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, list(spec.shape))
        for spec in (latent, picture)
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with Writer(folder / "small.gantk") as writer:
        variant = Variant(writer.add("model.fp32.onnx", model.SerializeToString()), "fp32", "plain", 20)
        return writer.commit(Manifest("any", "small", {}, (latent,), (picture,), (variant,))).root


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build", type=Path)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    program = arguments.build / "tests/gantk_overhead"
    about = machine.describe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = (
            ("DCGAN, 64 px", make_bundle("dcgan64", folder), (1, 100), 100),
            ("style network, 256 px", make_bundle("style512", folder), (1, 256, 256, 3), 6),
            ("one node", make_one_node(folder), (1, 100), 5000),
        )
        rows: list[dict[str, Any]] = [
            {"network": title, "shape": list(shape)} for title, _, shape, _ in cases
        ]
        for row, (_, bundle, shape, rounds) in zip(rows, cases, strict=True):
            row.update(measure_calls(program, bundle, shape, rounds, arguments.processes))
        for row, (_, bundle, shape, _) in zip(rows, cases, strict=True):
            row.update(measure_starts(program, bundle, shape, arguments.starts))
        soak = call(arguments.build / "tests/gantk_soak", make_small(folder), 100_000, 2, "shared")
    document = {
        "benchmark": "C++ runner",
        "commit": machine.commit(),
        "machine": about,
        "versions": machine.versions("cpu"),
        "limits": LIMITS,
        "load_average_after": machine.describe()["load_average"],
        "rows": rows,
        "endurance": soak,
    }
    text = json.dumps(document, indent=1) + "\n"
    if arguments.output:
        arguments.output.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
