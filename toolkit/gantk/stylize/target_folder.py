# SPDX-License-Identifier: Apache-2.0
"""The folder that stylised pictures go to: their names, what is there already, and one process at a time."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gantk.errors import GantkError
from gantk.files import PARTIAL, locked, named_errors, read_bytes, write_text
from gantk.runtime.decode import UnreadableError, opened
from gantk.runtime.pictures import FORMATS

SETTINGS = ".gantk-stylize.json"
"""What the pictures of an output folder were made with, so that another style is not taken for it."""

_PARTIAL_NAME = re.compile(rf"\.(.+)\.[0-9a-f]{{8}}{re.escape(PARTIAL)}")


def target_names(names: Sequence[Path], target: Path, suffix: str | None) -> list[Path]:
    """Where pictures of these names go; two that would go to one place keep their suffixes in their names."""
    plain = [_with_suffix(name, suffix) for name in names]
    counts = Counter(str(name).casefold() for name in plain)  # Some file systems do not tell A from a.
    return [
        target / (output if counts[str(output).casefold()] == 1 else _full_name(name, output))
        for name, output in zip(names, plain, strict=True)
    ]


def _with_suffix(name: Path, suffix: str | None) -> Path:
    if suffix is None and name.suffix.lower() in FORMATS:
        return name
    return name.with_suffix(suffix or ".png")


def _full_name(name: Path, output: Path) -> Path:
    return name if name.suffix == output.suffix else name.with_name(name.name + output.suffix)


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Hold a folder, so that no other process writes the same pictures into it.

    Raises:
        GantkError: Another one does.
    """
    with named_errors(folder, "write to"):
        folder.mkdir(parents=True, exist_ok=True)
    busy = GantkError(
        f"another process is stylising into `{folder}`", where=str(folder), hint="wait for it to end"
    )
    with locked(folder, busy):
        yield


def sweep(outputs: Sequence[Path]) -> None:
    """Remove what a run that was killed left half-written."""
    names = {(output.parent, output.name) for output in outputs}
    for folder in {output.parent for output in outputs}:
        for path in folder.glob(f".*{PARTIAL}"):
            found = _PARTIAL_NAME.fullmatch(path.name)
            if found and (folder, found[1]) in names:
                path.unlink(missing_ok=True)


def is_done(file: Path, output: Path) -> bool:
    """Whether an output is there, newer than its picture, and whole."""
    try:
        if output.stat().st_mtime_ns < file.stat().st_mtime_ns:
            return False
        with opened(output) as picture:
            picture.load()
    except (OSError, UnreadableError):
        return False
    return True


def note_settings(target: Path, outputs: Sequence[Path], settings: dict[str, Any], *, force: bool) -> bool:
    """Whether the pictures in `target` were made with `settings`, which are written down there.

    Raises:
        GantkError: They were made with others or by somebody else, and are not to be replaced.
    """
    path = target / SETTINGS
    known: Any = None
    if path.is_file():
        try:
            known = json.loads(read_bytes(path))
        except ValueError:
            known = {}
    if known == settings:
        return True
    there = next((output for output in outputs if output.exists()), None)
    if there is not None and not force:
        what = f"`{there}` exists, and was not made by this command"
        if isinstance(known, dict):
            other = ", ".join(key for key in settings if known.get(key) != settings[key])
            what = f"`{target}` holds pictures that were made with other settings: {other}"
        raise GantkError(what, where=str(target), hint="--force replaces them; or choose another folder")
    write_text(path, json.dumps(settings, indent=2) + "\n")
    return False
