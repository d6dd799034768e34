# SPDX-License-Identifier: Apache-2.0
"""The C API of the C++ runner, through ctypes; and how its project is built for tests."""

from __future__ import annotations

import ctypes as c
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest

from gantk.errors import BackendMissingError, GantkError, UsageError
from native_build import ROOT, build, onnxruntime_root

SOURCE = ROOT / "toolkit/cpp"
MOST_AXES = 16
HEADERS = {
    "gtest/gtest.h": "libgtest-dev",
    "jpeglib.h": "libjpeg-dev",
    "nlohmann/json.hpp": "nlohmann-json3-dev",
    "openssl/evp.h": "libssl-dev",
    "png.h": "libpng-dev",
}
DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8", "int8", "int32", "int64", "bool")


def onnxruntime_library() -> Path:
    """The library inside the Python package, so that both runners compute with the same one."""
    spec = find_spec("onnxruntime")
    folder = Path(spec.origin).parent / "capi" if spec and spec.origin else Path()
    found = sorted(folder.glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("onnxruntime's package has no libonnxruntime.so here")
    return found[0]


def build_cpp(*targets: str, options: tuple[str, ...] = (), root: Path | None = None) -> Path:
    """The folder in which targets of `toolkit/cpp` are built; `root` has ONNX Runtime's headers."""
    root = root or onnxruntime_root()
    for header, package in HEADERS.items():
        if not any((Path("/usr/include") / folder / header).is_file() for folder in ("", "x86_64-linux-gnu")):
            pytest.skip(f"{header} is missing: run .ci/packages, or apt install {package}")
    places = (f"-DONNXRUNTIME_ROOT={root}", f"-DONNXRUNTIME_LIBRARY={onnxruntime_library()}")
    # Headers take a compiler longer than the files that include them: each target is read in one piece, and the headers
    # of all programs once.
    whole = ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0", "-DGANTK_SHARED_HEADERS=ON")
    return build(*targets, options=(*places, *whole, *options), source=SOURCE)


def races_of_ours(folder: Path) -> dict[str, str]:
    """The environment in which ThreadSanitizer tells of races that can be judged; a file for it is written to `folder`.

    ONNX Runtime's threads are not instrumented: what they do inside it cannot be.
    """
    suppressions = folder / "suppressions"
    suppressions.write_text("called_from_lib:libonnxruntime.so\nrace:libonnxruntime.so\n")
    return {"TSAN_OPTIONS": f"suppressions={suppressions} ignore_noninstrumented_modules=1"}


class Options(c.Structure):
    _fields_ = (
        ("backend", c.c_char_p),
        ("precision", c.c_char_p),
        ("device", c.c_char_p),
        ("form", c.c_char_p),
        ("operators", c.c_char_p),
        ("threads", c.c_int32),
        ("reserved", c.c_int32),
        ("stream", c.c_void_p),
    )


class Tensor(c.Structure):
    _fields_ = (
        ("name", c.c_char_p),
        ("data", c.c_void_p),
        ("dtype", c.c_int32),
        ("device", c.c_int32),
        ("rank", c.c_int32),
        ("reserved", c.c_int32),
        ("shape", c.c_int64 * MOST_AXES),
    )

    @classmethod
    def of(cls, name: str, array: np.ndarray[Any, Any]) -> Tensor:
        assert array.flags.c_contiguous
        return cls._at(name, array.ctypes.data, str(array.dtype), array.shape, on_gpu=False)

    @classmethod
    def on_gpu(cls, name: str, tensor: Any) -> Tensor:
        """Of a contiguous tensor of PyTorch's."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls._at(name, tensor.data_ptr(), dtype, tuple(tensor.shape), on_gpu=True)

    @classmethod
    def _at(cls, name: str, address: int, dtype: str, shape: tuple[int, ...], *, on_gpu: bool) -> Tensor:
        sizes = (c.c_int64 * MOST_AXES)(*shape)
        return cls(name.encode(), address, DTYPES.index(dtype), int(on_gpu), len(shape), 0, sizes)

    def array(self) -> np.ndarray[Any, Any]:
        """A copy of it."""
        shape, dtype = tuple(self.shape[: self.rank]), np.dtype(DTYPES[self.dtype])
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer(c.string_at(self.data, size), dtype).reshape(shape)


class Spec(c.Structure):
    _fields_ = (
        ("name", c.c_char_p),
        ("layout", c.c_char_p),
        ("dtype", c.c_int32),
        ("rank", c.c_int32),
        ("has_range", c.c_int32),
        ("reserved", c.c_int32),
        ("low", c.c_double),
        ("high", c.c_double),
        ("smallest", c.c_int64),
        ("shape", c.c_int64 * MOST_AXES),
        ("symbols", c.c_char_p * MOST_AXES),
    )


class Library:
    """`libgantk.so`, with the signatures of `gantk.h`."""

    def __init__(self, path: Path) -> None:
        self.c = c.CDLL(str(path))
        texts = ("what", "where", "hint", "text")
        facts = ("name", "backend", "version", "precision", "file_precision")
        for name in (*(f"error_{text}" for text in texts), *(f"runner_{fact}" for fact in facts), "version"):
            self.declare(name, c.c_char_p, *(() if name == "version" else (c.c_void_p,)))
        for name in ("error_free", "runner_free", "outputs_free", "bound_free"):
            self.declare(name, None, c.c_void_p)
        for name in ("runner_input_count", "runner_output_count", "outputs_count"):
            self.declare(name, c.c_size_t, c.c_void_p)
        for name in ("error_get_kind", "runner_device"):
            self.declare(name, c.c_int, c.c_void_p)
        for name in ("runner_input", "runner_output"):
            self.declare(name, Spec, c.c_void_p, c.c_size_t)
        self.declare("abi_version", c.c_uint32)
        self.declare("options_default", Options)
        self.declare("outputs_get", Tensor, c.c_void_p, c.c_size_t)
        tensors = (c.POINTER(Tensor), c.c_size_t)
        self.declare("runner_open", c.c_void_p, c.c_char_p, c.POINTER(Options), c.POINTER(c.c_void_p))
        self.declare("runner_run", c.c_void_p, c.c_void_p, *tensors, c.POINTER(c.c_void_p))
        self.declare("runner_run_into", c.c_void_p, c.c_void_p, *tensors, *tensors)
        self.declare("runner_bind", c.c_void_p, c.c_void_p, *tensors, *tensors, c.POINTER(c.c_void_p))
        self.declare("bound_run", c.c_void_p, c.c_void_p)

    def declare(self, name: str, result: Any, *arguments: Any) -> None:
        function = getattr(self.c, f"gantk_{name}")
        function.restype, function.argtypes = result, arguments

    def check(self, error: int | None) -> None:
        """Raise what the library reported."""
        if error is None:
            return
        what, where, hint = (
            getattr(self.c, f"gantk_error_{part}")(error).decode() for part in ("what", "where", "hint")
        )
        kind = {1: GantkError, 2: UsageError, 3: BackendMissingError}[self.c.gantk_error_get_kind(error)]
        self.c.gantk_error_free(error)
        raise kind(what, where=where or None, hint=hint or None)

    def open(self, path: Path | str, **options: Any) -> CppRunner:
        chosen = self.c.gantk_options_default()
        for name, value in options.items():
            setattr(chosen, name, value.encode() if isinstance(value, str) else value)
        runner = c.c_void_p()
        self.check(self.c.gantk_runner_open(os.fsencode(path), c.byref(chosen), c.byref(runner)))
        return CppRunner(self, runner)


class CppRunner:
    """A runner of the library, as a Python runner looks."""

    def __init__(self, library: Library, handle: c.c_void_p) -> None:
        self.library, self.handle = library, handle

    def fact(self, name: str) -> str:
        return str(getattr(self.library.c, f"gantk_runner_{name}")(self.handle).decode())

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        tensors, outputs = _tensors(feeds), c.c_void_p()
        call = self.library.c.gantk_runner_run
        self.library.check(call(self.handle, tensors, len(feeds), c.byref(outputs)))
        try:
            found = [
                self.library.c.gantk_outputs_get(outputs, index)
                for index in range(self.library.c.gantk_outputs_count(outputs))
            ]
            return {tensor.name.decode(): tensor.array() for tensor in found}
        finally:
            self.library.c.gantk_outputs_free(outputs)

    def run_into(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], out: Mapping[str, np.ndarray[Any, Any]]
    ) -> None:
        self.run_at(_tensors(feeds), _tensors(out))

    def run_at(self, inputs: Any, outputs: Any) -> None:
        """From and to arrays of `Tensor`."""
        call = self.library.c.gantk_runner_run_into
        self.library.check(call(self.handle, inputs, len(inputs), outputs, len(outputs)))

    @contextmanager
    def bind_at(self, inputs: Any, outputs: Any) -> Iterator[Callable[[], None]]:
        """A run that is bound to arrays of `Tensor`."""
        bound, functions = c.c_void_p(), self.library.c
        call = functions.gantk_runner_bind
        self.library.check(call(self.handle, inputs, len(inputs), outputs, len(outputs), c.byref(bound)))
        try:
            yield lambda: self.library.check(functions.gantk_bound_run(bound))
        finally:
            functions.gantk_bound_free(bound)

    def close(self) -> None:
        self.library.c.gantk_runner_free(self.handle)
        self.handle = c.c_void_p()

    def __enter__(self) -> CppRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tensors(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    return (Tensor * len(arrays))(*(Tensor.of(name, array) for name, array in arrays.items()))
