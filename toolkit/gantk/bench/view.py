# SPDX-License-Identifier: Apache-2.0
"""What every form of a report shows of a benchmark's JSON document: which rows, in which order, and as what text."""

from __future__ import annotations

from typing import Any

from gantk.bench.machine import NATIVE
from gantk.bench.verdict import is_right
from gantk.runtime.parity import PSNR_CAP_DB

Document = dict[str, Any]
Row = dict[str, Any]

HEADINGS = (
    "",
    "contender",
    "p50 ms",
    "95 % CI",
    "p90",
    "p99",
    "spread",
    "pictures/s",
    "vs torch",
    "peak MiB",
    "file MiB",
    "load ms",
    "parity",
)
NOTES = (
    "p50: the median wall time of one call, with its 95 % confidence interval over rounds; p90 and p99 only where "
    "at least 10 calls lie beyond. spread: standard deviation / mean of single calls. vs torch: against torch's "
    "best in the same precision, paired by round. peak: resident memory of the contender's whole process. "
    "load: opening the file and the first call, without starting Python and importing the library. "
    "parity: against float32, in dB."
)

GPU_HEADINGS = (
    "",
    "contender",
    "graph",
    "wall ms",
    "device ms",
    "enqueue ms",
    "copy in ms",
    "copy out ms",
    "GPU MiB",
)
GPU_NOTES = (
    "On the GPU, medians of calls of their own: device is the network between two events of CUDA, enqueue the "
    "processor's time to launch it, which the device may have to wait for; copies are between pinned memory and the "
    "GPU. Wall is the p50 above: a call on arrays that stay on the GPU and the wait for its end. Graph: whether that "
    "call is a CUDA graph; older results do not tell. GPU MiB: what the runner holds there, where it knows."
)


def cases_of(document: Document) -> list[str]:
    """The labels of the cases that were measured, in order."""
    measured = {shape_label(row) for row in document["rows"]}
    return [case for case in document["settings"]["cases"] if case in measured]


def rows_of(document: Document, case: str, *, everything: bool = False) -> list[Row]:
    """The rows of one case: by rank, then those without one; PyTorch's slower modes only with `everything`."""
    rows = [row for row in document["rows"] if shape_label(row) == case]
    if not everything:
        rows = [row for row in rows if row["best_mode"] or not is_right(row)]
    return sorted(rows, key=lambda row: (row["rank"] or 10**6, row["status"] != "ok", p50_ms(row)))


def shape_label(row: Row) -> str:
    """The case of a row."""
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in row["shape"].items())


def cells(row: Row) -> dict[str, str]:
    """One row as text, by heading."""
    parity = row["parity"]
    verdict = "-" if parity is None else _decibels(parity["psnr_db"]) if parity["passed"] else "WRONG"
    text = dict.fromkeys(HEADINGS, "-") | {
        "": str(row["rank"] or ""),
        "contender": row["label"],
        "file MiB": f"{row['artefact_bytes'] / 2**20:.1f}",
        "load ms": "-" if row["load_ms"] is None else f"{row['load_ms']:.0f}",
        "parity": verdict,
    }
    if row["status"] != "ok":
        return text | {"p50 ms": row["status"]}
    latency, gain = row["latency_ms"], row["speedup"]
    interval = latency["p50_ci95"]
    return text | {
        "p50 ms": number(latency["p50"]),
        "95 % CI": "-" if interval is None else f"{number(interval[0])} - {number(interval[1])}",
        "p90": number(latency["p90"]),
        "p99": number(latency["p99"]),
        "spread": f"{latency['cv']:.0%}" + (" !" if row["noisy"] else ""),
        "pictures/s": f"{row['throughput']:,.0f}" if row["throughput"] >= 10 else number(row["throughput"]),
        "vs torch": "-" if gain is None else f"{gain['factor']:.2f}x",
        "peak MiB": f"{row['memory_bytes']['peak_rss'] / 2**20:.0f}",
    }


def _decibels(psnr_db: float) -> str:
    return "equal" if psnr_db >= PSNR_CAP_DB else f"{psnr_db:.0f} dB"


def number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def gpu_rows(document: Document, case: str) -> list[Row]:
    """The rows of a case that know where their time goes on a GPU; older documents have none."""
    return [row for row in rows_of(document, case, everything=True) if row.get("gpu_ms")]


def gpu_cells(row: Row) -> list[str]:
    """One of `gpu_rows` as text, by `GPU_HEADINGS`."""
    parts = row["gpu_ms"]
    values = [
        row["latency_ms"]["p50"],
        *(parts[name] for name in ("device", "enqueue", "copy_in", "copy_out")),
    ]
    graph = {True: "yes", False: "no", None: "-"}[row.get("graph")]
    held = row["memory_bytes"].get("gpu")
    return [
        *(str(row["rank"] or ""), row["label"], graph),
        *map(number, values),
        "-" if held is None else f"{held / 2**20:.0f}",
    ]


def commands(document: Document, case: str) -> list[str]:
    """The vendor's command for each row of a case that has one."""
    rows = rows_of(document, case, everything=True)
    return [row["reproduce"] for row in rows if row.get("reproduce")]


def failures(document: Document) -> list[str]:
    """Every row that failed or is wrong, and every contender that was skipped, with the reason."""
    lines = []
    for row in document["rows"]:
        if row["status"] != "ok":
            lines.append(f"{row['label']} ({shape_label(row)}) failed: {row['reason']}")
        elif not row["parity"]["passed"]:
            lines.append(
                f"{row['label']} ({shape_label(row)}) is wrong and not ranked: {row['parity']['reason']}"
            )
        if row.get("gpu_reason"):
            lines.append(f"{row['label']} ({shape_label(row)}) has no time on the GPU: {row['gpu_reason']}")
    return lines + [f"{skip['name']} skipped: {skip['reason']}" for skip in document["skipped"]]


def machine_line(document: Document) -> str:
    """The machine and the versions that took part, on one line."""
    machine, settings = document["machine"], document["settings"]
    packages = [
        name
        for name in (
            "torch",
            "onnxruntime",
            "onnxruntime-gpu",
            NATIVE,
            "openvino",
            "tensorrt",
            "tensorrt-rtx",
        )
        if name in document["versions"]
    ]
    where = f"{machine['cpu']}, {machine['usable_cores']} of {machine['cores']} cores"
    virtual = ", virtual machine" if machine["virtual"] else ""
    versions = ", ".join(f"{name} {document['versions'][name]}" for name in packages)
    on_gpu = settings["device"] == "cuda" and machine["gpu"]
    device = machine["gpu"]["names"][0] if on_gpu else settings["device"]
    return f"{where}{virtual}; {settings['threads']} threads on {device}; {versions}"


def p50_ms(row: Row) -> float:
    return float(row["latency_ms"]["p50"]) if row["latency_ms"] else float("inf")
