# SPDX-License-Identifier: Apache-2.0
"""The cache of compiled kernels: damaged entries, crashes, processes side by side, folders that cannot be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from gantk.kernels import cache
from gantk.kernels.cache import DiskCache, kernel_cache

DATA = bytes(range(256)) * 400


def test_what_is_put_is_got_and_nothing_else_is(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path / "deep" / "kernels")
    assert disk.get("gram") is None
    disk.put("gram", DATA)
    assert disk.get("gram") == DATA
    assert DiskCache(disk.folder).get("gram") == DATA
    assert disk.get("variation") is None
    assert disk.size_bytes() == len(DATA) + 32


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "digest", "longer"])
def test_a_damaged_entry_is_none_and_is_removed(tmp_path: Path, damage: str) -> None:
    disk = DiskCache(tmp_path)
    disk.put("gram", DATA)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-1],
            "emptied": b"",
            "flipped": whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
            "digest": bytes([whole[0] ^ 128]) + whole[1:],
            "longer": whole + b"\0",
        }[damage]
    )
    assert disk.get("gram") is None
    assert not path.exists()
    disk.put("gram", DATA)
    assert disk.get("gram") == DATA


def test_entries_used_longest_ago_make_room(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path, limit_bytes=3 * (len(DATA) + 32))
    for age, name in enumerate(["a", "b", "c"]):
        disk.put(name, DATA)
        path = next(tmp_path.glob(f"{name}.*"))
        os.utime(path, (1000 + age, 1000 + age))
    assert disk.get("a") == DATA  # Now the one used last.
    disk.put("d", DATA)
    assert [disk.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert disk.size_bytes() <= disk.limit_bytes
    DiskCache(tmp_path, limit_bytes=1).put("e", DATA)
    assert [disk.get(name) is not None for name in "abcde"] == [False, False, False, False, True]


def test_what_was_left_half_written_is_swept_later(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path)
    old, fresh = tmp_path / ".gram.0.partial", tmp_path / ".gram.1.partial"
    old.write_bytes(DATA)
    fresh.write_bytes(DATA)  # Another process may be writing it.
    os.utime(old, (1000, 1000))
    disk.put("gram", DATA)
    assert not old.exists()
    assert fresh.exists()


def test_a_folder_that_cannot_be_written_costs_only_a_warning(unprivileged: Path) -> None:
    disk = DiskCache(unprivileged / "kernels")
    disk.put("gram", DATA)
    disk.folder.chmod(0o500)
    with pytest.warns(RuntimeWarning, match=r"are not kept.*cannot write.*GANTK_KERNEL_CACHE names another"):
        disk.put("variation", DATA)
    assert disk.get("gram") == DATA
    (path,) = disk.folder.iterdir()
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    assert disk.get("gram") is None  # It cannot be removed either.
    disk.folder.chmod(0o700)


def test_a_folder_whose_place_a_file_has_costs_only_a_warning(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("not a folder")
    disk = DiskCache(tmp_path / "kernels")
    assert disk.get("gram") is None
    with pytest.warns(RuntimeWarning, match="are not kept"):
        disk.put("gram", DATA)


def test_the_environment_moves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    found = kernel_cache()
    assert found is not None
    assert found.folder == tmp_path / "xdg" / "gantk" / "kernels"
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "mine"))
    found = kernel_cache()
    assert found is not None
    assert found.folder == tmp_path / "mine"
    monkeypatch.setenv(cache.VARIABLE, "off")
    assert kernel_cache() is None


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert kernel_cache() is None


WRITER = """
import sys
from pathlib import Path
from gantk.kernels.cache import DiskCache

disk = DiskCache(Path(sys.argv[1]), limit_bytes=3 * 200_032)
print("ready", flush=True)
rounds = 0
while rounds < int(sys.argv[2]):
    for number in range(4):
        wanted = bytes([65 + number]) * 200_000
        found = disk.get(f"entry{number}")
        assert found in (None, wanted), "an entry is not what was put"
        if found is None:
            disk.put(f"entry{number}", wanted)
    rounds += 1
"""


def test_processes_share_a_folder_and_may_be_killed(tmp_path: Path) -> None:
    """Three writers over a limit that holds three of four entries, and two of them killed at work."""
    command = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path)]
    doomed = [subprocess.Popen([*command, "1000000"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    patient = subprocess.Popen([*command, "25"])
    for process in doomed:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in doomed:
        time.sleep(0.15)  # In the middle of whatever it does then.
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert patient.wait(timeout=120) == 0
    disk = DiskCache(tmp_path)
    for number in range(4):
        assert disk.get(f"entry{number}") in (None, bytes([65 + number]) * 200_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        disk.put("entry0", b"A" * 200_000)
    assert disk.get("entry0") == b"A" * 200_000
