# SPDX-License-Identifier: Apache-2.0
"""Write the tables of the documents from benchmarks/results/*.json; --check only looks."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BRIEF = ROOT / "README.md"
"""Has no goals and nothing of the runner's own work: those are in the other document."""

DOCUMENTS = (HERE / "README.md", ROOT / "docs/foreign.md", ROOT / "kernels/onnxruntime/README.md", BRIEF)
ON_A_GPU = ("dcgan64-cuda", "dcgan128-cuda", "style512-cuda", "style1024-cuda")
COLUMNS = ("", "contender", "p50 ms", "95 % CI", "pictures/s", "vs torch", "peak MiB", "load ms", "parity")

_MARKED = re.compile(r"(<!-- results:(?P<name>[a-z0-9_-]+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a table is stale")
    arguments = parser.parse_args()
    texts = {path: path.read_text() for path in DOCUMENTS if path.is_file()}
    made = {path: filled(text, brief=path == BRIEF) for path, text in texts.items()}
    stale = [path for path, text in texts.items() if text != made[path]]
    for path in stale:
        print(f"{'stale' if arguments.check else 'written'}: {path.relative_to(ROOT)}", file=sys.stderr)
        if not arguments.check:
            path.write_text(made[path])
    return 1 if stale and arguments.check else 0


def filled(text: str, *, brief: bool = False) -> str:
    """`text` with what stands between each pair of markers made anew; see `section`."""

    def fill(match: re.Match[str]) -> str:
        if match["name"] == "on-a-gpu":
            return f"{match[1]}{on_a_gpu()}{match[3]}"
        bodies = [section(json.loads(path.read_text()), brief=brief) for path in results_of(match["name"])]
        body = "\n".join(bodies) or "Not measured yet.\n"
        return f"{match[1]}{body}{match[3]}"

    return _MARKED.sub(fill, text)


def results_of(name: str) -> list[Path]:
    """The result of this name; of the kernels, those of every GPU."""
    found = HERE / "results" / f"{name}.json"
    if name == "kernels":
        return sorted(found.parent.glob("kernels-*.json"))
    return [found] if found.is_file() else []


def section(document: dict[str, Any], *, brief: bool = False) -> str:
    """One suite's result: a table for each case and one of the GPU's part, what to use, and what it was measured on.

    Args:
        document: The result.
        brief: Leave out the goals and the runner's own work.
    """
    if document.get("benchmark") == "kernels":
        return kernels(document)
    if document.get("benchmark") == "cuda_settings":
        from cuda_settings import section as section_of_settings

        return section_of_settings(document)
    if document.get("benchmark") == "foreign":
        from foreign import section as section_of_files

        return section_of_files(document)
    if document.get("benchmark") == "passes":
        from passes import section as section_of_passes

        return section_of_passes(document)
    if document.get("benchmark") == "gpu_kernels":
        from gpu_kernels import section as section_of_kernels

        return section_of_kernels(document)
    from gantk.bench.report import markdown_gpu_table, markdown_table
    from gantk.bench.view import cases_of, gpu_rows, machine_line, rows_of

    lines: list[str] = []
    for case in cases_of(document):
        lines += [
            f"**{document['title']}: {case}**",
            "",
            *markdown_table(rows_of(document, case), COLUMNS),
            "",
        ]
        if on_gpu := gpu_rows(document, case):
            lines += [*markdown_gpu_table(on_gpu), ""]
    lines += [f"- {line}" for line in document["recommendation"]]
    if not brief:
        lines += [f"- Goal {verdict(claim)}: {claim['text']}." for claim in document["claims"]]
        lines += [overhead(entry) for entry in document["overhead"]]
    lines += [f"- Warning: {line}." for line in document["warnings"]]
    measured = f"{document['created'][:10]}, commit {document['commit'] or 'unknown'}"
    return "\n".join([*lines, f"- {machine_line(document)}; {measured}.", ""])


def on_a_gpu() -> str:
    """What the suites on a GPU found in fp16, a line each case: gantk's fastest file and PyTorch."""
    from gantk.bench.verdict import is_right
    from gantk.bench.view import cases_of, machine_line, shape_label

    paths = [path for name in ON_A_GPU for path in results_of(name)]
    documents = [json.loads(path.read_text()) for path in paths]
    if not documents:
        return "Not measured yet.\n"
    lines = [
        "| fp16, ms | ONNX Runtime by gantk | PyTorch, eager as it comes (TF32) | PyTorch's best fp16 |",
        "| :--- | ---: | ---: | ---: |",
    ]
    for document in documents:
        for case in cases_of(document):
            rows = [row for row in document["rows"] if shape_label(row) == case and is_right(row)]
            torch = [row for row in rows if row["backend"].startswith("torch")]
            ours = [row for row in rows if row["precision"] == "fp16" and row not in torch]
            eager = [row for row in torch if (row["precision"], row["mode"]) == ("tf32", "eager")]
            half = [row for row in torch if row["precision"] == "fp16"]
            cells = [f"{document['title'].removesuffix(', on a GPU')}: {case}", _p50(ours)]
            cells += [f"{_p50(each)} ({_ratio(each, ours):.1f}x)" for each in (eager, half)]
            lines.append(f"| {' | '.join(cells)} |")
    machines = dict.fromkeys(f"{machine_line(each)}; {each['created'][:10]}" for each in documents)
    return "\n".join([*lines, "", *(f"- {machine}." for machine in machines), ""])


def _fastest(rows: list[dict[str, Any]]) -> float:
    return min(float(row["latency_ms"]["p50"]) for row in rows)


def _p50(rows: list[dict[str, Any]]) -> str:
    return f"{_fastest(rows):.3g}"


def _ratio(rows: list[dict[str, Any]], ours: list[dict[str, Any]]) -> float:
    return _fastest(rows) / _fastest(ours)


def verdict(claim: dict[str, Any]) -> str:
    """Of a claim: without a row of each side, as where a CPU lacks a precision, nothing is known."""
    if claim["measured"] is None:
        return "not measured"
    return "met" if claim["holds"] else "NOT met"


def kernels(document: dict[str, Any]) -> str:
    """The result of `kernels/run.py`, which has columns of its own."""
    folder = str(Path(__file__).resolve().parent / "kernels")
    if folder not in sys.path:
        sys.path.append(folder)
    from gpu_table import section as section_of_kernels

    return section_of_kernels(document)


def overhead(entry: dict[str, Any]) -> str:
    """What the runner costs, in a sentence."""
    low, high = entry["overhead_ci95"]
    return (
        f"- The runner's own work over {entry['backend']}: {entry['own_us']:.1f} us a call, {entry['share']:.1%} "
        f"of the {entry['direct_p50_ms']:.3g} ms that a direct call takes at batch 1 (calls in turns, with and "
        f"without the runner: {entry['overhead']:+.1%}, 95 % CI {low:+.1%} to {high:+.1%})."
    )


if __name__ == "__main__":
    sys.exit(main())
