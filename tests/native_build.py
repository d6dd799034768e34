# SPDX-License-Identifier: Apache-2.0
"""Builds `kernels/` and `toolkit/cpp` for tests: once for each state of the sources, whichever process asks first."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "kernels"
CLANG = next(
    (name for name in ("clang++", "clang++-14", "clang++-15", "clang++-16") if shutil.which(name)), None
)
ONNXRUNTIME_ROOTS = (os.environ.get("ONNXRUNTIME_ROOT", ""), ROOT / "build/debian/usr", "/usr", "/usr/local")


def onnxruntime_root() -> Path:
    """Where ONNX Runtime's headers are; without them the test is skipped."""
    for root in ONNXRUNTIME_ROOTS:
        for folder in ("include/onnxruntime", "include", "include/onnxruntime/core/session"):
            if root and (Path(root) / folder / "onnxruntime_cxx_api.h").is_file():
                return Path(root)
    pytest.skip("ONNX Runtime's headers are missing: run .ci/packages, or set ONNXRUNTIME_ROOT")


def newer_onnxruntime_root() -> Path:
    """The same of 1.23 or later; without them the test is skipped."""
    for root in (ROOT / "build/debian-forky/usr", onnxruntime_root()):
        for header in root.glob("include/**/onnxruntime_c_api.h"):
            version = re.search(r"define ORT_API_VERSION (\d+)", header.read_text(encoding="utf-8"))
            if version is not None and int(version[1]) >= 23:
                return root
    pytest.skip("ONNX Runtime's headers are older than 1.23: run .ci/packages, or set ONNXRUNTIME_ROOT")


def onnxruntime_library(*, cuda: bool = False) -> Path:
    """The library of native operators, on request with kernels for one kind of GPU, which nvcc takes minutes for."""
    gpus = {"GANTK_CUDA_ARCHITECTURES": "75"} if cuda else {"GANTK_CUDA": "OFF"}
    options = tuple(f"-D{name}={value}" for name, value in {**_operators(), **gpus}.items())
    return build("gantk_onnxruntime", options=options) / "onnxruntime" / "libgantk_onnxruntime.so"


def _operators() -> dict[str, str]:
    """CMake's settings for them. They say for themselves how they are optimised; what calls them need not be."""
    return {"ONNXRUNTIME_ROOT": str(onnxruntime_root()), "CMAKE_CXX_FLAGS_RELEASE": "-O0 -DNDEBUG"}


def onnxruntime_wheel(folder: Path) -> Path:
    """A wheel of the package that has this library, as pip makes it, in a folder; of what was built before."""
    if find_spec("scikit_build_core") is None:
        pytest.skip("scikit-build-core is missing: pip install 'gantk[dev]'")
    if shutil.which("ninja") is None:
        pytest.skip("ninja is missing: run .ci/packages, or apt install ninja-build")
    built = onnxruntime_library().parents[1]
    settings = {"build-dir": str(built)}
    settings |= {
        f"cmake.define.{name}": value for name, value in {**_operators(), "GANTK_CUDA": "OFF"}.items()
    }
    with (built / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run(
            *(sys.executable, "-m", "pip", "wheel", KERNELS, "--wheel-dir", folder),
            *(f"-C{name}={value}" for name, value in settings.items()),
            *("--no-deps", "--no-build-isolation", "--no-index"),
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def with_clang() -> tuple[str, ...]:
    """CMake's options for a build by Clang, where it is: it compiles what sanitizers add sooner than GCC."""
    if CLANG is None:
        return ()
    # It takes a third of the time that the usual linker takes for what sanitizers add.
    linker = ("-DCMAKE_EXE_LINKER_FLAGS=-fuse-ld=gold",) if shutil.which("ld.gold") else ()
    return f"-DCMAKE_CXX_COMPILER={CLANG}", f"-DCMAKE_C_COMPILER={CLANG.replace('++', '')}", *linker


def build(*targets: str, options: tuple[str, ...] = (), source: Path = KERNELS) -> Path:
    """The folder in which `targets` are built.

    Args:
        targets: Of the ``CMakeLists.txt`` in `source`.
        options: For CMake, such as ``-DGANTK_CUDA=OFF``.
        source: The folder of a project.
    """
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing: run .ci/packages, or apt install cmake g++")
    folder = (
        Path(tempfile.gettempdir())
        / f"gantk-{source.name}-{os.getuid()}-{_fingerprint(source, targets, options)}"
    )
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Two workers of pytest want the same build.
        if not (folder / "done").exists():
            generator = ("-G", "Ninja") if shutil.which("ninja") else ()
            _run("cmake", "-S", source, "-B", folder, *generator, *options)
            _run("cmake", "--build", folder, "--parallel", _jobs(), "--target", *targets)
            (folder / "done").touch()
    return folder


def _jobs() -> str:
    """One beside other workers of pytest, which keep the other cores busy; else as many as there are cores."""
    return "1" if "PYTEST_XDIST_WORKER" in os.environ else str(os.cpu_count() or 1)


def _fingerprint(source: Path, targets: tuple[str, ...], options: tuple[str, ...]) -> str:
    # With the place: CMake does not build in a folder what lies elsewhere than what it built there before.
    digest = hashlib.sha256(repr((source, targets, options, os.environ.get("CXX"))).encode())
    sources = [*source.rglob("*"), *(ROOT / "tests/native").glob("*.[cht]*")]
    for path in sorted(path for path in sources if path.is_file()):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
