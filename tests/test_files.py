# SPDX-License-Identifier: Apache-2.0
"""Files appear whole or not at all, and what goes wrong is said with the file's name."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from gantk.errors import GantkError
from gantk.files import (
    check_file,
    check_writable,
    is_locked,
    leads_inside,
    locked,
    named_errors,
    read_bytes,
    replacing,
    sync_folder,
    temporary_folder,
    temporary_place,
    write_bytes,
    write_text,
)


def test_written_files_are_read(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "x", b"\0\xff")
    write_text(tmp_path / "y", "größer\n")
    assert read_bytes(tmp_path / "a" / "b" / "x") == b"\0\xff"
    assert (tmp_path / "y").read_bytes() == "größer\n".encode()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "y"}


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("new")
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["replace", "fsync"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = tmp_path / "x"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path if what == "replace" else os, what, fail)
    with pytest.raises(GantkError, match=r"cannot write .*x`: No space left on device") as caught:
        write_text(path, "new")
    assert caught.value.hint is not None
    assert "MiB are free there" in caught.value.hint
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("mine")
    with pytest.raises(GantkError, match="Is a directory"):
        write_text(tmp_path / "x", "new")
    assert (tmp_path / "x" / "mine").read_text() == "mine"


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "long", "nul"])
def test_what_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = {"device": Path("/dev/zero"), "long": tmp_path / ("x" * 5000), "nul": tmp_path / "a\0b"}.get(kind)
    path = path or tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(GantkError):
        read_bytes(path)


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("pipe", "is not a regular file"), ("gone", "does not exist"), ("", "is a folder")):
        with pytest.raises(GantkError, match=words):
            check_file(tmp_path / name)


def test_reading_leaks_no_descriptors(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        for path in (tmp_path, tmp_path / "missing", Path("/dev/null")):
            with pytest.raises(GantkError):
                read_bytes(path)
        sync_folder(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", 5) == b"12345"
    with pytest.raises(GantkError, match="has 5 bytes; at most 4"):
        read_bytes(tmp_path / "x", 4)


def test_whether_a_file_can_be_written_is_found_out_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "new", tmp_path / "deep" / "er" / "new"):
        check_writable(path)
    for path in (tmp_path, tmp_path / "file" / "x", Path("/proc/x.json"), Path()):
        with pytest.raises(GantkError, match="cannot write"):
            check_writable(path)
        with pytest.raises(GantkError, match="cannot write"):
            write_bytes(path, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.EACCES, "permissions"), (errno.EROFS, "permissions"), (errno.EIO, None)]
)
def test_hints(number: int, hint: str | None) -> None:
    with pytest.raises(GantkError) as caught, named_errors(Path("x"), "read"):
        raise OSError(number, "reason")
    assert caught.value.what == "cannot read `x`: reason"
    assert (caught.value.hint is None) if hint is None else (hint in (caught.value.hint or ""))


def test_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "there").symlink_to(outside)
    (inside / "here").symlink_to(inside)
    (inside / "loop").symlink_to("loop")
    places = {"x": True, "here/x": True, "there/x": False, "../out": False, "loop/x": False, "../in/x": True}
    assert {place: leads_inside(inside / place, inside) for place in places} == places
    assert not leads_inside(tmp_path / "inn", inside)


def test_temporary_folders_that_killed_processes_left_are_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, used, young, other = (
        tmp_path / name for name in ("gantk-trial-old", "gantk-trial-used", "gantk-trial-young", "gantk-old")
    )
    for folder in (old, used, young, other):
        folder.mkdir()
        (folder / "model.onnx").touch()
    for folder in (old, used, other):
        os.utime(folder, (0, 0))
    with locked(used), temporary_folder("trial") as mine:
        assert is_locked(mine)
        assert set(tmp_path.iterdir()) == {used, young, other, mine}
    assert set(tmp_path.iterdir()) == {used, young, other}


def test_no_room_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full = f"cannot write temporary files in `{tmp_path}`: full"
    with pytest.raises(GantkError, match=full) as caught, temporary_folder("trial"):
        raise OSError(errno.ENOSPC, "full")
    assert "MiB are free there; TMPDIR=FOLDER names a place with more room" in (caught.value.hint or "")
    with pytest.raises(FileNotFoundError), temporary_folder("trial"):
        (tmp_path / "missing").read_bytes()  # Not the folder's fault.
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(GantkError, match="no place for temporary files") as caught:
        temporary_place()
    assert caught.value.hint == "TMPDIR=FOLDER names a place with more room"


def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    code = (
        "import itertools, sys\nfrom pathlib import Path\nfrom gantk.files import write_bytes\n"
        f"for n in itertools.count(): write_bytes(Path({str(path)!r}), bytes([n % 256]) * 300_000)"
    )
    for wait in (0.02, 0.05, 0.11):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            while not path.exists():
                time.sleep(0.001)
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            process.wait()
        data = path.read_bytes()
        assert data == data[:1] * 300_000
