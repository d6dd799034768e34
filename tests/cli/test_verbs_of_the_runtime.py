# SPDX-License-Identifier: Apache-2.0
"""`gantk generate`, `run`, `info` and `doctor`, as a user calls them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import networks
from gantk.bundle import ENGINE_BACKENDS, WHOLLY_NATIVE
from gantk.cli.demo import DemoBar
from gantk.cli.exported import tell
from gantk.cli.output import print_table, prose, spinner
from gantk.runtime import registry
from gantk.runtime.operators import OPERATORS
from gantk.runtime.registry import BackendStatus
from gantk.tensors import TensorSpec

Gantk = Callable[..., Any]
WORKING = [name for name in registry.BACKENDS if registry.status(name).works]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


# generate


def test_the_same_seed_gives_the_same_pictures_everywhere(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    sheets = []
    for backend in WORKING:
        assert (
            gantk(
                "generate", bundle, "-n", 5, "--seed", 3, "-o", f"{backend}.png", "--backend", backend
            ).status
            == 0
        )
        sheets.append(pixels(tmp_path / f"{backend}.png"))
    assert gantk("generate", bundle, "-n", 5, "--seed", 3, "-o", "one.png", "--batch", 1).status == 0
    sheets.append(pixels(tmp_path / "one.png"))
    assert all(np.abs(sheet - sheets[0]).max() <= 1 for sheet in sheets)
    assert gantk("generate", bundle, "-n", 5, "--seed", 4, "-o", "other.png").status == 0
    assert np.abs(pixels(tmp_path / "other.png") - sheets[0]).max() > 50


def test_single_pictures_are_those_of_the_grid(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    assert gantk("generate", bundle, "-n", 3, "-o", "grid.png", "--columns", 3).status == 0
    done = gantk("generate", bundle, "-n", 3, "-o", "single/", "--json", "-")
    assert done.json["files"] == [f"single/000{index}.png" for index in range(3)]
    sheet = pixels(tmp_path / "grid.png")
    for index in range(3):
        cell = sheet[2:10, 2 + 10 * index : 10 + 10 * index]
        np.testing.assert_array_equal(pixels(tmp_path / "single" / f"000{index}.png"), cell)


def test_more_pictures_begin_with_the_same(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    gantk("generate", bundle, "-n", 2, "-o", "few/")
    gantk("generate", bundle, "-n", 20, "-o", "many/")
    for index in range(2):
        few, many = (pixels(tmp_path / name / f"000{index}.png") for name in ("few", "many"))
        assert np.abs(few - many).max() <= 1


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_walk_is_animated_and_closed(gantk: Gantk, bundle: Path, tmp_path: Path, suffix: str) -> None:
    done = gantk("generate", bundle, "--walk", "-n", 4, "-o", f"walk.{suffix}", "--frames", 24, "--stops", 3)
    assert done.status == 0, done.err
    with Image.open(tmp_path / f"walk.{suffix}") as opened:
        assert opened.n_frames == 24
        assert opened.size == (22, 22)
        frames = []
        for index in range(24):
            opened.seek(index)
            frames.append(np.asarray(opened.convert("RGB")).astype(int))
    steps = [np.abs(frames[index] - frames[index - 1]).mean() for index in range(24)]
    assert max(steps) < np.abs(frames[0] - frames[12]).mean()  # Also from the last frame to the first.
    assert max(steps) > 0


def test_pictures_of_bytes_are_taken_as_they_are(gantk: Gantk, tmp_path: Path) -> None:
    (tmp_path / "f.onnx").write_bytes(networks.generator())
    (tmp_path / "u.onnx").write_bytes(networks.generator(pictures=True))
    assert gantk("generate", "f.onnx", "-o", "f.png", "-n", 4).status == 0
    assert gantk("generate", "u.onnx", "-o", "u.png", "-n", 4).status == 0
    assert np.abs(pixels(tmp_path / "f.png") - pixels(tmp_path / "u.png")).max() <= 1


def test_truncation_of_zero_is_one_picture(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    assert gantk("generate", bundle, "-n", 3, "-o", "t/", "--truncation", 0).status == 0
    first = pixels(tmp_path / "t" / "0000.png")
    assert all(np.array_equal(first, pixels(tmp_path / "t" / f"000{index}.png")) for index in range(3))


def test_a_fixed_batch_is_filled_up(gantk: Gantk, tmp_path: Path) -> None:
    import onnx

    proto = onnx.load_from_string(networks.generator(metadata=False))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    (tmp_path / "fixed.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "free.onnx").write_bytes(networks.generator())
    assert gantk("generate", "fixed.onnx", "-n", 6, "-o", "fixed.png").status == 0
    assert gantk("generate", "free.onnx", "-n", 6, "-o", "free.png").status == 0
    assert np.abs(pixels(tmp_path / "fixed.png") - pixels(tmp_path / "free.png")).max() <= 1


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("nothing", 1, "does not exist"),
        ("tiny.gantk -o grid.bmp", 2, "known are .png, .webp, .jpg, .jpeg"),
        ("tiny.gantk --walk -o grid.png", 2, "known are .gif, .webp"),
        ("tiny.gantk --walk -o walk.gif --fps 90", 2, "up to 50"),
        ("tiny.gantk -o taken.png", 1, "`taken.png` exists"),
        ("tiny.gantk -o taken.png/deep.png", 1, "cannot write"),
        ("tiny.gantk --each -o taken.png", 2, "single pictures want a folder"),
        ("tiny.gantk --backend jax", 2, "'jax' is not a backend"),
        ("tiny.gantk --precision fp4", 2, "'fp4' is not a precision"),
        ("tiny.gantk --precision int8", 1, "no int8 (plain) variant"),
        ("plain.onnx", 1, "is not a generator"),
        ("cut.onnx", 1, "is not an ONNX file"),
        ("a-run --precision fp16", 2, "PyTorch paints it"),
    ],
)
def test_generate_refuses(gantk: Gantk, tmp_path: Path, line: str, status: int, says: str) -> None:
    from gantk.tensors import TensorSpec

    networks.bundle(tmp_path / "tiny.gantk")
    (tmp_path / "taken.png").write_text("mine")
    (tmp_path / "a-run").mkdir()
    (tmp_path / "cut.onnx").write_bytes(networks.generator()[:-700])
    spec = [TensorSpec(name, "float32", ("N", 3)) for name in "xy"]
    (tmp_path / "plain.onnx").write_bytes(networks.simple("Relu", spec[:1], spec[1]))
    before = {path.name for path in tmp_path.iterdir()}
    done = gantk("generate", *line.split())
    assert says in done.err
    assert done.status == status
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "taken.png").read_text() == "mine"


def test_force_replaces(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.png").write_text("mine")
    assert gantk("generate", bundle, "-o", "taken.png", "--force", "-n", 1).status == 0
    assert pixels(tmp_path / "taken.png").shape == (12, 12, 3)


def test_a_missing_backend_exits_with_3(gantk: Gantk, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = BackendStatus("openvino", None, (), "it is not installed", "pip install 'gantk[openvino]'")
    monkeypatch.setattr(registry._module("openvino"), "probe", lambda: status)
    for verb in ("generate", "run"):
        done = gantk(verb, bundle, "--backend", "openvino", "--json", "-")
        assert (done.status, done.json["hint"]) == (3, "pip install 'gantk[openvino]'")


# run


def test_run_on_files(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", networks.latents(3))
    done = gantk("run", bundle, "--input", "latent=z.npy", "--output-dir", "out", "--json", "-")
    assert done.status == 0
    saved = np.load(tmp_path / "out" / "picture.npy")
    (output,) = (row for row in done.json["tensors"] if row["kind"] == "output")
    assert output["shape"] == list(saved.shape) == [3, 3, 8, 8]
    assert output["max"] == pytest.approx(saved.max())
    assert output["mean"] == pytest.approx(saved.mean(), abs=1e-6)
    assert done.json["random"] == []


def test_run_on_random_values(gantk: Gantk, bundle: Path) -> None:
    first, again, other = (
        gantk("run", bundle, "--shape", "latent=5x4", "--seed", seed, "--json", "-") for seed in (1, 1, 2)
    )
    assert first.json["random"] == ["latent"]
    assert first.json["tensors"][0]["shape"] == [5, 4]
    assert first.json == again.json != other.json
    assert "random values for latent" in first.err
    assert "3 x 8 x 8" in gantk("run", bundle).out


def test_run_on_a_picture(gantk: Gantk, tmp_path: Path) -> None:
    spec = [TensorSpec(name, "uint8", ("N", "H", "W", 3)) for name in ("picture", "y")]
    (tmp_path / "p.onnx").write_bytes(networks.simple("Identity", spec[:1], spec[1]))
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(tmp_path / "p.png")
    assert gantk("run", "p.onnx", "-i", "picture=p.png", "-o", "out").status == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy").ravel(), np.arange(60))
    assert "wants an .npy file" in gantk("run", _latent(tmp_path), "-i", "latent=p.png").err


def test_sizes_that_a_network_does_not_take_are_to_be_chosen(gantk: Gantk, tmp_path: Path) -> None:
    """A size that is free is 1 where nothing says more, which few networks of others take."""
    specs = [TensorSpec(name, "float32", ("N", 3, "H", "W")) for name in ("picture", "y")]
    halves = {"shape": np.array([0, 3, 2, -1])}
    (tmp_path / "halves.onnx").write_bytes(networks.simple("Reshape", specs[:1], specs[1], halves))
    done = gantk("run", "halves.onnx")
    assert done.status == 1
    assert "hint: choose sizes that it takes, for example --shape picture=1x3x512x512" in done.err
    assert gantk("run", "halves.onnx", "--shape", "picture=1x3x512x512").status == 0


def _latent(folder: Path) -> str:
    (folder / "g.onnx").write_bytes(networks.generator())
    return "g.onnx"


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("--input latent=pickle.npy", 1, "it is a pickle"),
        ("--input latent=text.npy", 1, "is not an .npy file"),
        ("--input latent=cut.npy", 1, "is not an .npy file"),
        ("--input latent=none.npy", 1, "cannot read `none.npy`"),
        ("--input latent=wide.npy", 1, "has shape [2, 9]; the network wants [N, 4]"),
        ("--input latent=nan.npy", 1, "1 of 4 values that are NaN"),
        ("--input z=text.npy", 2, "the inputs are latent: float32[N x 4]"),
        ("--input latent", 2, "is not NAME=FILE"),
        ("--shape latent=3x5", 2, "does not fit latent"),
        ("--shape latent=0x4", 2, "is not NAME=SIZE"),
        ("--shape latent=9999999999x4", 2, "does not fit"),
        ("--form fast", 2, "'fast' is not a form"),
    ],
)
def test_run_refuses(gantk: Gantk, tmp_path: Path, line: str, status: int, says: str) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "wide.npy", np.ones((2, 9), np.float32))
    np.save(tmp_path / "nan.npy", np.array([[0, 1, np.nan, 2]], np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "wide.npy").read_bytes()[:-8])
    done = gantk("run", _latent(tmp_path), *line.split(), "-o", "out")
    assert says in done.err
    assert done.status == status
    assert not (tmp_path / "out").exists()


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


# info


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
        assert f"at most {size} off" in said


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


def test_a_link_to_itself_is_an_error(gantk: Gantk, tmp_path: Path) -> None:
    loop = tmp_path / "loop.gantk"
    loop.symlink_to(loop)
    for verb in (("info",), ("export", "--to", "tensorrt-rtx")):
        done = gantk(verb[0], loop, *verb[1:])
        assert done.status == 1
        assert "this is a bug" not in done.err


# doctor


def test_doctor(gantk: Gantk) -> None:
    report = gantk("doctor", "--json", "-").json
    assert report["works"]
    assert {status["name"] for status in report["backends"]} == {*registry.BACKENDS, *ENGINE_BACKENDS}
    done = gantk("doctor")
    assert done.status == 0
    assert all(name in done.out for name in registry.BACKENDS)


def test_doctor_on_native_operators(gantk: Gantk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPERATORS, "")
    assert gantk("doctor", "--json", "-").json["native_operators"] == {
        "library": None,
        "reason": None,
        "hint": None,
    }
    assert "no native ones for ONNX Runtime" in gantk("doctor").out
    missing, broken = tmp_path / "missing.so", tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    for library, reason in ((missing, "does not exist"), (broken, "cannot load the operators of")):
        monkeypatch.setenv(OPERATORS, str(library))
        report = gantk("doctor", "--json", "-").json
        assert report["native_operators"]["library"] == str(library)
        assert reason in report["native_operators"]["reason"]
        assert any(reason in line and "without" in line for line in report["advice"])
        done = gantk("doctor")
        assert f"{library.name}, which cannot be used" in done.out.replace("\n", "")
        assert done.status == 0  # ONNX Runtime itself works.


@pytest.mark.parametrize("verb", ["run", "generate", "stylize"])
def test_help_lists_every_backend(gantk: Gantk, verb: str) -> None:
    said = gantk(verb, "-h").out
    assert all(name in said for name in (*registry.BACKENDS, *ENGINE_BACKENDS))


def test_doctor_without_any_backend(gantk: Gantk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in registry.BACKENDS:
        status = BackendStatus(name, None, (), "it is not installed", f"pip install {name}")
        monkeypatch.setattr(registry._module(name), "probe", lambda status=status: status)
    done = gantk("doctor")
    assert done.status == 1
    assert "no backend works here: pip install 'gantk[cpu,openvino]'" in done.out
    assert "onnxruntime: it is not installed: pip install onnxruntime" in done.out


@pytest.mark.parametrize("gpu", [False, True])
def test_doctor_advises_a_product_of_tensorrt_only_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    from gantk.runtime import doctor, driver

    found = driver.Driver(gpu, "13.0", ("H",) if gpu else (), None if gpu else "no driver", ("sm_89",))
    monkeypatch.setattr(driver, "probe", lambda: found)
    monkeypatch.setattr("gantk.runtime.products.installed", lambda *_: {})
    advice = " ".join(doctor.examine()["advice"])
    assert ("pip install 'gantk[tensorrt-rtx]'" in advice) == gpu


def test_doctor_sees_a_gpu_that_nothing_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    from gantk.runtime import doctor, driver

    monkeypatch.setattr(
        driver, "probe", lambda: driver.Driver(works=True, cuda_version="13.0", devices=("H",))
    )
    monkeypatch.setattr(doctor, "installed", lambda *_: {"onnxruntime": "1"})
    advice = " ".join(doctor.examine()["advice"])
    assert "gantk[gpu]" in advice
    assert "gantk[train]" in advice


def test_the_driver_probe_never_raises() -> None:
    from gantk.runtime import driver

    found = driver.probe()
    assert found.works == bool(found.devices)
    assert found.works or found.reason
