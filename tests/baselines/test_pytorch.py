# SPDX-License-Identifier: Apache-2.0
"""PyTorch as a contender: the same pictures as the checkpoint, in every mode and precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gantk import models  # noqa: E402
from gantk.baselines.pytorch import open_network, set_backends  # noqa: E402
from gantk.bench import run  # noqa: E402
from gantk.bench.contenders import TORCH_MODES, compiler_fault, find  # noqa: E402
from gantk.bench.subject import describe  # noqa: E402
from gantk.bundle import Manifest, Variant, Writer  # noqa: E402
from gantk.checkpoint import generator_bytes, load_generator  # noqa: E402
from gantk.errors import GantkError, UsageError  # noqa: E402
from gantk.tensors import TensorSpec  # noqa: E402

CONFIG = {"size": 28, "channels": 1, "latent_size": 8, "width": 4}
LATENT = TensorSpec("latent", "float32", ("N", 8), None, "NC")
FLOAT = TensorSpec("picture", "float32", ("N", 1, 28, 28), (-1.0, 1.0), "NCHW")
PIXELS = TensorSpec("picture", "uint8", ("N", 28, 28, 1), (0.0, 255.0), "NHWC")


def make_bundle(path: Path, output: TensorSpec) -> Path:
    """A bundle with a checkpoint; its ONNX file is of no use, for PyTorch does not read it."""
    torch.manual_seed(0)
    module = models.build("dcgan", CONFIG).eval()
    with Writer(path) as writer:
        variant = Variant(writer.add("model.fp32.onnx", b"none"), "fp32", "plain", 22)
        checkpoint = writer.add("checkpoint/generator.safetensors", generator_bytes(module))
        writer.commit(
            Manifest(
                "dcgan", "tiny", module.config.to_json(), (LATENT,), (output,), (variant,), None, checkpoint
            )
        )
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny.gantk", FLOAT)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(before)
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision(precision)


def latents(count: int) -> dict[str, np.ndarray]:
    return {"latent": np.random.default_rng(0).standard_normal((count, 8)).astype(np.float32)}


def expected(bundle: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return load_generator(bundle).module(torch.from_numpy(feeds["latent"])).numpy()


@pytest.mark.parametrize("mode", TORCH_MODES["torch"]["cpu"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 0.01), ("bf16", 0.06)])
def test_eager_modes_give_the_checkpoints_pictures(
    bundle: Path, mode: str, precision: str, tolerance: float
) -> None:
    feeds = latents(3)
    with open_network(bundle, precision=precision, mode=mode, threads=1) as runner:
        assert (runner.precision, runner.backend, runner.device) == (precision, "torch", "cpu")
        outputs = runner.run(feeds)["picture"]
        bound = runner.bind(feeds)()
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, expected(bundle, feeds), atol=tolerance)
    np.testing.assert_array_equal(bound.numpy(), outputs)
    if precision != "fp32":
        assert np.abs(outputs - expected(bundle, feeds)).max() > 0, "it must really have computed in less"


def test_pixels_are_those_of_an_exported_picture_output(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "pixels.gantk", PIXELS)
    feeds = latents(2)
    with open_network(path) as runner:
        pixels = runner.run(feeds)["picture"]
    wanted = np.clip(np.round(expected(path, feeds) * 127.5 + 127.5), 0, 255).transpose(0, 2, 3, 1)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, wanted)


def test_out_is_written_and_closed_runners_refuse(bundle: Path) -> None:
    feeds, out = latents(2), np.empty((2, 1, 28, 28), np.float32)
    runner = open_network(bundle)
    assert runner.run(feeds, {"picture": out})["picture"] is out
    np.testing.assert_allclose(out, expected(bundle, feeds), atol=1e-6)
    runner.close()
    with pytest.raises(GantkError, match="the runner is closed"):
        runner.run(feeds)


def test_unknown_ways_are_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="'fp8', 'eager' is not a way to run PyTorch; known are fp32"):
        open_network(bundle, precision="fp8")


def test_torch_is_benchmarked_from_a_bundle(bundle: Path) -> None:
    document = run.compare(
        bundle, backends=["torch"], modes=["channels_last"], batch=[3], threads=1, budget_s=0.3
    )
    (row,) = document["rows"]
    assert (row["mode"], row["batch"], row["status"]) == ("channels_last", 3, "ok")
    assert row["best_mode"]
    assert row["parity"]["reference"] == "torch float32"
    assert row["parity"]["passed"]


def test_every_mode_takes_part_that_is_not_left_out(bundle: Path) -> None:
    found, _ = find(describe(bundle), ["torch"], None, "cpu", 1)
    assert [contender.mode for contender in found] == ["eager", "channels_last"]


def test_a_bound_call_and_a_run_are_compiled_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.testing import CompileCounter

    counter, compile_ = CompileCounter(), torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module, dynamic, mode: compile_(module, dynamic=dynamic, backend=counter)
    )
    feeds = latents(2)
    with open_network(bundle, "torch-compile", mode="default", threads=1) as runner:
        bound = runner.bind(feeds)()
        np.testing.assert_array_equal(bound.numpy(), runner.run(feeds)["picture"])
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.skipif(compiler_fault() is not None, reason="torch.compile wants a C++ compiler")
@pytest.mark.parametrize("mode", TORCH_MODES["torch-compile"]["cpu"])
def test_compiled_modes_give_the_checkpoints_pictures(bundle: Path, mode: str) -> None:
    document = run.compare(
        bundle, backends=["torch-compile"], modes=[mode], precisions=["fp32"], budget_s=0.3
    )
    row = document["rows"][0]
    assert row["status"] == "ok", row["reason"]
    assert row["parity"]["psnr_db"] > 100
    assert row["load_ms"] > 1000


def test_on_a_gpu_there_are_graphs_and_tf32(bundle: Path) -> None:
    found, _ = find(describe(bundle), ["torch", "torch-compile"], None, "cuda", 1)
    assert [contender.label for contender in found] == [
        f"{name} {mode} {precision}"
        for name, modes in (
            ("torch", ("eager", "channels_last")),
            ("torch-compile", ("default", "reduce-overhead", "max-autotune")),
        )
        for precision in ("fp32", "tf32 (fp32 file)")
        for mode in modes
    ]
    some, _ = find(
        describe(bundle), ["torch-compile"], None, "cuda", 1, modes=("freezing", "reduce-overhead")
    )
    assert {contender.mode for contender in some} == {"reduce-overhead"}
    tf32, _ = find(describe(bundle), ["torch"], None, "cuda", 1, torch_precisions=("tf32", "fp16"))
    assert [contender.label for contender in tf32] == [
        "torch eager tf32 (fp32 file)",
        "torch channels_last tf32 (fp32 file)",
    ]
    with pytest.raises(
        UsageError, match="no mode freezing on cuda; there it has eager, channels_last, default"
    ):
        find(describe(bundle), ["torch-compile"], None, "cuda", 1, modes=("freezing",))


def test_tf32_may_be_asked_for(bundle: Path) -> None:
    alone, _ = find(describe(bundle), ["torch"], ["tf32"], "cuda", 1, modes=["eager"])
    assert [contender.label for contender in alone] == ["torch eager tf32 (fp32 file)"]
    both, _ = find(describe(bundle), ["torch"], ["tf32", "fp32"], "cuda", 1, modes=["eager"])
    assert [contender.precision for contender in both] == ["tf32", "fp32"]
    assert find(describe(bundle), ["torch"], ["tf32"], "cpu", 1) == ([], [])  # A CPU has none.


def test_a_precision_of_pytorch_that_is_not_there_is_said(bundle: Path) -> None:
    found, skipped = find(describe(bundle), ["torch"], None, "cpu", 1, torch_precisions=("tf32",))
    assert found == []
    assert [skip.reason for skip in skipped] == [
        "it was asked for in tf32 alone; it would compute in fp32",
    ]
    with pytest.raises(UsageError, match="'fp8' is not a torch-precision; known are fp32, tf32, fp16, bf16"):
        run.compare(bundle, torch_precisions=["fp8"])


@pytest.mark.parametrize(("precision", "allowed"), [("tf32", True), ("fp32", False), ("fp16", False)])
def test_products_round_to_tf32_where_that_is_the_precision(
    bundle: Path, precision: str, allowed: bool
) -> None:
    with open_network(bundle, precision=precision, threads=1):
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")


@pytest.mark.parametrize(
    ("mode", "device", "tried"),
    [
        ("eager", "cuda", False),
        ("channels_last", "cuda", True),
        ("default", "cuda", True),
        ("default", "cpu", False),
    ],
)
def test_cudnn_tries_its_algorithms_but_in_eager_mode(mode: str, device: str, tried: bool) -> None:
    set_backends("fp16", mode, device)
    assert torch.backends.cudnn.benchmark is tried
