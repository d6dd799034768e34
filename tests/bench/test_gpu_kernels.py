# SPDX-License-Identifier: Apache-2.0
"""How `benchmarks/gpu_kernels.py` shows what a profiler found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
    import json

    from cuda_settings import write

    file = tmp_path / "x.json"
    for us in (1.0, 2.0):
        row = {"network": "x", "shape": [1], "what": "y", "kernels": [{"name": "k", "us": us}]}
        write(file, [row], benchmark="gpu_kernels", key=script.key)
    document = json.loads(file.read_text())
    assert document["benchmark"] == "gpu_kernels"
    assert [row["kernels"][0]["us"] for row in document["rows"]] == [2.0]
