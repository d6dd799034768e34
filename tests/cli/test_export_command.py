# SPDX-License-Identifier: Apache-2.0
"""What `gantk export` makes of its arguments, before anything is exported or built."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundle_engines import make_engine
from gantk.bundle import Bundle, Writer
from gantk.cli.exported import manifest_of, tell
from gantk.cli.output import prose
from gantk.runtime.products import PRODUCTS

Gantk = Callable[..., Any]

needs_rtx = pytest.mark.skipif(
    PRODUCTS["tensorrt-rtx"].version is None, reason="wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'"
)

NETWORK_OPTIONS = (
    "--pictures",
    "--no-pictures",
    "--no-rewrite",
    "--tiles",
    "--psnr-min 0",
    "--calibrate nowhere",
    "--calibrate-count 5",
    "--calibration banana",
)


@needs_rtx
@pytest.mark.parametrize("given", NETWORK_OPTIONS)
def test_options_of_networks_are_refused_for_engines(gantk: Gantk, bundle: Path, given: str) -> None:
    done = gantk("export", bundle, "--to", "tensorrt-rtx", *given.split())
    option = given.split(maxsplit=1)[0]
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {option} tells how ONNX files are made")
    assert f"in: {option}\n" in done.err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--pictures", "--pictures is of networks that gantk traces"),
        ("--no-pictures", "--no-pictures is of networks that gantk traces"),
        ("--tiles", "--tiles is of networks that gantk traces"),
        ("--calibrate-count 5", "--calibrate-count is for int8 and fp8, and asked for are fp32"),
        ("--calibration entropy", "--calibration is for int8 and fp8, and asked for are fp32"),
    ],
)
def test_options_that_say_nothing_of_a_file_are_refused(
    gantk: Gantk, onnx_file: Path, given: str, says: str
) -> None:
    done = gantk("export", onnx_file, *given.split())
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {says}")


@pytest.mark.parametrize("to", ["onnx", "tensorrt-rtx"])
def test_networks_of_gantk_draw_no_noise(gantk: Gantk, bundle: Path, to: str) -> None:
    done = gantk("export", bundle, "--noise", "zero", "--to", to)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: --noise is for .onnx files")
    done = gantk("export", "--gatys", "--noise", "zero")
    assert (done.status, "--noise cannot go with --gatys" in done.err) == (2, True)


def test_a_file_without_noise_leaves_nothing_behind(gantk: Gantk, onnx_file: Path) -> None:
    done = gantk("export", onnx_file, "--noise", "constant", "-o", "x.gantk")
    assert (done.status, done.out) == (2, "")
    assert "draws no noise: it yields the same in every run" in done.err
    assert not Path("x.gantk").exists()


@pytest.mark.parametrize("given", NETWORK_OPTIONS[-3:])
def test_calibration_is_refused_where_nothing_is_quantised(gantk: Gantk, bundle: Path, given: str) -> None:
    done = gantk("export", bundle, "--precision", "fp32,bf16", *given.split())
    assert done.status == 2
    assert f"{given.split(maxsplit=1)[0]} is for int8 and fp8, and asked for are fp32, bf16" in done.err


@pytest.mark.parametrize("given", ["run", *NETWORK_OPTIONS[:4], *NETWORK_OPTIONS[-3:]])
def test_options_of_networks_are_refused_for_a_step(gantk: Gantk, given: str) -> None:
    done = gantk("export", "--gatys", *given.split())
    assert (done.status, "cannot go with --gatys" in done.err) == (2, True)


@pytest.mark.parametrize("name", ["tiny.onnx", "TINY.ONNX", "tiny", "tiny.model"])
def test_an_onnx_file_is_known_whatever_it_is_called(gantk: Gantk, onnx_file: Path, name: str) -> None:
    path = onnx_file.rename(onnx_file.with_name(name))
    for given in ((), ("--to", "onnx")):
        done = gantk("export", path, "--no-rewrite", "--force", "-o", "x.gantk", "--json", "-", *given)
        assert done.status == 0
        assert [v["file"]["path"] for v in done.json["manifest"]["variants"]] == ["model.fp32.onnx"]
    assert gantk("generate", path, "-n", 1, "-o", "x.png").status == 0


def test_an_onnx_file_is_brought_to_other_precisions(gantk: Gantk, onnx_file: Path) -> None:
    done = gantk(
        "export", onnx_file, "--precision", "fp16,bf16", "--no-rewrite", "--psnr-min", "30", "--json", "-"
    )
    assert done.status == 0
    made = done.json["manifest"]["variants"]
    assert [variant["precision"] for variant in made] == ["fp32", "fp16", "bf16"]
    assert "against onnxruntime float32" in done.err


@needs_rtx
def test_engines_are_built_of_a_file_without_a_suffix(gantk: Gantk, onnx_file: Path) -> None:
    path = onnx_file.rename(onnx_file.with_name("bare"))
    done = gantk("export", path, "--to", "tensorrt-rtx", "--target", "sm_89", "--no-rewrite", "--json", "-")
    assert (done.status, done.json["bundle"]) == (0, f"{path}.gantk")
    assert sorted(done.json["new_files"]) == [
        "engines/tensorrt-rtx-fp32-sm_89.engine",
        "model.fp32.onnx",
        "probe.safetensors",
    ]


@needs_rtx
@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("none.onnx --to tensorrt-rtx", 1, "error: `none.onnx` does not exist\n"),
        ("none", 1, "error: `none` does not exist\n"),
        ("", 2, "a run folder, a checkpoint file, a bundle or an .onnx file is wanted"),
        ("tiny.gantk --to tensorrt-rtx --precision fp64", 2, "--precision names 'fp64'; known are fp32,"),
        ("tiny.gantk --to tensorrt-rtx --precision ,", 2, "--precision names nothing"),
        ("tiny.gantk --precision fp32,fp64", 2, "--precision names 'fp64'"),
        ("tiny.onnx --to tensorrt-rtx --precision banana", 2, "--precision names 'banana'"),
        ("tiny.onnx --precision fp16 --calibrate-count 3", 2, "--calibrate-count is for int8 and fp8"),
        ("tiny.onnx --no-rewrite --calibrate .", 2, "--calibrate is for what is made of a file"),
        ("tiny.onnx --precision int8 --calibrate none -o b.gantk", 1, "`none` does not exist"),
        ("tiny.onnx --no-rewrite --psnr-min 40", 2, "--psnr-min is for what is made of a file"),
        ("tiny.gantk --to tensorrt-rtx --workspace 99999999999999", 2, "less than or equal to 16777216"),
        ("tiny.gantk --to tensorrt-rtx --engine-options fast", 2, "in: --engine-options"),
        ("tiny.gantk -o flowers.onnx", 2, "hint: -o flowers.gantk\n"),
        ("--gatys -o step.engine", 2, "hint: -o step.gantk\n"),
        ("tiny.gantk --to tensorrt-rtx -o b.gantk", 2, "or export again with --to onnx,tensorrt-rtx"),
        ("theirs.gantk --to tensorrt-rtx -o b.gantk", 2, "or add them to a copy of the folder"),
    ],
)
@pytest.mark.usefixtures("bundle", "onnx_file")
def test_what_is_refused(gantk: Gantk, tmp_path: Path, line: str, status: int, says: str) -> None:
    if line.startswith("theirs"):
        _without_checkpoint(tmp_path / "tiny.gantk", tmp_path / "theirs.gantk")
    done = gantk("export", *line.split())
    assert (done.status, says in done.err) == (status, True), done.err
    assert done.err.count("error: ") == 1
    assert not (tmp_path / "b.gantk").exists()


def test_a_bundle_that_cannot_be_exported_again_gains_engines(
    gantk: Gantk, bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="a network is exported with PyTorch")
    _without_checkpoint(bundle, tmp_path / "theirs.gantk")
    done = gantk("export", "theirs.gantk", "-o", "b.gantk")
    assert (done.status, "holds no checkpoint" in done.err) == (1, True)
    assert "hint: gantk export theirs.gantk --to tensorrt-rtx builds engines" in done.err


def _without_checkpoint(source: Path, root: Path) -> None:
    shutil.copytree(source, root)
    with Writer(root, force=True) as writer:
        writer.commit(replace(Bundle.read(root).manifest, checkpoint=None))


def test_json_that_cannot_be_written_is_refused_first(
    gantk: Gantk, bundle: Path, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gantk.runtime.registry.open", None)  # It gets nowhere near.
    (bundle.parent / "file").touch()
    before = sorted(bundle.parent.rglob("*"))
    for target in ("tiny.gantk", "file/x.json", ""):
        done = gantk("run", onnx_file, "--json", target)
        assert done.status == 1
        assert done.err.startswith("error: cannot write `"), done.err
        assert done.err.count("error: ") == 1
    assert sorted(bundle.parent.rglob("*")) == before


def test_what_is_new_is_told_and_what_is_gone(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two engines come one after the other; then the files are made anew, and they go."""

    def add(target: str) -> str:
        before = manifest_of(bundle)
        assert before is not None
        with Writer(bundle, force=True) as writer:
            engine = make_engine(before.variants[0], {"latent": (1, 4)}, targets=(target,))
            file = writer.add(f"engines/{target}.engine", target.encode())
            engines = (*before.engines, replace(engine, file=file))
            made = writer.commit(replace(before, engines=engines))
        tell(prose(), made, None, before)
        return capsys.readouterr().err

    assert "sm_86.engine" in add("sm_86")
    second = add("sm_89")
    assert "sm_89.engine" in second
    assert "sm_86" not in second
    assert "model.fp32" not in second
    before = manifest_of(bundle)
    assert before is not None
    with Writer(bundle, force=True) as writer:
        made = writer.commit(replace(before, engines=()))
    tell(prose(), made, None, before)
    gone = capsys.readouterr().err
    assert gone.startswith("gone: tensorrt-rtx")
    assert "for sm_86; " in gone
    assert f"for sm_89; gantk export {bundle} --to tensorrt-rtx builds engines" in gone
