# SPDX-License-Identifier: Apache-2.0
"""A stranger's ONNX file, and rows and documents as a benchmark writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gantk.bench.contender import Contender

MakeFake = Callable[..., Contender]


def make_onnx(path: Path, *, sizes: tuple[int | str, int | str] = ("H", "W")) -> Path:
    """A convolution over pictures of any size, written as an exporter that knows nothing of gantk would."""
    weights = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32) / 5
    node = helper.make_node("Conv", ["content", "w"], ["c"], pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [node, helper.make_node("Tanh", ["c"], ["styled"])],
        "style",
        [helper.make_tensor_value_info("content", TensorProto.FLOAT, ["N", 3, *sizes])],
        [helper.make_tensor_value_info("styled", TensorProto.FLOAT, ["N", 3, *sizes])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


def make_row(label: str, p50: float, **changes: Any) -> dict[str, Any]:
    """A measured row of a JSON document."""
    backend, *_, precision = label.split()
    row: dict[str, Any] = {
        "id": 0,
        "label": label,
        "backend": backend,
        "version": "1",
        "device": "cpu",
        "precision": precision,
        "file_precision": precision,
        "form": None,
        "mode": None,
        "shape": {"latent": [1, 100]},
        "batch": 1,
        "status": "ok",
        "reason": None,
        "rank": 1,
        "best_mode": True,
        "speedup": None,
        "latency_ms": {
            "mean": p50,
            "min": p50 * 0.9,
            "p50": p50,
            "p50_ci95": [p50 * 0.99, p50 * 1.01],
            "p90": p50 * 1.1,
            "p90_ci95": None,
            "p95": None,
            "p95_ci95": None,
            "p99": None,
            "p99_ci95": None,
            "stddev": p50 * 0.01,
            "cv": 0.01,
        },
        "iterations": 100,
        "blocks": 8,
        "block_p50_ms": [p50] * 8,
        "throughput": 1000 / p50,
        "noisy": False,
        "memory_bytes": {"baseline_rss": 2**20, "loaded_rss": 2**21, "peak_rss": 2**22},
        "artefact_bytes": 2**20,
        "load_ms": 100.0,
        "load": {"import_ms": 1.0, "open_ms": 50.0, "first_call_ms": 50.0, "at_once": 1},
        "parity": {
            "reference": "torch float32",
            "max_abs": 1e-6,
            "psnr_db": 140.0,
            "cosine": 1.0,
            "samples": 1,
            "passed": True,
            "reason": None,
        },
    }
    return {**row, **changes}


def make_document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "gantk bench",
        "created": "2026-01-01T00:00:00+00:00",
        "commit": None,
        "model": {"kind": "bundle", "path": "x.gantk", "name": "flowers <b>"},
        "machine": {
            "cpu": "A processor",
            "architecture": "x86_64",
            "cores": 4,
            "usable_cores": 2,
            "features": ["avx2"],
            "memory_bytes": 2**33,
            "kernel": "Linux 6",
            "virtual": True,
            "governor": None,
            "frequency_mhz": None,
            "load_average": [0.1, 0.1, 0.1],
            "gpu": None,
        },
        "versions": {"python": "3.11", "torch": "2.13", "gantk": "0.1.0"},
        "settings": {
            "device": "cpu",
            "threads": 2,
            "budget_s": 20.0,
            "block_s": 0.25,
            "seed": 0,
            "cases": ["latent 1x100"],
        },
        "rows": rows,
        "skipped": [{"name": "onnxruntime fp16", "reason": "it computes that in fp32"}],
        "recommendation": ["use it"],
        "interference": {"latent 1x100": 0.01},
        "warnings": [],
    }
