# SPDX-License-Identifier: Apache-2.0
"""How `benchmarks/gpu_kernels.py` shows what a profiler found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fake_onnxruntime
import networks
from gantk.baselines import pytorch
from gantk.runtime.driver import probe

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_kernels

    yield gpu_kernels
    for name in ("gpu_kernels", "cuda_settings"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "void cudnn::bn_fw_tr_1C11_kernel_NCHW<__half, float, int, 512>(cudnnTensorStruct)",
            "bn_fw_tr_1C11_kernel_NCHW",
        ),
        ("(anonymous namespace)::transposeNoOverlap(__half*, int)", "transposeNoOverlap"),
        (
            "void at::native::(anonymous namespace)::reflection_pad2d_out_kernel<c10::Half>(long)",
            "reflection_pad2d_out_kernel",
        ),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_tilesize128x64x32", "sm90_xmma_fprop_implicit_gemm"),
        ("sm80_xmma_dgrad_implicit_gemm_indexed_f16f16_f16f32", "sm80_xmma_dgrad_implicit_gemm"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_f16_s16816dgrad>(P)", "cutlass_tensorop"),
        ("std::enable_if<!(false), void>::type internal::gemvx::kernel<int, float>(P)", "gemvx::kernel"),
        ("Memset (Unknown)", "Memset"),
        ("<>", "<>"),
    ],
)
def test_names_are_bare(script: Any, name: str, wanted: str) -> None:
    assert script.short(name) == wanted


def test_a_file_and_pytorch_are_measured_alike(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in for CUDA, which has no profiler: calls are made, kernels made up."""
    fake_onnxruntime.install(monkeypatch)
    networks.bundle(tmp_path / "x.gantk")
    fed: list[Any] = []
    torch = SimpleNamespace(inputs=networks.specs()[:1], bind=lambda feeds: lambda: fed.append(feeds))
    monkeypatch.setattr(pytorch, "open_network", lambda *_: nullcontext(torch))

    def profile(call: Callable[[], object]) -> list[dict[str, Any]]:
        call()
        return [{"name": "k", "us": 1.0}]

    monkeypatch.setattr(script, "profile", profile)
    rows = script.measure(tmp_path / "x.gantk", "fp32", None, {"latent": (3, networks.LATENT)})
    assert [row["what"] for row in rows] == ["onnxruntime fp32 (plain)", "torch reduce-overhead fp32"]
    assert {(row["network"], tuple(row["shape"])) for row in rows} == {("x", (3, networks.LATENT))}
    assert [feeds["latent"].shape for feeds in fed] == [(3, networks.LATENT)]


@pytest.mark.skipif(probe().works, reason="there is a GPU here")
@pytest.mark.parametrize("name", ["gpu_kernels", "cuda_settings"])
def test_without_a_gpu_that_is_said(name: str, tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / f"{name}.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no GPU here: ")


def test_kernels_of_a_name_are_summed_and_the_rest_too(script: Any) -> None:
    kernels = [{"name": f"void k{index}<1>(int)", "us": float(index)} for index in range(1, 11)]
    kernels.append({"name": "void k10<2>(float)", "us": 5.0})
    row = {"network": "x", "shape": [1, 3], "what": "y", "kernels": kernels}
    lines = script.table(row)
    assert lines[0] == "**x, 1x3, y**"
    assert lines[4] == "| `k10` | 2 | 15 | 25% |"
    assert lines[-3] == "| 2 others | 2 | 3 | 5% |"
    assert lines[-2] == "| all | 11 | 60 | |"


def test_a_later_row_of_the_same_takes_the_place_of_an_older_one(script: Any, tmp_path: Path) -> None:
    from cuda_settings import write

    file = tmp_path / "x.json"
    for us in (1.0, 2.0):
        row = {"network": "x", "shape": [1], "what": "y", "kernels": [{"name": "k", "us": us}]}
        write(file, [row], benchmark="gpu_kernels", key=script.key)
    document = json.loads(file.read_text())
    assert document["benchmark"] == "gpu_kernels"
    assert [row["kernels"][0]["us"] for row in document["rows"]] == [2.0]
