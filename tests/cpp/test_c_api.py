# SPDX-License-Identifier: Apache-2.0
"""The C API from C and from Python, and the command gantk-run."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

import networks
from cpp_library import SOURCE, Library
from waiting import busy_s_after


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return networks.bundle(tmp_path / "x.gantk").root


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def test_from_c(built: Path, bundle: Path) -> None:
    done = call(built / "tests/gantk_c_test", bundle)
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr


def test_the_library_shows_the_functions_of_the_header_and_no_other(built: Path) -> None:
    header = (SOURCE / "include/gantk/gantk.h").read_text()
    declared = set(re.findall(r"^GANTK_C_API [^;(]*?\b(gantk_\w+)\(", header, re.MULTILINE))
    listed = call("nm", "-D", "--defined-only", built / "src/libgantk.so")
    assert listed.returncode == 0, listed.stderr
    symbols = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert {name for name in symbols if not name.startswith("_Z")} == declared
    # Of C++ only what is in its own namespace, or a template of the standard library over it.
    assert [name for name in symbols if name.startswith("_ZN5gantk11onnxruntime")] == []


def test_the_abi_is_the_one_of_the_header(library: Library) -> None:
    header = (SOURCE / "include/gantk/gantk.h").read_text()
    assert f"#define GANTK_ABI_VERSION {library.c.gantk_abi_version()}\n" in header


def test_the_command_tells_nobody_what_is_run(built: Path, bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    np.save(tmp_path / "latent.npy", networks.latents(1))
    silencing = ("CI", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in silencing}
    words = (bundle, "--input", f"latent={tmp_path / 'latent.npy'}", "--output-dir", tmp_path / "out")
    command = [str(word) for word in (built / "tools/gantk-run", *words)]
    environment = {**kept, "HOME": str(home), "TMPDIR": str(home)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert list(home.iterdir()) == []


def test_threads_leave_the_cores_to_others_after_a_run(library: Library, bundle: Path) -> None:
    """As ONNX Runtime comes, each keeps a core busy for 40 ms after every run."""
    feeds = {"latent": networks.latents(2048)}
    with library.open(bundle, threads=3) as runner:
        assert busy_s_after(lambda: runner.run(feeds)) < 0.02


def test_threads_share_a_runner(library: Library, bundle: Path) -> None:
    """ctypes lets go of Python's lock during a call, so that these really run at once."""
    with library.open(bundle, threads=1) as runner:
        wanted = {
            seed: runner.run({"latent": networks.latents(1 + seed % 3, seed)})["picture"] for seed in range(8)
        }
        wrong: list[int] = []

        def work(seed: int) -> None:
            latent, into = networks.latents(1 + seed % 3, seed), np.empty_like(wanted[seed])
            for _ in range(25):
                runner.run_into({"latent": latent}, {"picture": into})
                if not np.array_equal(into, wanted[seed]):
                    wrong.append(seed)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in wanted]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


def test_the_command_says_what_a_bundle_takes(built: Path, bundle: Path) -> None:
    done = call(built / "tools/gantk-run", bundle)
    assert (done.returncode, done.stdout) == (
        0, "input  latent: float32[N x 4]\noutput picture: float32[N x 3 x 8 x 8]\n",
    )  # fmt: skip
    assert done.stderr.startswith("tiny by onnxruntime ")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--input"], 2, "--input wants a value"),
        (["--input", "latent"], 2, "'latent' is not NAME=FILE.npy"),
        (["--input", "latent=x.npy"], 2, "--input wants --output-dir"),
        (["--threads", "0"], 2, "'0' is not a number of threads"),
        (["--fast", "1"], 2, "there is no option --fast"),
        (["other.gantk"], 2, "one bundle is wanted, not two"),
        (["--backend", "abacus"], 2, "'abacus' is not a backend"),
        (["--device", "cuda"], 3, "has no device 'cuda' here"),
        (["--input", "latent=none.npy", "--output-dir", "out"], 1, "cannot read `none.npy`: No such file"),
    ],
)
def test_the_command_is_strict(built: Path, bundle: Path, words: list[str], status: int, text: str) -> None:
    done = call(built / "tools/gantk-run", bundle, *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert re.search(f"^error: .*{re.escape(text)}", done.stderr, re.MULTILINE)


def test_the_command_reads_files_whose_names_have_equals_signs(
    built: Path, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "seed=1").mkdir()
    np.save(tmp_path / "seed=1/latent.npy", networks.latents(1))
    words = ("--input", f"latent={tmp_path}/seed=1/latent.npy", "--output-dir", tmp_path / "out")
    done = call(built / "tools/gantk-run", bundle, *words)
    assert done.returncode == 0, done.stderr


def test_what_the_command_cannot_read_or_write_is_said(built: Path, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "latent.npy", networks.latents(1))
    (tmp_path / "out/picture.npy").mkdir(parents=True)

    def refusal(file: str, folder: str) -> str:
        words = ("--input", f"latent={tmp_path / file}", "--output-dir", tmp_path / folder)
        done = call(built / "tools/gantk-run", bundle, *words)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr.partition("\n")[2].replace(str(tmp_path), "HERE")

    hint = "  hint: check the path\n"
    assert refusal(".", "out") == "error: cannot read `HERE`: Is a directory\n  in: HERE\n" + hint
    taken = "HERE/latent.npy/out"
    said = f"error: cannot write to `{taken}`: Not a directory\n  in: {taken}\n" + hint
    assert refusal("latent.npy", "latent.npy/out") == said
    whole = "HERE/out/picture.npy"
    assert refusal("latent.npy", "out") == f"error: cannot write `{whole}`: Is a directory\n  in: {whole}\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [
        "picture.npy"
    ]  # And nothing half written.


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_the_command_fails_where_its_output_has_no_room(built: Path, bundle: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [built / "tools/gantk-run", bundle], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "error: cannot write to standard output: No space left on device\n" in done.stderr


def test_without_onnx_runtime_it_says_what_to_install(built: Path, bundle: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [built / "tools/gantk-run", bundle],
        capture_output=True,
        text=True,
        check=False,
        env={"GANTK_ONNXRUNTIME": str(tmp_path / "libnone.so")},
    )
    assert done.returncode == 3
    assert "onnxruntime does not work here: its library cannot be loaded" in done.stderr
    assert "hint: install ONNX Runtime (Debian: apt-get install libonnxruntime-dev" in done.stderr


def test_help(built: Path) -> None:
    done = call(built / "tools/gantk-run", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: gantk-run BUNDLE --input NAME=FILE.npy")
