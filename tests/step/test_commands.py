# SPDX-License-Identifier: Apache-2.0
"""`gantk export --gatys`, and `gantk stylize` with what it makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantk.bundle import Bundle
from gantk.cli.main import main
from gantk.runtime.registry import status

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call gantk in an empty folder: its status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        done = main([str(argument) for argument in arguments])
        return (done, *capsys.readouterr())

    return call


def test_export_then_stylize(run: Run, vgg_file: Path, content: Path, style: Path, one_backend: None) -> None:
    done, out, err = run(
        "export", "--gatys", "--vgg", vgg_file, "-o", "x.gantk", "--style-layers", "relu1_1,relu2_1"
    )
    assert (done, out.strip()) == (0, "x.gantk")
    assert "model.fp32.adam.onnx" in err
    assert "gantk stylize CONTENT --style PICTURE --model x.gantk" in err
    config = Bundle.read("x.gantk").manifest.config
    assert (config["style_layers"], config["content_layer"]) == (["relu1_1", "relu2_1"], "relu2_2")
    done, out, err = run(
        "stylize", content, "--style", style, "--model", "x.gantk", "--size", 32, "--steps", 3, "-o", "a.png",
        "--optimizer", "adam", "--style-share", 2, "--backend", "onnxruntime", "--json", "-",
    )  # fmt: skip
    if not status("onnxruntime").works:
        pytest.skip("wants onnxruntime")
    assert done == 0, err
    facts = json.loads(out)
    assert (facts["size"], facts["steps"], facts["backend"]) == ([32, 24], 3, "onnxruntime")
    assert facts["settings"]["shares"] == [2.0]
    assert facts["losses"]["style"] > 0
    assert np.asarray(Image.open("a.png")).shape == (24, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export",), "nothing to export"),
        (("export", "--vgg", "x"), "--vgg wants --gatys"),
        (("export", "run", "--gatys"), "cannot go with --gatys"),
        (("export", "--gatys", "--tiles"), "--tiles cannot go with --gatys"),
        (("export", "--gatys", "--precision", "fp16"), "exported in fp32, bf16"),
        (("export", "--gatys", "--pooling", "min", "--style-layers", "relu1_1", "--content-layer", "relu1_1"), "'min'"),
    ],
)  # fmt: skip
def test_wrong_usage_of_export(run: Run, vgg_file: Path, arguments: tuple[str, ...], message: str) -> None:
    given = (*arguments, "--vgg", vgg_file) if arguments[1:] == ("--gatys", "--pooling") else arguments
    done, _, err = run(*given)
    assert (done, message in err) == (2, True), err


def test_wrong_usage_of_stylize(run: Run, bundle: Path, content: Path, style: Path) -> None:
    for arguments, message in (
        ((content,), "--style is missing"),
        ((content, content, "--style", style), "one picture at a time"),
        ((content, "--style", style, "--pooling", "average"), "--pooling cannot go with an exported step"),
        ((content, "--style", style, "--keep-colors"), "--keep-colors cannot go"),
        ((content, "--style", style, "--preset", "none"), "there is no preset 'none'"),
        ((content, "--style", style, "--style-share", 1, "--style-share", 2), "2 shares"),
    ):
        done, _, err = run("stylize", *arguments, "--model", bundle)
        assert (done, message in err) == (2, True), err
    done, _, err = run("stylize", content, "--style", style.parent / "none.png", "--model", bundle)
    assert (done, "none.png` does not exist" in err) == (1, True)
    assert not list(Path().glob("*stylized*"))
