# SPDX-License-Identifier: Apache-2.0
"""Writing a bundle: whole or absent, whatever goes wrong and whenever."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import networks
from gantk.bundle import Bundle, FileRef, Manifest, Variant, Writer
from gantk.errors import GantkError


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def verify(root: Path) -> Bundle:
    """Read the bundle and every file that it names."""
    bundle = Bundle.read(root)
    for ref in bundle.manifest.files:
        bundle.read_file(ref)
    return bundle


def strays(root: Path) -> set[str]:
    """What lies in the bundle without being named, and what lies hidden beside it."""
    named = {ref.path for ref in Bundle.read(root).manifest.files} | {"manifest.json"}
    inside = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - named
    return inside | {path.name for path in root.parent.iterdir() if path.name.startswith(".")}


def test_a_new_bundle_leaves_nothing_else(tmp_path: Path) -> None:
    networks.bundle(tmp_path / "deep" / "er" / "x.gantk")
    verify(tmp_path / "deep" / "er" / "x.gantk")
    assert strays(tmp_path / "deep" / "er" / "x.gantk") == set()


def test_an_existing_bundle_wants_force(tmp_path: Path) -> None:
    root = tmp_path / "x.gantk"
    networks.bundle(root)
    before = contents(root)
    with pytest.raises(GantkError, match="exists") as caught:
        networks.bundle(root)
    assert caught.value.hint == "--force replaces it"
    assert contents(root) == before


def test_force_replaces_and_the_next_write_sweeps(tmp_path: Path) -> None:
    root = tmp_path / "x.gantk"
    for seed in range(4):
        networks.bundle(root, {("fp32", "plain"): networks.generator(seed=seed)}, force=True)
        bundle = verify(root)
        assert bundle.read_file(bundle.find("fp32").file) == networks.generator(seed=seed)
        assert len(strays(root)) <= 3  # The files of the generation before, for whoever is reading them.


def test_the_same_again_is_no_change(tmp_path: Path) -> None:
    root = tmp_path / "x.gantk"
    networks.bundle(root)
    for _ in range(3):
        networks.bundle(root, force=True)
        verify(root)


def test_bytes_that_are_there_under_another_name_are_not_written_again(tmp_path: Path) -> None:
    root, seeds = tmp_path / "x.gantk", (0, 1, 1, 1)
    made = [
        networks.bundle(root, {("fp32", "plain"): networks.generator(seed=seed)}, force=True).manifest
        for seed in seeds
    ]
    assert made[1].variants[0].file.path.startswith("model.fp32.plain-")
    assert made[1].files == made[2].files == made[3].files
    assert strays(root) == set()


def test_a_file_system_that_became_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is said, not that its traces cannot be removed."""
    root = networks.bundle(tmp_path / "x.gantk").root

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with pytest.raises(GantkError, match="no more"), Writer(root, force=True) as writer:
        writer.add("model.fp16.onnx", b"new")
        monkeypatch.setattr(Path, "unlink", refuse)
        raise GantkError("no more")
    verify(root)


@pytest.mark.parametrize("what", ["file", "folder", "link"])
@pytest.mark.parametrize("force", [False, True])
def test_nothing_but_a_bundle_is_replaced(tmp_path: Path, what: str, force: bool) -> None:
    root = tmp_path / "x.gantk"
    if what == "file":
        root.write_text("mine")
    elif what == "folder":
        root.mkdir()
        (root / "thesis.txt").write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "thesis.txt").write_text("mine")
        root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GantkError, match="is not a bundle"):
        networks.bundle(root, force=force)
    kept = {"file": root, "folder": root / "thesis.txt", "link": tmp_path / "elsewhere" / "thesis.txt"}[what]
    assert kept.read_text() == "mine"


def test_an_empty_folder_may_become_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "x.gantk").mkdir()
    networks.bundle(tmp_path / "x.gantk")
    verify(tmp_path / "x.gantk")


def test_a_users_files_survive(tmp_path: Path) -> None:
    root = tmp_path / "x.gantk"
    networks.bundle(root)
    mine = [
        "README.md",
        "model.onnx",
        "model.mine.onnx",
        "model.fp32.onnx.bak",
        "checkpoint/notes.txt",
        "notes/probe.txt",
    ]
    mine += ["checkpoint/other.safetensors", ".git/config", ".partial", "my.partial", "probes.safetensors"]
    for name in mine:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("mine")
    (tmp_path / ".x.gantk.old.partial").mkdir()
    (tmp_path / ".x.gantk.0123abcd.partial").touch()
    (root / "model.fp16.onnx").mkdir()
    for seed in (1, 2, 3):
        networks.bundle(root, {("fp32", "plain"): networks.generator(seed=seed)}, force=True)
    assert all((root / name).read_text() == "mine" for name in mine)
    assert (tmp_path / ".x.gantk.old.partial").is_dir()
    assert (tmp_path / ".x.gantk.0123abcd.partial").is_file()
    assert (root / "model.fp16.onnx").is_dir()


def test_leftovers_of_a_dead_writer_are_swept(tmp_path: Path) -> None:
    root = tmp_path / "x.gantk"
    networks.bundle(root)
    (root / "model.fp16.onnx").write_bytes(b"left")
    (root / ".manifest.json.0123abcd.partial").write_bytes(b"left")
    (root / "checkpoint" / ".generator.safetensors.0123abcd.partial").write_bytes(b"left")
    (tmp_path / ".x.gantk.0123abcd.partial").mkdir()
    (tmp_path / ".x.gantk.0123abcd.partial" / "model.fp32.onnx").write_bytes(b"left")
    networks.bundle(root, force=True)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"left"]
    assert left == []


def test_an_exception_leaves_the_old_bundle(tmp_path: Path) -> None:
    root = tmp_path / "x.gantk"
    networks.bundle(root)
    before = contents(root)
    with pytest.raises(RuntimeError), Writer(root, force=True) as writer:
        writer.add("model.fp32.onnx", b"new")
        writer.add("checkpoint/generator.safetensors", b"new")
        raise RuntimeError
    assert contents(root) == before
    with pytest.raises(RuntimeError), Writer(tmp_path / "new.gantk") as writer:
        writer.add("model.fp32.onnx", b"new")
        raise RuntimeError
    assert {path.name for path in tmp_path.iterdir()} == {"x.gantk"}


@pytest.mark.parametrize("replaces", [False, True])
def test_a_full_disk_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaces: bool) -> None:
    """Each write, sync, rename and folder fails in turn; the last round is the one in which nothing fails."""
    calls, fail_at, write_bytes = 0, 0, Path.write_bytes

    def counting(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                if real is write_bytes:
                    real(args[0], args[1][: len(args[1]) // 2])  # What fits is written.
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(Path, "write_bytes", counting(Path.write_bytes))
    monkeypatch.setattr(Path, "replace", counting(Path.replace))
    monkeypatch.setattr(Path, "rename", counting(Path.rename))
    monkeypatch.setattr(Path, "mkdir", counting(Path.mkdir))
    monkeypatch.setattr(os, "fsync", counting(os.fsync))
    root, refused = tmp_path / "x.gantk", 0
    if replaces:
        networks.bundle(root, {("fp32", "plain"): networks.generator(seed=1)})
    for fail_at in range(1, 200):
        calls = 0
        try:
            networks.bundle(root, {("fp32", "plain"): networks.generator(seed=2)}, force=replaces)
        except GantkError as error:
            refused += 1
            assert "No space left" in error.what
            assert ".partial" not in str(error)
            assert error.hint is not None
            assert "MiB are free" in error.hint
        else:
            assert calls < fail_at
            break
        if not replaces and not root.exists():
            assert list(tmp_path.iterdir()) == []
            continue
        bundle = verify(root)  # The old one, or, once the manifest is replaced, the new one.
        assert bundle.read_file(bundle.find("fp32").file) in (
            networks.generator(seed=1),
            networks.generator(seed=2),
        )
        if not replaces:
            break  # Only making the last name durable failed; the bundle is there.
    assert refused >= 10


def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk wants root")
    try:
        root = disk / "x.gantk"
        networks.bundle(root)
        before = contents(root)
        with pytest.raises(GantkError, match="No space left"):
            networks.bundle(root, {("fp32", "plain"): bytes(500_000)}, force=True)
        assert contents(root) == before
        with pytest.raises(GantkError, match="No space left"):
            networks.bundle(disk / "y.gantk", {("fp32", "plain"): bytes(500_000)})
        assert [path.name for path in disk.iterdir()] == ["x.gantk"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_unwritable_folder(unprivileged: Path) -> None:
    unprivileged.chmod(0o500)
    with pytest.raises(GantkError, match="Permission denied"):
        networks.bundle(unprivileged / "x.gantk")
    assert list(unprivileged.iterdir()) == []


def test_an_unwritable_bundle_is_told_before_the_work(unprivileged: Path) -> None:
    root = networks.bundle(unprivileged / "x.gantk").root
    root.chmod(0o500)
    with pytest.raises(GantkError, match="cannot write .*Permission denied"), Writer(root, force=True):
        pytest.fail("the work has begun")
    root.chmod(0o700)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GantkError, match="cannot write") as caught:
        networks.bundle(tmp_path / "file" / "x.gantk")
    assert caught.value.hint == f"`{tmp_path / 'file'}` is in the way of a folder"


@pytest.mark.parametrize("what", ["link to nothing", "link to itself", "link to an empty folder", "pipe"])
def test_what_no_folder_can_be_moved_to_is_refused_before_the_work(tmp_path: Path, what: str) -> None:
    root = tmp_path / "x.gantk"
    (tmp_path / "empty").mkdir()
    if what == "pipe":
        os.mkfifo(root)
    else:
        root.symlink_to({"link to nothing": "none", "link to itself": root.name}.get(what, "empty"))
    with pytest.raises(GantkError, match="exists and is not a bundle"), Writer(root):
        pytest.fail("the work has begun")


@pytest.mark.parametrize("replaces", [False, True])
def test_a_second_writer_is_told(tmp_path: Path, replaces: bool) -> None:
    root = tmp_path / "x.gantk"
    if replaces:
        networks.bundle(root)
    with Writer(root, force=replaces) as first:
        ref = first.add("model.fp32.onnx", b"first")
        with pytest.raises(GantkError, match="another process is writing"):
            networks.bundle(root, force=replaces)
        latent, picture = networks.specs()
        first.commit(
            Manifest("dcgan", "first", {}, (latent,), (picture,), (Variant(ref, "fp32", "plain", 20),))
        )
    assert verify(root).manifest.name == "first"
    networks.bundle(root, force=True)


@pytest.mark.parametrize(
    "name", ["../x.onnx", "/srv/x", "manifest.json", "x.onnx", "model.fp32.onnx/../y", ""]
)
def test_only_a_bundles_names_are_written(tmp_path: Path, name: str) -> None:
    with Writer(tmp_path / "x.gantk") as writer, pytest.raises(GantkError):
        writer.add(name, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_linked_folder_is_not_written_through(tmp_path: Path) -> None:
    root = tmp_path / "x.gantk"
    networks.bundle(root)
    (root / "checkpoint").rename(tmp_path / "elsewhere")
    (root / "checkpoint").symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    with pytest.raises(GantkError, match="leads out"):
        networks.bundle(root, force=True)
    assert contents(tmp_path / "elsewhere") == before


def test_a_manifest_that_names_what_was_not_added(tmp_path: Path) -> None:
    latent, picture = networks.specs()
    variant = Variant(FileRef.of("model.fp32.onnx", b"x"), "fp32", "plain", 20)
    with pytest.raises(GantkError, match="was not added"), Writer(tmp_path / "x.gantk") as writer:
        writer.commit(Manifest("dcgan", "x", {}, (latent,), (picture,), (variant,)))
    assert list(tmp_path.iterdir()) == []


_ENDLESS = """
import sys, itertools
from pathlib import Path
sys.path.insert(0, {tests!r})
import networks
root = Path({root!r})
for seed in itertools.count(1):
    files = {{("fp32", "plain"): bytes([seed % 251]) * 20000, ("fp16", "plain"): bytes([seed % 241]) * 10000}}
    networks.bundle(root, files, force=True)
    if seed == 1:
        print("started", flush=True)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL while a process replaces a bundle over and over: it always reads, and the next write sweeps."""
    root, rng = tmp_path / "x.gantk", random.Random(0)
    code = _ENDLESS.format(tests=str(Path(networks.__file__).parent), root=str(root))
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            time.sleep(rng.uniform(0, 0.08))
            process.send_signal(signal.SIGKILL)
            process.wait()
        verify(root)
    networks.bundle(root, force=True)
    networks.bundle(root, force=True)
    verify(root)
    assert not [name for name in strays(root) if "partial" in name]
