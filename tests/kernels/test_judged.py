# SPDX-License-Identifier: Apache-2.0
"""What has changed since the trials passed is tried again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import judged
import pytest


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """All that decides, and a record of it, in a folder of its own."""
    for pattern in judged.DECISIVE:
        for path in filter(Path.is_file, judged.ROOT.glob(pattern)):
            target = tmp_path / path.relative_to(judged.ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    monkeypatch.setattr(judged, "ROOT", tmp_path)
    monkeypatch.setattr(judged, "RECORD", tmp_path / "judged.json")
    judged.judgement.cache_clear()
    judged.RECORD.write_text(json.dumps({"judged": judged.judgement()}))
    assert judged.is_judged()
    yield tmp_path
    judged.judgement.cache_clear()


@pytest.mark.parametrize("pattern", judged.DECISIVE)
def test_one_byte_anywhere_asks_for_all_trials(copy: Path, pattern: str) -> None:
    path = max(copy.glob(pattern))
    path.write_bytes(path.read_bytes() + b"\n")
    judged.judgement.cache_clear()
    assert not judged.is_judged()


def test_so_does_another_compiler(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged._version
    for package in judged.PACKAGES:
        monkeypatch.setattr(
            judged, "_version", lambda name, other=package: None if name == other else found(name)
        )
        judged.judgement.cache_clear()
        assert not judged.is_judged(), package


def test_without_a_record_all_are_tried(copy: Path) -> None:
    judged.RECORD.unlink()
    assert not judged.is_judged()
