# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install` puts in place is enough for a project outside the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gantk
import networks
from cpp_library import SOURCE, build_cpp, onnxruntime_library
from gantk.runtime.pictures import load, save
from native_build import KERNELS, onnxruntime_root, with_clang

FOLDERS = {"LIBDIR": "lib64", "INCLUDEDIR": "headers/c++"}


def call(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefix")
    call("cmake", "--install", built, "--prefix", folder)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return networks.bundle(tmp_path / "x.gantk").root


def expected(bundle: Path) -> str:
    with gantk.open(bundle, "onnxruntime", threads=1) as runner:
        picture = runner.run({"latent": np.float32([[0.5, -1, 2, 0]])})["picture"]
    return f"0.1.0 {picture.size} {picture.flat[0]:.6f}\n"


def test_a_project_finds_the_package(prefix: Path, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(SOURCE / "tests/consumer", tmp_path / "consumer")
    build = tmp_path / "build"
    call("cmake", "-S", tmp_path / "consumer", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    call("cmake", "--build", build)
    assert call(build / "consumer", bundle) == expected(bundle)
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:, 4:] = (10, 20, 30)
    save(tmp_path / "picture.png", pixels)
    call(build / "half", tmp_path / "picture.png", tmp_path / "half.png")
    np.testing.assert_array_equal(load(tmp_path / "half.png")[0], pixels[::2, ::2])


def test_the_commands_find_the_library_where_they_were_put(prefix: Path, bundle: Path) -> None:
    moved = prefix.parent / "moved"
    shutil.copytree(prefix, moved, symlinks=True)
    assert "picture: float32[N x 3 x 8 x 8]" in call(moved / "bin/gantk-run", bundle)
    done = subprocess.run(
        [moved / "bin/gantk-bench-worker"], input="", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_application_may_bring_onnx_runtime_beside_it(prefix: Path, bundle: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(prefix, moved, symlinks=True)
    (library,) = moved.rglob("libgantk.so")
    (library.parent / "libonnxruntime.so.1").symlink_to(onnxruntime_library())
    by_name = {"GANTK_ONNXRUNTIME": "libonnxruntime.so.1"}  # As it is looked for where no build found it.
    assert "picture: float32[N x 3 x 8 x 8]" in call(moved / "bin/gantk-run", bundle, env=by_name)


def test_within_another_project_that_one_chooses_kinds_of_libraries(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        f"""
        cmake_minimum_required(VERSION 3.25)
        project(application LANGUAGES CXX)
        add_subdirectory({SOURCE} gantk)
        file(WRITE empty.cpp "")
        add_library(own empty.cpp)
        get_target_property(kind own TYPE)
        message(STATUS "own is a ${{kind}}")
        """
    )
    root = f"-DONNXRUNTIME_ROOT={onnxruntime_root()}"
    assert "own is a STATIC_LIBRARY" in call("cmake", "-S", tmp_path, "-B", tmp_path / "build", root)


def test_within_another_project_a_static_package_names_what_it_wants_and_examples_are_left_out(
    tmp_path: Path,
) -> None:
    """That project says nothing of shared libraries, and wants pictures."""
    (tmp_path / "CMakeLists.txt").write_text(
        f"""
        cmake_minimum_required(VERSION 3.25)
        project(application LANGUAGES CXX)
        add_subdirectory({SOURCE} gantk)
        if(TARGET gantk_stylize)
          message(FATAL_ERROR "examples are built")
        endif()
        """
    )
    build, user = tmp_path / "build", tmp_path / "user"
    options = (f"-DONNXRUNTIME_ROOT={onnxruntime_root()}", "-DGANTK_PICTURES=ON")
    call("cmake", "-S", tmp_path, "-B", build, *options)
    (build / "gantk/gantkTargets.cmake").write_text("")  # As if it were installed.
    user.mkdir()
    (user / "CMakeLists.txt").write_text(
        f"""
        cmake_minimum_required(VERSION 3.25)
        project(user LANGUAGES CXX)
        find_package(gantk REQUIRED PATHS {build}/gantk NO_DEFAULT_PATH)
        get_property(found DIRECTORY PROPERTY IMPORTED_TARGETS)
        message(STATUS "wants ${{found}}")
        """
    )
    said = call("cmake", "-S", user, "-B", tmp_path / "user-build")
    assert all(target in said for target in ("OpenSSL::Crypto", "PNG::PNG", "JPEG::JPEG"))


def test_versions_that_are_not_compatible_lie_side_by_side(prefix: Path) -> None:
    """As find_package() says which are: a program is not started with another one."""
    (folder,) = {path.parent for path in prefix.rglob("libgantk.so")}
    for name in ("libgantk", "libgantk_pictures"):
        found = sorted(path.name for path in folder.glob(f"{name}.so*"))
        assert found == [f"{name}.so", f"{name}.so.0.1", f"{name}.so.0.1.0"]


def test_pictures_show_the_functions_of_their_header_and_no_other(built: Path) -> None:
    header = (SOURCE / "include/gantk/pictures.hpp").read_text()
    shown = call("nm", "-D", "-C", "--defined-only", built / "src/pictures/libgantk_pictures.so")
    found = re.findall(r" [TW] gantk::pictures::(\w+)", shown)
    assert sorted(found) == sorted(re.findall(r"^GANTK_API \w+ (\w+)\(", header, re.MULTILINE))


def test_folders_may_be_named_in_full(tmp_path: Path) -> None:
    """As distributions do whose packages have a prefix each."""
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    folders = (f"-DCMAKE_INSTALL_{kind}={prefix}/{name}" for kind, name in FOLDERS.items())
    options = (f"-DONNXRUNTIME_ROOT={onnxruntime_root()}", f"-DCMAKE_INSTALL_PREFIX={prefix}", *folders)
    call("cmake", "-S", SOURCE, "-B", build, "--preset", "library", "-DGANTK_TOOLS=ON", *options)
    assert 'ORIGIN/../lib64"' in (build / "cmake_install.cmake").read_text()
    moved = tmp_path / "moved"
    (moved / "lib64/pkgconfig").mkdir(parents=True)
    shutil.copy(build / "gantk.pc", moved / "lib64/pkgconfig")
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is missing: apt install pkg-config")
    for variable, name in {"prefix": ".", "libdir": "lib64", "includedir": "headers/c++"}.items():
        where = {"PKG_CONFIG_PATH": str(moved / "lib64/pkgconfig")}
        said = call("pkg-config", f"--variable={variable}", "gantk", env=where)
        assert os.path.normpath(said.strip()) == os.path.normpath(moved / name)


def test_libraries_of_both_projects_can_lie_in_one_folder() -> None:
    """Those of `kernels` and of `toolkit/cpp`: of two with one name the later would replace the other."""
    names = [
        {
            name
            for path in folder.rglob("CMakeLists.txt")
            for name in re.findall(r"(?:add_library\(|set\(product )(gantk\w*)", path.read_text())
        }
        for folder in (KERNELS, SOURCE)
    ]
    assert all(names)
    assert names[0] & names[1] == set()


@pytest.fixture(scope="module")
def static_prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    static = ("-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_CXX_FLAGS_RELEASE=-O0 -DNDEBUG")
    options = ("--preset", "library", *static, *with_clang())
    call("cmake", "--install", build_cpp("gantk", "gantk_pictures", options=options), "--prefix", folder)
    return folder


def test_static_libraries_are_parts_of_a_shared_one(static_prefix: Path, tmp_path: Path) -> None:
    """As a plugin of an application is."""
    (folder,) = static_prefix.rglob("pkgconfig")
    libraries = [folder.parent / f"lib{name}.a" for name in ("gantk_pictures", "gantk")]
    every = ("-Wl,--whole-archive", *libraries, "-Wl,--no-whole-archive")
    call("c++", "-shared", "-Wl,-z,defs", "-o", tmp_path / "plugin.so", *every, "-lpng", "-ljpeg", "-lcrypto")


def test_a_static_library_is_enough_for_c(static_prefix: Path, bundle: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is missing: apt install pkg-config")
    (folder,) = static_prefix.rglob("pkgconfig")
    where = {"PKG_CONFIG_PATH": str(folder)}
    flags = call("pkg-config", "--static", "--cflags", "--libs", "gantk", env=where).split()
    call("cc", "-std=c11", SOURCE / "tests/c_api_test.c", "-o", tmp_path / "c_api_test", *flags)
    assert call(tmp_path / "c_api_test", bundle) == "all is well\n"


def test_pkg_config(prefix: Path, bundle: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is missing: apt install pkg-config")
    (folder,) = prefix.rglob("pkgconfig")
    where = {"PKG_CONFIG_PATH": str(folder)}
    flags = call("pkg-config", "--cflags", "--libs", "gantk", env=where).split()
    assert f"-I{prefix}/include" in [os.path.normpath(flag) for flag in flags]
    source, program = SOURCE / "tests/c_api_test.c", tmp_path / "c_api_test"
    call("cc", "-std=c11", source, "-o", program, *flags, f"-Wl,-rpath,{folder.parent}")
    assert call(program, bundle) == "all is well\n"


@pytest.mark.parametrize(
    ("option", "package", "hint"),
    [
        (
            "-DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON",
            "nlohmann_json",
            "apt-get install nlohmann-json3-dev",
        ),
        ("-DCMAKE_DISABLE_FIND_PACKAGE_OpenSSL=ON", "OpenSSL", "apt-get install libssl-dev"),
        ("-DCMAKE_DISABLE_FIND_PACKAGE_OnnxRuntime=ON", "OnnxRuntime", "-DONNXRUNTIME_ROOT=FOLDER"),
        ("-DCMAKE_DISABLE_FIND_PACKAGE_PNG=ON", "PNG", "apt-get install libpng-dev"),
        ("-DCMAKE_DISABLE_FIND_PACKAGE_JPEG=ON", "JPEG", "apt-get install libjpeg-dev"),
        ("-DCMAKE_DISABLE_FIND_PACKAGE_GTest=ON", "GTest", "apt-get install libgtest-dev"),
    ],
)
def test_what_is_missing_is_named_with_what_to_install(
    built: Path, tmp_path: Path, option: str, package: str, hint: str
) -> None:
    done = subprocess.run(
        ["cmake", "-S", SOURCE, "-B", tmp_path, f"-DONNXRUNTIME_ROOT={onnxruntime_root()}", option],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert f"gantk wants {package}, which is not here." in said
    assert hint in said
