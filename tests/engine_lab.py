# SPDX-License-Identifier: Apache-2.0
"""A bundle with an engine, and the fakes that it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

import gantk
import networks
from bundle_engines import make_engine
from fake_cuda import FakeCuda
from fake_tensorrt import MAGIC, FakeTensorRT
from gantk.bundle import Bundle, Engine, Manifest, Profile, ShapeRange, Variant, Writer
from gantk.runtime import driver
from gantk.runtime.backends.tensorrt import EngineRunner
from gantk.tensors import TensorSpec

X = TensorSpec("x", "float32", ("N", 2, "H", "W"), (0.0, 5.0))
Y = TensorSpec("y", "float32", ("N", 2, "H", "W"), (-10.0, 10.0))
Z = TensorSpec("z", "uint8", ("N", 2, "H", "W"), (0.0, 255.0))
SMALL: Profile = {"x": ShapeRange((1, 2, 4, 4), (1, 2, 8, 8), (4, 2, 16, 16))}
LARGE: Profile = {"x": ShapeRange((1, 2, 17, 17), (1, 2, 32, 32), (1, 2, 64, 64))}


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 5, shape).astype(np.float32)


@dataclass
class Lab:
    """A bundle with an engine, and the fakes that it runs on."""

    root: Path
    trt: FakeTensorRT
    cuda: FakeCuda

    def open(self, **options: Any) -> EngineRunner:
        runner = gantk.open(self.root, **{"backend": "tensorrt-rtx", **options})
        assert isinstance(runner, EngineRunner)
        return runner

    def forget(self) -> None:
        self.trt.calls.clear()
        self.cuda.calls.clear()


class Elsewhere:
    """An array of somebody's in (fake) GPU memory, `offset` bytes behind where memory begins."""

    def __init__(self, cuda: FakeCuda, array: np.ndarray, offset: int = 0, **told: Any) -> None:
        _, start = cuda.cudaMalloc(offset + array.nbytes)
        self.offset, self.address = offset, start + offset
        self.array = np.frombuffer(cuda.device[start], array.dtype, offset=offset).reshape(array.shape)
        self.array[...] = array
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (self.address, False), "version": 3, **told,
        }  # fmt: skip


def doubling(more: float = 1) -> bytes:
    """The ONNX file of what the fake's engines compute: 2 x + 1, in the types of its outputs."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Add", ["twice", "one"], ["y"]),
        helper.make_node("Cast", ["y"], ["z"], to=TensorProto.UINT8),
    ]
    values = [
        helper.make_tensor_value_info(spec.name, kind, spec.shape)
        for spec, kind in ((X, TensorProto.FLOAT), (Y, TensorProto.FLOAT), (Z, TensorProto.UINT8))
    ]
    one = numpy_helper.from_array(np.float32(more), "one")
    graph = helper.make_graph(nodes, "doubling", values[:1], values[1:], [one])
    return networks.model_bytes(graph, {"gantk.inputs": [X.to_json()]})


def write_bundle(root: Path, *engines: Callable[[Variant], Engine], wrong: float = 0.0) -> Bundle:
    """A bundle whose probe says 2 x + 1, and `wrong` more."""
    x = picture(2, 2, 6, 5, seed=9)
    probe = {
        "input.x": x,
        "output.y": 2 * x + 1 + np.float32(wrong),
        "output.z": (2 * x + 1).astype(np.uint8),
    }
    with Writer(root, force=True) as writer:
        variant = Variant(writer.add("model.fp32.onnx", doubling()), "fp32", "plain", 20)
        made = []
        for engine in engines:
            entry = engine(variant)
            made.append(replace(entry, file=writer.add(entry.file.path, MAGIC + entry.label.encode())))
        manifest = Manifest(
            "test", "tiny", {}, (X,), (Y, Z), (variant,), writer.add("probe.safetensors", save(probe))
        )
        return writer.commit(replace(manifest, engines=tuple(made)))


def engine_of(**changes: Any) -> Callable[[Variant], Engine]:
    facts = {"profiles": (SMALL, LARGE), "parity": (), "plugins": (), "options": (), "rewrites": ()}
    return lambda variant: make_engine(variant, {}, **{**facts, **changes})


def check(runner: EngineRunner, x: np.ndarray) -> None:
    outputs = runner.run({"x": x})
    np.testing.assert_allclose(outputs["y"], 2 * x + 1, rtol=1e-6)
    np.testing.assert_array_equal(outputs["z"], (2 * x.astype(np.float64) + 1).astype(np.uint8))


def install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeTensorRT, FakeCuda]:
    """Replace the product, the driver, CUDA and the user's cache."""
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda, (X,), (Y, Z), (SMALL, LARGE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("gantk.runtime.backends.tensorrt.load", lambda product: trt)
    monkeypatch.setattr("gantk.runtime.products.installed", lambda *_: {"tensorrt-rtx": "1.7.1.116"})
    monkeypatch.setattr("gantk.runtime.cuda.bindings", lambda: cuda)
    monkeypatch.setattr("gantk.runtime.driver_context.bindings", lambda: cuda)
    monkeypatch.setattr(driver, "current_gpu", lambda: cuda.current)
    monkeypatch.setattr(
        driver, "probe", lambda: driver.Driver(True, "13.0", ("RTX 4090",), targets=("sm_89",))
    )
    return trt, cuda


def make_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    trt, cuda = install(tmp_path / "cache", monkeypatch)
    write_bundle(tmp_path / "x.gantk", engine_of())
    return Lab(tmp_path / "x.gantk", trt, cuda)
