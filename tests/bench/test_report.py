# SPDX-License-Identifier: Apache-2.0
"""What people see: the table, Markdown, the page and its chart."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import pytest
from bench_helpers import make_document, make_row
from rich.console import Console

from gantk.bench import report


@pytest.fixture
def document() -> dict[str, Any]:
    wrong = make_row("openvino bf16", 0.2, rank=None, best_mode=False)
    wrong["parity"] = {**wrong["parity"], "passed": False, "reason": "12.0 dB PSNR, at least 35 dB wanted"}
    failed = make_row(
        "onnxruntime int8", 1.0, rank=None, best_mode=False, status="failed", reason="killed by SIGABRT"
    )
    failed.update(latency_ms=None, parity=None, memory_bytes=None, load_ms=None, throughput=None)
    gain = {"factor": 2.5, "ci95": [2.4, 2.6], "against": "torch eager fp32"}
    rows = [
        make_row("torch eager fp32", 2.5, rank=2),
        make_row("torch channels_last fp32", 2.8, rank=None, best_mode=False),
        make_row("onnxruntime fp32", 1.0, rank=1, speedup=gain),
        wrong,
        failed,
    ]
    return make_document(rows)


def render(document: dict[str, Any], width: int, *, everything: bool = False) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(report.table(document, width=width, everything=everything))
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 110, 200])
def test_the_table_fits_and_keeps_what_matters(document: dict[str, Any], width: int) -> None:
    text = render(document, width)
    assert max(map(len, text.splitlines())) <= width
    for part in ("onnxruntime", "2.50x", "WRONG", "failed"):
        assert part in text
    assert "channels_last" not in text


def test_names_may_hold_brackets() -> None:
    row = make_row("onnxruntime [b] fp32", 1.0, rank=1)
    document = make_document([row])
    document["model"]["name"] = "net[/v2]"
    document["warnings"] = ["x[/v2]: busy"]
    shown = render(document, 200)
    assert all(text in shown for text in ("net[/v2], ", "onnxruntime [b] fp32", "warning: x[/v2]: busy"))


def test_all_shows_the_slower_modes(document: dict[str, Any]) -> None:
    assert "torch channels_last fp32" in render(document, 200, everything=True)


def test_markdown_lists_everything_that_was_left_out(document: dict[str, Any]) -> None:
    text = report.markdown(document)
    assert "| 1 | onnxruntime fp32 | 1 | 0.99 - 1.01 |" in text
    assert "killed by SIGABRT" in text
    assert "is wrong and not ranked: 12.0 dB PSNR" in text
    assert "onnxruntime fp16 skipped: it computes that in fp32" in text
    assert "A processor, 2 of 4 cores, virtual machine; 2 threads on cpu; torch 2.13" in text


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("src", "href")]
        assert tag not in ("script", "link", "iframe")


def test_the_page_needs_nothing_beside_it(document: dict[str, Any]) -> None:
    text = report.html(document)
    links = Links()
    links.feed(text)
    assert links.found == []
    assert "flowers &lt;b&gt;" in text
    assert "<b>" not in text
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_the_chart_draws_to_scale(document: dict[str, Any]) -> None:
    root = ElementTree.fromstring(report.chart_svg(document))  # noqa: S314
    bars = [float(e.get("width", 0)) for e in root if e.tag.endswith("rect")]
    assert len(bars) == 3, "two ranked and a wrong one; a failed one has no bar"
    assert bars[1] / bars[0] == pytest.approx(2.5, rel=0.01)
    texts = [e.text or "" for e in root if e.tag.endswith("text")]
    assert "0.2 ms, wrong" in texts
    assert texts.index("onnxruntime fp32") < texts.index("torch eager fp32")
