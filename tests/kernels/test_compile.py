# SPDX-License-Identifier: Apache-2.0
"""Sources to machine code by the real NVRTC, once for a machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gantk.errors import BackendMissingError, GantkError
from gantk.kernels import cache
from gantk.kernels import compile as compiling
from gantk.kernels import sources as finding
from gantk.kernels.architecture import TESTED, Target, target_for
from gantk.kernels.compile import compile_unit, compiled, entry_name, known_architectures, nvrtc_version
from gantk.kernels.sources import Sources, read_sources, source_folder, sources

needs_nvrtc = pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None,
    reason="wants cuda-bindings and NVRTC",
)

FILL = """
#include <gantk/kernels/fill.h>
#include "values.cuh"

extern "C" __global__ void gantk_fill(const __grid_constant__ Fill fill) {
    if (threadIdx.x < fill.count) fill.values[threadIdx.x] = value(threadIdx.x);
}
"""
VALUES = "static __device__ float value(int index) { return 2.f * index; }\n"
HEADER = "#pragma once\nstruct Fill { float* values; unsigned count; };\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "kernels"
    (root / "cuda").mkdir(parents=True)
    (root / "include/gantk/kernels").mkdir(parents=True)
    (root / "cuda/fill.cu").write_text(FILL)
    (root / "cuda/values.cuh").write_text(VALUES)
    (root / "include/gantk/kernels/fill.h").write_text(HEADER)
    (root / "cuda/notes.md").write_text("not a source")
    return root


@pytest.fixture
def fresh(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Those sources in place of the real ones, an empty cache, and nothing compiled in this process."""
    found = read_sources(tree)
    monkeypatch.setattr(compiling, "sources", lambda: found)
    monkeypatch.setattr(compiling, "_compiled", {})
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return found


def test_sources_are_found_beside_the_tree_and_hashed_whole(tree: Path) -> None:
    assert (source_folder() / "include/gantk/kernels/types.h").is_file()
    assert sources().headers["gantk/kernels/types.h"].startswith("// SPDX")
    found = read_sources(tree)
    assert set(found.units) == {"fill"}
    assert set(found.headers) == {"gantk/kernels/fill.h", "values.cuh"}
    (tree / "cuda/notes.md").write_text("changed")
    assert read_sources(tree) == found
    digests = {found.digest}
    for path in ("cuda/fill.cu", "cuda/values.cuh", "include/gantk/kernels/fill.h"):
        (tree / path).write_text((tree / path).read_text() + "\n")
        digests.add(read_sources(tree).digest)
    (tree / "cuda/values.cuh").rename(tree / "cuda/other.cuh")
    digests.add(read_sources(tree).digest)
    assert len(digests) == 5


def test_sources_that_are_not_there_are_missed_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "__file__", str(tmp_path / "toolkit/gantk/kernels/sources.py"))
    with pytest.raises(GantkError, match="the CUDA sources of the kernels are not there"):
        source_folder()


def test_an_installed_wheel_has_the_sources(tmp_path: Path) -> None:
    """A real wheel, unpacked elsewhere and imported from there."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.fail("hatchling is not installed; pip install -e '.[dev]'")
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path / "site")], check=True)
    code = (
        "from gantk.kernels.sources import source_folder, sources\n"
        "print(source_folder()); print(sources().digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    folder, digest = done.stdout.split()
    assert Path(folder) == tmp_path / "site/gantk/kernels/source"
    assert digest == sources().digest


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        *[((major, minor), f"sm_{major}{minor}") for major, minor in TESTED if (major, minor) != (9, 0)],
        ((9, 0), "sm_90a"),
        ((8, 7), "sm_86"),
        ((10, 3), "sm_100"),
        ((12, 1), "sm_120"),
        ((11, 0), "compute_100"),  # No machine code of another family runs there.
        ((13, 0), "compute_120"),
    ],
)
def test_a_gpu_gets_code_of_its_family_else_ptx(capability: tuple[int, int], name: str) -> None:
    assert target_for(capability) == Target(name)


def test_an_older_nvrtc_serves_a_newer_gpu_by_ptx() -> None:
    assert target_for((12, 0), {75, 80, 86, 89, 90}) == Target("compute_90")
    assert target_for((9, 0), {75, 80, 86, 89}) == Target("compute_89")
    assert target_for((8, 9), {75, 80}) == Target("sm_80")


@pytest.mark.parametrize(("capability", "known"), [((7, 0), None), ((6, 1), None), ((7, 5), {80, 90})])
def test_a_gpu_that_is_too_old_is_refused_in_words(
    capability: tuple[int, int], known: set[int] | None
) -> None:
    with pytest.raises(GantkError, match=rf"compute capability {capability[0]}\.{capability[1]}"):
        target_for(capability, known)


@needs_nvrtc
def test_every_architecture_compiles_to_its_own_code(fresh: Sources) -> None:
    for capability in TESTED:
        target = target_for(capability, known_architectures())
        code = compile_unit("fill", target, fresh)
        assert code[:4] == b"\x7fELF"
        assert b"gantk_fill" in code
    text = compile_unit("fill", Target("compute_90"), fresh)
    assert b".target sm_90" in text
    assert b".entry gantk_fill" in text


@needs_nvrtc
def test_an_error_has_the_compilers_log(fresh: Sources) -> None:
    broken = replace(fresh, units={"fill": FILL.replace("fill.count", "fill.length")})
    with pytest.raises(GantkError, match=r'(?s)does not compile for sm_80.*fill\.cu\(6\).*"length"'):
        compile_unit("fill", Target("sm_80"), broken)
    with pytest.raises(GantkError, match="no CUDA unit 'paint'; there are fill"):
        compile_unit("paint", Target("sm_80"), fresh)
    with pytest.raises(GantkError, match="does not compile for sm_42: NVRTC_ERROR_INVALID_OPTION"):
        compile_unit("fill", Target("sm_42"), fresh)


@needs_nvrtc
def test_code_comes_from_the_process_then_the_disk_then_nvrtc(
    fresh: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(unit: str, target: Target, code: Sources) -> bytes:
        made.append(target.name)
        return compile_unit(unit, target, code)

    monkeypatch.setattr(compiling, "compile_unit", counted)
    first = compiled("fill", Target("sm_86"))
    assert compiled("fill", Target("sm_86")) is first
    monkeypatch.setattr(compiling, "_compiled", {})
    assert compiled("fill", Target("sm_86")) == first
    assert made == ["sm_86"]
    compiled("fill", Target("sm_89"))
    assert made == ["sm_86", "sm_89"]

    disk = cache.kernel_cache()
    assert disk is not None
    for path in disk.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.setattr(compiling, "_compiled", {})
    assert compiled("fill", Target("sm_86")) == first
    assert made == ["sm_86", "sm_89", "sm_86"]
    monkeypatch.setenv(cache.VARIABLE, "off")
    monkeypatch.setattr(compiling, "_compiled", {})
    assert compiled("fill", Target("sm_86")) == first
    assert made[3:] == ["sm_86"]


def test_everything_that_code_depends_on_changes_its_name(
    fresh: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(unit: str = "fill", target: str = "sm_86", code: Sources = fresh, nvrtc: int = 0) -> str:
        return entry_name(unit, Target(target), code, (13, nvrtc))

    names = {name(), name("gram"), name(target="sm_89"), name(code=replace(fresh, digest="0")), name(nvrtc=1)}
    monkeypatch.setattr(compiling, "OPTIONS", ("--std=c++20",))
    names.add(name())
    assert len(names) == 6


@needs_nvrtc
def test_threads_that_want_the_same_code_compile_it_once(
    fresh: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(
        compiling, "compile_unit", lambda unit, target, code: made.append(unit) or compile_unit(unit, target, code)
    )  # fmt: skip
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(compiled("fill", Target("sm_80")))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["fill"]
    assert len(found) == 6
    assert len(set(found)) == 1


COMPILER = """
import sys
from pathlib import Path
from gantk.kernels import compile as compiling
from gantk.kernels.architecture import Target
from gantk.kernels.sources import read_sources

found = read_sources(Path(sys.argv[1]))
compiling.sources = lambda: found
print("ready", flush=True)
for name in ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90a"):
    compiling.compiled("fill", Target(name))
"""


@needs_nvrtc
def test_processes_compile_side_by_side_and_may_be_killed(fresh: Sources, tree: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", COMPILER, str(tree)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    processes[0].send_signal(signal.SIGKILL)
    codes = [process.wait(timeout=120) for process in processes]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    assert codes == [-signal.SIGKILL, 0, 0]
    disk = cache.kernel_cache()
    assert disk is not None
    for name in ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90a"):
        kept = disk.get(entry_name("fill", Target(name), fresh, nvrtc_version()))
        assert kept == compile_unit("fill", Target(name), fresh)


@pytest.fixture
def not_asked_yet() -> Iterator[None]:
    """NVRTC as in a process that has not asked it for anything, before and after."""
    for function in (nvrtc_version, known_architectures):
        function.cache_clear()
    yield
    for function in (nvrtc_version, known_architectures):
        function.cache_clear()


@pytest.mark.usefixtures("not_asked_yet")
def test_a_machine_without_nvrtc_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cuda.bindings", None)
        with pytest.raises(BackendMissingError, match="cuda-bindings is not installed") as missing:
            nvrtc_version()
        assert missing.value.hint == "pip install 'gantk[kernels]'"

    class Lost:
        @staticmethod
        def nvrtcVersion() -> None:  # noqa: N802
            raise RuntimeError('Failure finding "libnvrtc.so"\nmany more lines')

    with monkeypatch.context() as patch:
        patch.setattr(compiling, "_nvrtc", Lost)
        with pytest.raises(
            BackendMissingError, match=r'NVRTC is not there: Failure finding "libnvrtc\.so"\n'
        ):
            known_architectures()
