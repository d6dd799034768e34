# SPDX-License-Identifier: Apache-2.0
"""Reading a bundle folder: nothing is used before it is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gantk
import networks
from gantk.bundle import Bundle, FileRef
from gantk.errors import GantkError
from gantk.runtime import registry
from tampering import FAULTS, tamper


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return networks.bundle(tmp_path / "x.gantk")


def files(bundle: Bundle) -> list[FileRef]:
    return list(bundle.manifest.files)


def test_what_was_written_is_read(bundle: Bundle) -> None:
    again = Bundle.read(bundle.root)
    assert again.manifest == bundle.manifest
    assert again.read_file(again.find("fp32").file) == networks.generator()
    assert [again.read_file(ref) for ref in files(again)[1:]] == [networks.probe(), b"weights"]


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_tampering_with_any_file_is_seen(bundle: Bundle, index: int, fault: str, tmp_path: Path) -> None:
    ref = files(bundle)[index]
    tamper(bundle.root / ref.path, fault, tmp_path / "outside")
    with pytest.raises(GantkError) as caught:
        bundle.read_file(ref)
    assert ref.path in str(caught.value)
    if fault in ("flipped", "cut", "longer", "empty"):
        assert caught.value.hint == "the file was changed or cut after the export; export the bundle again"


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    for name, says in (("x", "is a file"), ("y", "does not exist")):
        with pytest.raises(GantkError, match=f"{name}` {says}; a bundle is a folder"):
            Bundle.read(tmp_path / name)


def test_a_manifest_that_is_none_says_where_it_is(bundle: Bundle) -> None:
    path = bundle.root / "manifest.json"
    for text, what, hint in (
        ("{", "the manifest is not JSON", "export the bundle again"),
        ('{"schema": 0}', "the manifest has schema 0", "export the bundle again"),
        ('{"schema": 2}', "the manifest has schema 2", "pip install -U gantk"),
    ):
        path.write_text(text)
        with pytest.raises(GantkError, match=what) as caught:
            Bundle.read(bundle.root)
        assert (caught.value.where, caught.value.hint) == (str(path), hint)


def test_no_backend_sees_a_byte_of_a_damaged_file(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle.root / files(bundle)[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)

    def never(*_: object) -> None:
        raise AssertionError("a backend was asked to open a damaged file")

    for name in registry.BACKENDS:
        monkeypatch.setattr(registry._module(name), "open", never)
    for backend in ("auto", *(name for name in registry.BACKENDS if registry.status(name).works)):
        with pytest.raises(GantkError, match="the manifest says"):
            gantk.open(bundle.root, backend)


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=40)
def test_a_flipped_bit_in_the_manifest_never_opens_another_file(tmp_path: Path, at: float, bit: int) -> None:
    root = tmp_path / "x.gantk"
    if not root.exists():
        networks.bundle(root)
    good = (
        (tmp_path / "manifest").read_bytes()
        if (tmp_path / "manifest").exists()
        else (root / "manifest.json").read_bytes()
    )
    (tmp_path / "manifest").write_bytes(good)
    data = bytearray(good)
    data[int(at * len(data))] ^= 1 << bit
    (root / "manifest.json").write_bytes(data)
    try:
        again = Bundle.read(root)
        contents = {again.read_file(ref) for ref in again.manifest.files}
    except GantkError:
        return
    assert contents <= {networks.generator(), networks.probe(), b"weights"}


def test_a_link_that_loops(bundle: Bundle) -> None:
    ref = files(bundle)[0]
    path = bundle.root / ref.path
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(GantkError):
        bundle.read_file(ref)


def test_a_linked_folder_that_leads_out(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.root / "checkpoint").rename(tmp_path / "elsewhere")
    (bundle.root / "checkpoint").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GantkError, match="leads out of the bundle"):
        bundle.read_file(files(bundle)[2])


def test_a_bundle_behind_a_link_is_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "link.gantk").symlink_to(bundle.root)
    again = Bundle.read(tmp_path / "link.gantk")
    assert again.read_file(files(again)[1]) == networks.probe()


@pytest.mark.parametrize("name", ["nothing", "file", "folder", "x" * 5000, "nul\0"])
def test_what_is_no_bundle(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(GantkError):
        Bundle.read(tmp_path / name)


def test_a_manifest_that_is_too_large(bundle: Bundle) -> None:
    with (bundle.root / "manifest.json").open("ab") as stream:
        stream.truncate(17 * 2**20)
    with pytest.raises(GantkError, match="at most 16777216"):
        Bundle.read(bundle.root)


def test_a_manifest_that_may_not_be_read(unprivileged: Path) -> None:
    bundle = networks.bundle(unprivileged / "x.gantk")
    (bundle.root / "manifest.json").chmod(0)
    with pytest.raises(GantkError, match="Permission denied"):
        Bundle.read(bundle.root)


def test_find_says_what_there_is(bundle: Bundle) -> None:
    with pytest.raises(GantkError, match=r"has no fp16 \(plain\) variant; it has fp32 \(plain\)") as caught:
        bundle.find("fp16")
    assert caught.value.hint is not None
    assert "--precision fp16" in caught.value.hint
