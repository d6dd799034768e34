# SPDX-License-Identifier: Apache-2.0
"""`gantk info`, as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import networks
from gantk.bundle import WHOLLY_NATIVE
from gantk.cli.exported import tell
from gantk.cli.output import prose

Gantk = Callable[..., Any]


def test_info_on_a_bundle(gantk: Gantk, bundle: Path) -> None:
    done = gantk("info", bundle)
    assert done.status == 0
    for word in ("tiny (dcgan)", "model.fp32.plain.onnx", "120.0", "onnxruntime 1 (cpu)", "-1..1"):
        assert word in done.out
    about = gantk("info", bundle, "--json", "-").json
    assert (about["kind"], about["damaged"]) == ("bundle", [])
    assert {file["path"] for file in about["files"]} == {
        "model.fp32.plain.onnx",
        "probe.safetensors",
        "checkpoint/generator.safetensors",
    }


def test_large_differences_are_written_out(
    gantk: Gantk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parities = [replace(networks.parity("onnxruntime"), max_abs=size) for size in (0.0042, 99.6, 12345.0)]
    made = networks.bundle(tmp_path / "x.gantk", parities={("fp32", "plain"): parities})
    shown = gantk("info", made.root).out
    tell(prose(), made, None)
    said = capsys.readouterr().err
    for size in ("0.0042", "100", "12,345"):
        assert f" {size} " in shown
        assert f"at most {size} off  ok" in said
    # The number is of one output, and others of larger values may be further off.
    outputs = (*made.manifest.outputs, replace(made.manifest.outputs[0], name="loss"))
    tell(prose(), replace(made, manifest=replace(made.manifest, outputs=outputs)), None)
    assert "at most 100 off in its worst output  ok" in capsys.readouterr().err


def test_info_says_what_is_fast_for_native_operators_alone(gantk: Gantk, tmp_path: Path) -> None:
    files = {("fp32", form): networks.generator() for form in ("plain", "rewritten")}
    networks.bundle(tmp_path / "x.gantk", files, fastest_on={("fp32", "rewritten"): ["onnxruntime cuda"]})
    manifest = tmp_path / "x.gantk" / "manifest.json"
    about = json.loads(manifest.read_text())
    about["variants"][1]["rewrites"] = ["normalization-to-native"]
    manifest.write_text(json.dumps(about))
    assert gantk("info", tmp_path / "x.gantk").out.count("onnxruntime cuda with gantk's operators") == 1
    about["variants"][1] |= {"rewrites": [WHOLLY_NATIVE], "fastest_on": ["onnxruntime"], "gains": {}}
    manifest.write_text(json.dumps(about))
    assert gantk("info", tmp_path / "x.gantk").out.count("onnxruntime with gantk's operators") == 1


def test_info_on_a_damaged_bundle(gantk: Gantk, bundle: Path) -> None:
    (bundle / "probe.safetensors").write_bytes(b"other")
    done = gantk("info", bundle, "--json", "-")
    assert done.status == 1
    assert done.json["damaged"] == ["probe.safetensors"]
    assert "damaged: probe.safetensors" in done.err


def test_info_on_an_onnx_file(gantk: Gantk, onnx_file: Path) -> None:
    about = gantk("info", onnx_file, "--json", "-").json
    assert (about["kind"], about["precision"], about["opsets"]) == ("onnx", "fp32", {"ai.onnx": 20})
    assert about["operators"]["ConvTranspose"] == 2
    assert "ConvTranspose 2" in gantk("info", onnx_file).out


def test_info_on_a_run(gantk: Gantk, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"network": {"size": 64}, "seed": 3}))
    (tmp_path / "run" / "checkpoints" / "step-0000500.safetensors").write_bytes(b"x")
    done = gantk("info", "run")
    assert done.status == 0
    assert "step-0000500" in done.out
    (tmp_path / "run" / "run.json").write_text("{")
    assert "is not JSON" in gantk("info", "run").err


def test_info_prints_no_control_characters(gantk: Gantk, tmp_path: Path) -> None:
    import onnx

    proto = onnx.load_from_string(networks.generator(metadata=False))
    proto.producer_name = "\x1b[2Jevil"
    (tmp_path / "evil.onnx").write_bytes(proto.SerializeToString())
    assert "\x1b" not in gantk("info", "evil.onnx").out


def test_names_may_hold_brackets(gantk: Gantk, tmp_path: Path) -> None:
    root = tmp_path / "net[/v2][b]x.gantk"
    networks.bundle(root)
    (root / "engines").mkdir()
    (root / "engines/tensorrt-rtx-fp16-sm_89.engine").write_bytes(bytes(2**20))
    done = gantk("info", root)
    assert done.status == 0
    assert root.name in done.out.replace("\n", "")
    assert "1 file of earlier exports, 1.00 MiB, which the next one removes" in done.out
    assert gantk("info", root, "--json", "-").json["unused"] == [
        {"path": "engines/tensorrt-rtx-fp16-sm_89.engine", "size_bytes": 2**20}
    ]
    done = gantk("run", root, "--backend", "onnxruntime")
    assert done.status == 0
    assert root.name in (done.out + done.err).replace("\n", "")


def test_a_link_to_itself_is_an_error(gantk: Gantk, tmp_path: Path) -> None:
    loop = tmp_path / "loop.gantk"
    loop.symlink_to(loop)
    for verb in (("info",), ("export", "--to", "tensorrt-rtx")):
        done = gantk(verb[0], loop, *verb[1:])
        assert done.status == 1
        assert "this is a bug" not in done.err
