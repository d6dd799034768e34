# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on an NVIDIA GPU, with graphs, PyTorch's memory and its streams; `pytest -m gpu`."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gantk
from gantk.runtime.arrays import random_feeds
from gantk.runtime.backends.onnxruntime_cuda import CudaRunner
from gantk.runtime.model import choose
from gantk.runtime.parity import THRESHOLDS, compare
from gantk.runtime.registry import status
from gantk.runtime.runner import Array

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in status("onnxruntime").devices, reason="ONNX Runtime has no GPU here"),
]

CONFIGS: dict[str, dict[str, Any]] = {
    "dcgan": {"size": 32, "channels": 3, "latent_size": 100, "width": 16},
    "style": {"styles": ["one", "two"], "width": 8, "blocks": 1},
}
SIZES = [{"N": 1, "H": 33, "W": 50}, {"N": 3, "H": 64, "W": 40}, {"N": 16, "H": 20, "W": 21}]


@pytest.fixture(scope="module", params=CONFIGS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights, exported on this GPU."""
    import torch

    from gantk import models
    from gantk.checkpoint import generator_bytes
    from gantk.export import export

    folder = tmp_path_factory.mktemp("gpu")
    torch.manual_seed(0)
    module: Any = models.build(request.param, CONFIGS[request.param])
    (folder / "x.safetensors").write_bytes(generator_bytes(module.eval()))
    precisions = "fp32", "fp16"
    return export(folder / "x.safetensors", folder / "x.gantk", precisions=precisions, rewrites=False).root


def feeds_of(runner: Any, size: dict[str, int], seed: int) -> dict[str, Array]:
    return random_feeds(runner.inputs, size, seed)


def near(runner: Any, found: dict[str, Any], right: dict[str, Array]) -> None:
    (spec,) = runner.outputs
    span = spec.range[1] - spec.range[0]
    verdict = compare([np.asarray(found[spec.name])], [right[spec.name]], span)
    assert verdict.against(THRESHOLDS[runner.precision], span) is None


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_way_to_run_gives_what_the_cpu_gives(bundle: Path, precision: str) -> None:
    import torch

    with (
        gantk.open(bundle, "onnxruntime", precision, "cuda") as runner,
        gantk.open(bundle, "onnxruntime", "fp32", "cpu") as cpu,
    ):
        assert (runner.device, runner.precision) == ("cuda", precision)
        for seed, turn in enumerate((0, 1, 0, 2, 0, 1, 2, 2)):
            feeds = feeds_of(runner, SIZES[turn], seed)
            right = cpu.run(feeds)
            once = runner.run(feeds)
            near(runner, once, right)
        name = runner.outputs[0].name
        stream = torch.cuda.Stream()
        tensors = {key: torch.from_numpy(array).cuda() for key, array in feeds.items()}
        bound = runner.bind(tensors)
        stream.wait_stream(torch.cuda.current_stream())
        made = runner.launch(tensors, stream.cuda_stream)
        for seed in range(5):
            fresh = feeds_of(runner, SIZES[2], seed)
            for key, array in fresh.items():
                tensors[key].copy_(torch.from_numpy(array))
            torch.cuda.synchronize()
            right = runner.run(fresh)[name]
            runner.launch(tensors, stream.cuda_stream, made)
            runner.synchronize()
            for found in (made, bound()):
                # cuDNN's kernels of float32 add in any order.
                picture = torch.from_dlpack(found[name]).cpu().numpy()
                np.testing.assert_allclose(picture, right, rtol=0, atol=1e-6)


def test_our_normalisation_is_captured_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run waits for the GPU in between, so that a graph holds all of it: the second run is one."""
    import torch

    from gantk import models
    from gantk.checkpoint import generator_bytes
    from gantk.export import export, rewritten
    from gantk.runtime.operators import native_operators

    if native_operators("cuda") is None:
        pytest.skip("native operators for GPUs are not installed (kernels/onnxruntime/README.md)")
    torch.manual_seed(0)
    module: Any = models.build("style", CONFIGS["style"])
    (tmp_path / "x.safetensors").write_bytes(generator_bytes(module.eval()))
    monkeypatch.setattr(rewritten, "speedup", lambda plain, other, *_: 1.5 + (b"InstanceNormRelu" in other))
    bundle = export(  # Prints what was left out and why, which a failure shows.
        tmp_path / "x.safetensors", tmp_path / "x.gantk", precisions=("fp32", "fp16"), report=print
    )
    with (
        gantk.open(bundle.root, "onnxruntime", "fp16", "cuda") as runner,
        gantk.open(bundle.root, "onnxruntime", "fp32", "cpu") as cpu,
    ):
        assert isinstance(runner, CudaRunner)
        chosen = choose(bundle, "fp16", None, "onnxruntime", "cuda")
        assert chosen.rewrites[-2:] == ("normalization-to-native", "channels-last")
        for seed in range(3):
            feeds = feeds_of(runner, SIZES[0], seed)
            near(runner, runner.run(feeds), cpu.run(feeds))
        work = runner._runs.get(tuple(array.shape for array in feeds.values()))
        assert work is not None
        assert (work.runs, work.graph is not None) == (3, True)


def test_threads_and_memory(bundle: Path) -> None:
    import torch

    with gantk.open(bundle, "onnxruntime", "fp16", "cuda") as runner:
        inputs = [feeds_of(runner, SIZES[seed % 3], seed) for seed in range(12)]
        right = [runner.run(feeds) for feeds in inputs]
        wrong: list[int] = []

        def work(first: int) -> None:
            for index in range(first, 60, 4):
                found = runner.run(inputs[index % 12])
                if any((found[name] != array).any() for name, array in right[index % 12].items()):
                    wrong.append(index)

        before = torch.cuda.mem_get_info()[0]
        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        if "PYTEST_XDIST_WORKER" not in os.environ:  # Others use the GPU too, whose memory this is.
            assert before - torch.cuda.mem_get_info()[0] < 2**27
