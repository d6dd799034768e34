# SPDX-License-Identifier: Apache-2.0
"""What only an NVIDIA GPU can show; `pytest -m gpu`.

On an H100 (2026-11-26) and H200s (2026-11-27, 28) networks were trained and ONNX files run; no GPU has run an engine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gantk
from gantk.bundle import ENGINE_BACKENDS
from gantk.runtime.driver import probe
from gantk.runtime.registry import BACKENDS, status

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe().works, reason=f"no GPU here: {probe().reason}"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of training on the GPU."""
    from gantk.demo.pictures import draw_pictures
    from gantk.train.config import TrainConfig
    from gantk.train.gan import train

    folder = tmp_path_factory.mktemp("gpu")
    draw_pictures(folder / "pictures", 128, 32)
    config = TrainConfig(
        data=str(folder / "pictures"), out=str(folder / "run"), size=32, width=16, steps=40, device="cuda"
    )
    result = train(config)
    assert result.step == 40
    assert np.isfinite(result.metrics["loss_g"])
    return result.run


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_backends_on_the_gpu_compute_what_the_cpu_does(run: Path, tmp_path: Path, precision: str) -> None:
    from gantk.export import export
    from gantk.runtime.parity import THRESHOLDS, compare

    backends = [name for name in BACKENDS if "cuda" in status(name).devices]
    if not backends:
        pytest.skip("no backend here runs on the GPU; pip install 'gantk[gpu]'")
    bundle = export(run, tmp_path / "x.gantk", precisions=("fp32", precision), rewrites=False)
    latent = np.random.default_rng(0).standard_normal((8, 100), np.float32)
    with gantk.open(bundle.root, precision="fp32", device="cpu") as runner:
        reference = runner.run({"latent": latent})["picture"]
    failed = {name: bundle.find(precision).failed_on(name, "cuda") for name in backends}
    for name in (name for name in backends if failed[name] is None):
        with gantk.open(bundle.root, name, precision, device="cuda") as runner:
            picture = runner.run({"latent": latent})["picture"]
            assert runner.precision == precision
        assert compare([picture], [reference], 2.0).against(THRESHOLDS[precision], 2.0) is None
    lacking = [
        f"{name} has no {precision} here: {verdict.reason}" for name, verdict in failed.items() if verdict
    ]
    assert precision == "bf16" or not lacking
    if lacking:
        pytest.skip("; ".join(lacking))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_half_precision(tmp_path: Path, precision: str) -> None:
    from gantk.demo.pictures import draw_pictures
    from gantk.train.config import TrainConfig
    from gantk.train.gan import train

    draw_pictures(tmp_path / "pictures", 64, 32)
    config = TrainConfig(
        data=str(tmp_path / "pictures"),
        out=str(tmp_path / "run"),
        size=32,
        width=16,
        steps=20,
        device="cuda",
        precision=precision,
    )
    assert np.isfinite(train(config).metrics["loss_d"])


@pytest.mark.parametrize("product", ENGINE_BACKENDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines_compute_what_the_cpu_does(run: Path, tmp_path: Path, product: str, precision: str) -> None:
    """At several shapes, as graphs, on threads, and on PyTorch's own memory and stream."""
    import torch

    from gantk.bench.gpu import time_parts
    from gantk.export import export
    from gantk.export.engines.pipeline import EngineRequest
    from gantk.runtime.backends.tensorrt import EngineRunner
    from gantk.runtime.parity import THRESHOLDS, compare

    if not status(product).works:
        pytest.skip(f"{product} does not work here: {status(product).reason}")
    wanted = EngineRequest((product,), (precision,))
    bundle = export(run, tmp_path / "x.gantk", precisions=("fp32", precision), rewrites=False, engines=wanted)
    with (
        gantk.open(bundle.root, "onnxruntime", "fp32", "cpu") as cpu,
        gantk.open(bundle.root, product, precision) as runner,
    ):
        assert isinstance(runner, EngineRunner)
        assert runner.verified
        for seed, batch in enumerate((1, 8, 1, 64, 8, 1)):
            latent = np.random.default_rng(seed).standard_normal((batch, 100), np.float32)
            pictures = [engine.run({"latent": latent})["picture"] for engine in (runner, cpu)]
            assert compare(pictures[:1], pictures[1:], 2.0).against(THRESHOLDS[precision], 2.0) is None
        device = torch.from_numpy(latent).cuda()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        made = runner.launch({"latent": device}, stream.cuda_stream)
        runner.synchronize()
        on_gpu = torch.as_tensor(made["picture"], device="cuda").cpu().numpy()
        np.testing.assert_array_equal(on_gpu, pictures[0])
        np.testing.assert_array_equal(torch.from_dlpack(made["picture"]).cpu().numpy(), on_gpu)
        times = time_parts(runner, {"latent": latent}, 0.2, 100)
        assert min(map(min, times.values())) > 0.0


@pytest.mark.parametrize("product", ENGINE_BACKENDS)
def test_a_refitted_engine_computes_what_the_new_weights_do(run: Path, tmp_path: Path, product: str) -> None:
    import torch

    from gantk import checkpoint
    from gantk.export import export
    from gantk.export.engines.build import BuildOptions
    from gantk.export.engines.pipeline import EngineRequest
    from gantk.export.engines.refit import refit
    from gantk.runtime.parity import THRESHOLDS, compare

    if not status(product).works:
        pytest.skip(f"{product} does not work here: {status(product).reason}")
    wanted = EngineRequest((product,), ("fp32",), BuildOptions(options=("refit",)))
    bundle = export(run, tmp_path / "x.gantk", precisions=("fp32",), rewrites=False, engines=wanted)
    assert bundle.manifest.engines[0].targets == probe().targets[:1]
    module = checkpoint.load_generator(run).module
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.0 + 0.2 * torch.rand_like(parameter))
    other = tmp_path / "other.safetensors"
    other.write_bytes(checkpoint.generator_bytes(module))
    made = refit(bundle.root, other, tmp_path / "y.gantk")
    latent = np.random.default_rng(0).standard_normal((8, 100), np.float32)
    pictures = []
    for root, backend in ((made.root, product), (made.root, "onnxruntime"), (bundle.root, product)):
        with gantk.open(root, backend, "fp32") as runner:
            pictures.append(runner.run({"latent": latent})["picture"])
    assert compare(pictures[:1], pictures[1:2], 2.0).against(THRESHOLDS["fp32"], 2.0) is None
    assert np.abs(pictures[0] - pictures[2]).max() > 0.01
