# SPDX-License-Identifier: Apache-2.0
"""Which settings of ONNX Runtime's CUDA provider suit a network: `python benchmarks/cuda_settings.py X.gantk`.

    --shape NAME=1x512x512x3     of an input; by default one sample of the size that gantk bench takes
    --form FORM --precision P    which file of the bundle
    --output FILE                default: benchmarks/results/cuda_settings.json; what the same GPU and versions gave
                                 before is kept there

Every row is one session. `run` is the vendor's call on host memory, `bound` its call on GPU memory, `graph` one CUDA
graph of that and the wait for its end, `device` the same between two events without waiting. PyTorch's modes are
`bound`. Medians of calls one after the other, in ms; a GPU's clocks move them by some percent.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from gantk.runtime.backends.onnxruntime_session import PROVIDERS  # It turns telemetry off.

HERE = Path(__file__).resolve().parent
ALGORITHMS, LAYOUTS, TF32 = ("HEURISTIC", "EXHAUSTIVE", "DEFAULT"), ("0", "1"), ("0", "1")
SECONDS, MOST_CALLS, ENQUEUED = 0.4, 200, 50
Row = dict[str, Any]


def main() -> int:
    arguments = parse(__doc__, "cuda_settings", form="plain")
    rows = measure(arguments.bundle, arguments.precision, arguments.form, arguments.shapes)
    write(arguments.output, rows)
    for row in sorted(rows, key=fastest_ms):
        print(line(row))
    return 0


def parse(description: str | None, benchmark: str, form: str | None) -> argparse.Namespace:
    """The command line of a benchmark of one file on a GPU; ends the process where there is none."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=1x512x512x3")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--form", default=form)
    parser.add_argument("--output", type=Path, default=HERE / "results" / f"{benchmark}.json")
    arguments = parser.parse_args()
    from gantk.runtime.driver import probe

    if not probe().works:
        sys.exit(f"error: no GPU here: {probe().reason}")
    pairs = (each.partition("=") for each in arguments.shape)
    arguments.shapes = {name: tuple(map(int, text.split("x"))) for name, _, text in pairs}
    return arguments


def feeds_of(inputs: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Random inputs: of the given shapes, by default one sample."""
    from gantk.runtime.arrays import default_sizes, random_array

    sizes = default_sizes(inputs, {"N": 1})
    return {spec.name: random_array(spec, shapes.get(spec.name) or spec.concrete(sizes)) for spec in inputs}


def measure(bundle: Path, precision: str, form: str, shapes: dict[str, tuple[int, ...]]) -> list[Row]:
    """A row for each combination of settings, and one for each of PyTorch's modes."""
    from gantk.baselines.pytorch import open_network
    from gantk.runtime.model import from_path

    model = from_path(bundle, precision, form)
    feeds = feeds_of(model.inputs, shapes)
    common = {"network": model.name, "shape": list(next(iter(feeds.values())).shape)}
    rows = []
    tried = [(dict(zip(SETTINGS, each, strict=True)), "") for each in product(ALGORITHMS, LAYOUTS, TF32)]
    # With channels first it clears the output on the default stream, which neither waits nor is captured.
    tried.append(
        (
            {**dict(zip(SETTINGS, ("HEURISTIC", "1", "1"), strict=True)), "fuse_conv_bias": "1"},
            ", biases fused",
        )
    )
    for chosen, which in tried:
        what = f"onnxruntime {precision} {form}{which}"
        rows.append({**common, "what": what, **chosen, **session_row(model, feeds, chosen)})
        print(line(rows[-1]), file=sys.stderr)
    for torch_precision, modes in (
        ("tf32", ("eager", "channels_last")),
        (precision, ("eager", "channels_last", "reduce-overhead")),
    ):
        for mode in modes:
            with open_network(bundle, "torch", torch_precision, mode, "cuda") as runner:
                bound_ms = wall_ms(runner.bind(feeds))
            rows.append({**common, "what": f"torch {mode} {torch_precision}", "bound_ms": bound_ms})
    return rows


def session_row(model: Any, feeds: dict[str, Any], chosen: dict[str, str]) -> Row:
    import onnxruntime

    from gantk.runtime import cuda
    from gantk.runtime.backends.vendor import vendor_errors
    from gantk.runtime.cuda import Cuda
    from overhead import bound_to_gpu

    calls = Cuda(cuda.bindings())
    stream = calls.stream()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    provider = (PROVIDERS["cuda"], {**chosen, "user_compute_stream": str(int(stream))})
    session = onnxruntime.InferenceSession(model.data, options, providers=[provider])
    names = [spec.name for spec in model.outputs]
    outputs = session.run(names, feeds)
    binding = bound_to_gpu(session, feeds, dict(zip(names, outputs, strict=True)))
    quiet = onnxruntime.RunOptions()
    quiet.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue() -> None:
        with vendor_errors("a run that cannot be captured", model.where):
            session.run_with_iobinding(binding, quiet)

    run_ms = wall_ms(lambda: session.run(names, feeds))
    bound_ms = wall_ms(lambda: session.run_with_iobinding(binding))
    graph = calls.captured(stream, enqueue)
    found: Row = {"run_ms": run_ms, "bound_ms": bound_ms, "graph_ms": None, "device_ms": None}
    if graph is not None:

        def launch() -> None:
            calls.launch(graph, stream)
            calls.synchronize(stream)

        found |= {
            "graph_ms": wall_ms(launch),
            "device_ms": device_ms(calls, stream, lambda: calls.launch(graph, stream)),
        }
        calls.destroy_graph(graph)
    return found


def wall_ms(call: Callable[[], object]) -> float:
    for _ in range(5):
        call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 10 or (len(times) < MOST_CALLS and time.perf_counter() < end):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def device_ms(calls: Any, stream: Any, enqueue: Callable[[], None]) -> float:
    first, last = calls.event(), calls.event()
    calls.record(first, stream)
    for _ in range(ENQUEUED):
        enqueue()
    calls.record(last, stream)
    calls.synchronize(stream)
    found = calls.elapsed_ms(first, last) / ENQUEUED
    for event in (first, last):
        calls.destroy_event(event)
    return float(found)


def line(row: Row) -> str:
    """A row in words."""
    told = [f"{key[:-3]} {row[key]:.3f} ms" for key in MEASURED if row.get(key) is not None]
    chosen = [f"{name}={row[name]}" for name in SETTINGS if name in row]
    return f"{row['network']} {'x'.join(map(str, row['shape']))}, {row['what']} {' '.join(chosen)}: {', '.join(told)}"


MEASURED = ("run_ms", "bound_ms", "graph_ms", "device_ms")
SETTINGS = ("cudnn_conv_algo_search", "prefer_nhwc", "use_tf32")
SHOWN = 6  # Of the sessions of a table.
HEADINGS = ("", "algorithms", "layout", "TF32", "run", "bound", "graph", "device")


def write(
    path: Path,
    rows: list[Row],
    *,
    benchmark: str = "cuda_settings",
    key: Callable[[Row], tuple[Any, ...]] | None = None,
) -> None:
    """Add rows to a result, in the place of older ones of the same; one of another GPU or versions is replaced.

    Args:
        path: Of the result.
        rows: To add.
        benchmark: Its name in the result.
        key: What a row is of; by default network, shape, session and settings.
    """
    from gantk.bench import machine
    from gantk.files import write_text

    here, versions = machine.describe(), machine.versions("cuda")
    old: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    same = old.get("versions") == versions and old.get("machine", {}).get("gpu") == here["gpu"]
    key = key or _key
    kept = [each for each in old["rows"] if all(key(each) != key(row) for row in rows)] if same else []
    document = {
        "benchmark": benchmark,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": here,
        "versions": versions,
        "rows": [*kept, *rows],
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def _key(row: Row) -> tuple[Any, ...]:
    return (row["network"], tuple(row["shape"]), row["what"], *(row.get(name) for name in SETTINGS))


def fastest_ms(row: Row) -> float:
    return float(row.get("graph_ms") or row["bound_ms"])


def section(document: dict[str, Any]) -> str:
    """The tables: of each network and shape the fastest first."""
    lines: list[str] = []
    for network, shape in dict.fromkeys((row["network"], tuple(row["shape"])) for row in document["rows"]):
        rows = [row for row in document["rows"] if (row["network"], tuple(row["shape"])) == (network, shape)]
        lines += [f"**{network}, {'x'.join(map(str, shape))}; ms**", ""]
        lines += [f"| {' | '.join(HEADINGS)} |", f"|{' :--- |' * 4}{' ---: |' * 4}"]
        order = sorted(rows, key=fastest_ms)
        ours = [row for row in order if row.get("graph_ms")]
        shown = [row for row in order if row not in ours[SHOWN:]]
        for row in shown:
            layout = {"0": "NCHW", "1": "NHWC"}.get(row.get("prefer_nhwc", ""), "")
            tf32 = {"0": "off", "1": "on"}.get(row.get("use_tf32", ""), "")
            values = [f"{row[key]:.3f}" if row.get(key) is not None else "-" for key in MEASURED]
            chosen = [row["what"], row.get("cudnn_conv_algo_search", ""), layout, tf32]
            lines.append(f"| {' | '.join([*chosen, *values])} |")
        if ours[SHOWN:]:
            slowest = ours[-1]
            lines.append(
                f"\n{len(ours[SHOWN:])} slower ones are in the JSON; the slowest takes {fastest_ms(slowest):.3g} ms."
            )
        lines.append("")
    return "\n".join([*lines, origin(document), ""])


def origin(document: dict[str, Any]) -> str:
    """What a result was measured on, and when."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    gpu = (document["machine"].get("gpu") or {}).get("names", ["unknown GPU"])[0]
    return f"- {gpu}; {versions}; {document['created'][:10]}. {document.get('note', '')}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
