# SPDX-License-Identifier: Apache-2.0
"""Tables, spinners and bars on terminals of any width."""

from __future__ import annotations

import re

import pytest

from gantk.cli.demo import DemoBar
from gantk.cli.output import print_table, prose, spinner


@pytest.mark.parametrize("width", [50, 70, 79, 80, 120])
def test_no_number_of_a_table_is_folded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """What stands below the first digits would be read as another number."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    cells = (
        "a long name of a tensor",
        "float32",
        "-0.32114",
        "0.0048773",
        f"{'path/' * 12}x.onnx",
        "1 x 3 x 64 x 64",
    )
    print_table(("name", "dtype", "min", "mean", "file", "shape"), [cells, cells])
    lines = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    for cell in cells[1:4]:
        assert sum(cell in line for line in lines) == 2
    assert max(map(len, lines)) <= max(width, 72)


def test_a_spinner_takes_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console = prose()
    with console.capture() as captured, spinner(console, "loading [/x]") as show:
        show("  fp32: `a[/v2]` is left out")
        console.print("net[/v2]")
    assert captured.get() == "net[/v2]\n"
    bar = DemoBar()
    bar.detail("  net[/v2] is written")
    bar.close()
    assert "  net[/v2] is written\n" in capsys.readouterr().err
