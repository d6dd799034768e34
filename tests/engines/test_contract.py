# SPDX-License-Identifier: Apache-2.0
"""Every name of TensorRT that gantk touches exists in the products' real Python bindings.

The names are read from gantk's own sources, so that a new one is checked too. The bindings of TensorRT need no
library of the vendor's for this: empty ones stand in for them. Those that are installed are taken; to have others:

    pip install --no-deps --target DIR tensorrt-cu13-bindings==11.4.0.106    # and 10.16.1.11 in another
    GANTK_TENSORRT_BINDINGS=DIR:OTHER python -m pytest tests/engines/test_contract.py
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from binding_calls import Call, signatures
from fake_cuda import FakeCuda
from gantk.export.engines import audit, build, network, progress, weights
from gantk.runtime import cuda, product_log, products
from gantk.runtime.backends import (
    execution,
    kernel_cache,
    lane,
    loading,
    open_outputs,
    scratch,
    tensorrt,
)
from gantk.runtime.products import PRODUCTS

MODULES = (
    products,
    product_log,
    audit,
    build,
    network,
    progress,
    weights,
    tensorrt,
    loading,
    lane,
    execution,
    kernel_cache,
    scratch,
    open_outputs,
)
MODULE_NAMES = ("trt",)
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "layer": "ILayer",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "_context": "IExecutionContext",
    "context": "IExecutionContext",
    "configuration": "IRuntimeConfig",
    "_cache": "IRuntimeCache",
    "runtime": "Runtime",
    "flags": "BuilderFlag",
    "refitter": "Refitter",
    "refit_parser": "OnnxParserRefitter",
    "serialization": "ISerializationConfig",
}
"""Of which class the objects are that gantk's variables of these names hold."""

RTX_ALONE = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION",
    "ComputeCapability",
    "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IExecutionContext.is_stream_capturable",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_runtime_cache",
}
"""What only TensorRT for RTX has; gantk asks first whether it is there."""

SYMBOLS = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "nvonnxparser": (
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getNvOnnxParserVersion",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
}

LOOK = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
def text(name):
    thing = trt
    for part in name.split("."):
        thing = getattr(thing, part, None)
    if isinstance(thing, type):
        thing = thing.__init__
    return getattr(thing, "__doc__", None) or ""
print(json.dumps({name: text(name) for name in json.loads(sys.argv[2])}))
"""

CHECK = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
def has(name):
    thing = trt
    for part in name.split("."):
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True
print(json.dumps([name for name in json.loads(sys.argv[2]) if not has(name)]))
"""


def touched() -> set[str]:
    """The names in gantk's sources, such as ``Builder.create_network``."""
    found: set[str] = set()
    for module in MODULES:
        assert module.__file__ is not None
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.update(_name(node))
    return found


def calls() -> set[Call]:
    """Of the products' functions, in gantk's sources."""
    found: set[Call] = set()
    for module in MODULES:
        assert module.__file__ is not None
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                by_name = frozenset(each.arg for each in node.keywords if each.arg is not None)
                found |= {Call(name, len(node.args), by_name) for name in _name(node.func)}
    return {call for call in found if not call.name.endswith("__init__")}


def unfit(module: str, environment: dict[str, str] | None = None) -> list[Call]:
    """The calls that none of a module's signatures takes; those that it lacks are another test's."""
    made = calls()
    texts = looked_at(LOOK, module, {call.name for call in made}, environment)
    wrong = []
    for call in made:
        known = signatures(call.name, texts[call.name])
        if known and not any(call.fits(each) for each in known):
            wrong.append(call)
    return wrong


def _name(node: ast.Attribute) -> set[str]:
    parts, value = [node.attr], node.value
    while isinstance(value, ast.Attribute):
        if value.attr in CLASSES and value.attr.startswith(
            "_"
        ):  # self._engine.NAME, and no engine of a manifest
            return {f"{CLASSES[value.attr]}.{parts[-1]}"}
        parts.append(value.attr)
        value = value.value
    if not isinstance(value, ast.Name):
        return set()
    if value.id in MODULE_NAMES:
        return {".".join(reversed(parts))}
    return {f"{CLASSES[value.id]}.{parts[-1]}"} if value.id in CLASSES else set()


def missing(module: str, names: set[str], environment: dict[str, str] | None = None) -> set[str]:
    """Those of the names that a module lacks."""
    return set(looked_at(CHECK, module, names, environment))


def looked_at(script: str, module: str, names: set[str], environment: dict[str, str] | None) -> Any:
    """What a script finds out of the names of a module, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, module, json.dumps(sorted(names))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_names_are_found() -> None:
    names = touched()
    assert {
        "Builder.build_serialized_network",
        "BuilderFlag.REQUIRE_USER_ALLOCATION",
        "BuilderFlag.TF32",
        "ICudaEngine.device_memory_size_v2",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.is_stream_capturable",
        "IExecutionContext.set_device_memory",
        "IExecutionContext.set_output_allocator",
        "IOutputAllocator.__init__",
        "IRuntimeCache.deserialize",
        "IRuntimeConfig.set_runtime_cache",
        "ILogger.Severity.INTERNAL_ERROR",
        "LayerType.DEQUANTIZE",
        "OnnxParser.get_error",
        "OnnxParserRefitter.refit_from_bytes",
        "Refitter.refit_cuda_engine",
        "Runtime.deserialize_cuda_engine",
        "SerializationFlag.INCLUDE_REFIT",
    } <= names
    assert len(names) > 50


def test_the_calls_are_found() -> None:
    made = calls()
    assert {
        Call("IBuilderConfig.set_timing_cache", 1, frozenset({"ignore_mismatch"})),
        Call("IExecutionContext.execute_async_v3", 1, frozenset()),
        Call("OnnxParser", 2, frozenset()),
    } <= made
    timing = "cache: t.ITimingCache, ignore_mismatch: bool"
    assert Call("x", 1, frozenset({"ignore_mismatch"})).fits(timing)
    for wrong in (Call("x", 1, frozenset()), Call("x", 3, frozenset()), Call("x", 2, frozenset({"more"}))):
        assert not wrong.fits(timing)
    assert Call("x", 1, frozenset()).fits("pair: Tuple[int, int], how: t.How = <How.A: 0>")


def test_tensorrt_for_rtx_has_them() -> None:
    product = PRODUCTS["tensorrt-rtx"]
    if product.version is None:
        pytest.skip("wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'")
    assert missing(product.module, touched()) == set()
    assert unfit(product.module) == []
    assert missing(product.module, {"Builder.nothing_of_this_name"}) == {"Builder.nothing_of_this_name"}


def test_an_allocator_is_what_the_bindings_call() -> None:
    """They look its methods up by name, and give their arguments by place."""
    trt = pytest.importorskip(
        "tensorrt_rtx", reason="wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'", exc_type=ImportError
    )
    asked: list[tuple[str, int]] = []
    told: list[tuple[str, tuple[int, ...]]] = []
    made = open_outputs._make_allocator(
        trt, lambda *given: asked.append(given) or 4096, lambda *given: told.append(given)
    )
    assert isinstance(made, trt.IOutputAllocator)
    methods = dict(re.findall(r"def (\w+)\(self, ([^)]*)\)", trt.IOutputAllocator.__doc__))
    assert methods.keys() == {"reallocate_output", "reallocate_output_async", "notify_shape"}
    for name, parameters in methods.items():
        assert len(inspect.signature(getattr(made, name)).parameters) == len(parameters.split(",")), name
    assert (
        made.reallocate_output("y", 0, 100, 256) == made.reallocate_output_async("y", 0, 200, 256, 7) == 4096
    )
    made.notify_shape("y", trt.Dims((2, 3)))
    assert (asked, told) == ([("y", 100), ("y", 200)], [("y", (2, 3))])


def folders() -> list[Path]:
    """Where bindings lie: those that are installed, and those of the environment variable."""
    named = [Path(name) for name in os.environ.get("GANTK_TENSORRT_BINDINGS", "").split(os.pathsep) if name]
    installed = find_spec("tensorrt_bindings")
    here = [] if installed is None or installed.origin is None else [Path(installed.origin).parents[1]]
    return [*here, *named]


@pytest.mark.skipif(
    not folders(), reason="wants tensorrt-cu13-bindings; this file's head says how to have them"
)
def test_tensorrt_has_them(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("wants a C compiler for libraries that stand in for the vendor's: apt install gcc")
    for folder in folders():
        library = folder / "tensorrt_bindings/tensorrt.so"
        release = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes())
        assert release is not None
        stand_ins = tmp_path / release[1].decode()
        stand_ins.mkdir(exist_ok=True)
        for name, symbols in SYMBOLS.items():
            file = f"lib{name}.so.{release[1].decode()}"
            source = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols)
            command = [
                compiler,
                "-shared",
                "-fPIC",
                f"-Wl,-soname,{file}",
                "-x",
                "c",
                "-",
                "-o",
                stand_ins / file,
            ]
            subprocess.run(command, input=source, text=True, check=True)
        where = {"LD_LIBRARY_PATH": str(stand_ins), "PYTHONPATH": str(folder)}
        assert missing("tensorrt_bindings", touched(), where) == RTX_ALONE, folder
        assert unfit("tensorrt_bindings", where) == [], folder


def cuda_names() -> set[str]:
    """What `gantk.runtime.cuda` asks of the bindings of CUDA's runtime."""
    assert cuda.__file__ is not None
    source = Path(cuda.__file__).read_text(encoding="utf-8")
    return set(re.findall(r'call\("(\w+)"', source)) | set(re.findall(r"_api\.(\w+)", source))


def test_the_bindings_of_cuda_have_what_is_called_with_as_many_arguments() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="wants cuda-bindings")
    names = cuda_names()
    assert {"cudaMalloc", "cudaGraphInstantiate", "cudaMemcpyKind"} <= names
    assert {name for name in names if not hasattr(runtime, name)} == set()
    for name in names:
        told = re.match(rf"{name}\((.*)\)", getattr(runtime, name).__doc__ or "")
        if told is not None:  # The stand-in of other tests takes what the real one does.
            wanted = len([part for part in told[1].split(",") if part.strip()])
            assert len(inspect.signature(getattr(FakeCuda(), name)).parameters) == wanted, name
