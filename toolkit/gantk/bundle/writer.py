# SPDX-License-Identifier: Apache-2.0
"""Writing the folder: whole or absent after a crash."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from gantk.bundle.fileref import MANIFEST, FileRef
from gantk.bundle.folder import OWN_FILES, Bundle, is_bundle, unnamed
from gantk.bundle.manifest import Manifest
from gantk.errors import GantkError
from gantk.files import (
    PARTIAL,
    check_writable,
    is_locked,
    leads_inside,
    locked,
    named_errors,
    partial_name,
    sync_folder,
    write_bytes,
)


class Writer:
    """Writes a new bundle, or replaces what an existing one holds.

    A new bundle is made under a hidden name beside `root` and moved there by `commit`. In an existing one
    files are added under names that are not in use and the manifest is replaced last; what it no longer
    names is swept when the bundle is next written, for somebody may just be reading it. So a crash at any
    moment leaves the old bundle or the new one.

    Args:
        root: The folder.
        force: Whether an existing bundle may be replaced.

    Raises:
        GantkError: `root` exists and is not a bundle, or is one and `force` is not set, or cannot be written,
            or another process is writing it.
    """

    def __init__(self, root: str | os.PathLike[str], *, force: bool = False) -> None:
        self.root = Path(root)
        with named_errors(self.root, "write"):
            self._replaces = is_bundle(self.root)
            if self._replaces and not force:
                raise GantkError(f"`{self.root}` exists", where=str(self.root), hint="--force replaces it")
            # A new bundle can be moved to where an empty folder is, and not to a link, a pipe or the like.
            free = not os.path.lexists(self.root) or (
                self.root.is_dir() and not self.root.is_symlink() and not any(self.root.iterdir())
            )
            if not self._replaces and not free:
                raise GantkError(
                    f"`{self.root}` exists and is not a bundle; gantk replaces nothing else",
                    where=str(self.root),
                    hint="choose another name",
                )
        self._folder = self.root if self._replaces else partial_name(self.root.absolute())
        self._added: list[Path] = []
        self._committed = False
        self._lock = ExitStack()

    def __enter__(self) -> Writer:
        parent = self.root.absolute().parent
        busy = GantkError(
            f"another process is writing `{self.root}`", where=str(self.root), hint="wait for it to end"
        )
        with self._named():
            parent.mkdir(parents=True, exist_ok=True)
            # While the parent is locked nobody sweeps the folder that is made here and not yet locked.
            with locked(parent):
                others = [path for path in self._hidden_folders(parent) if is_locked(path)]
                if others:
                    raise busy
                if self._replaces:
                    check_writable(self.root / MANIFEST)  # Now, not after minutes.
                else:
                    self._folder.mkdir()
                with ExitStack() as undo:
                    undo.enter_context(locked(self._folder, busy))
                    self._sweep(parent)
                    self._lock = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if not self._committed:
                self._undo()

    def _undo(self) -> None:
        """Remove what was added; what failed is told, not that its traces stay."""
        if not self._replaces:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        # Should the manifest have been replaced before the failure, its files must stay.
        kept = {self.root / path for path in self._named_files()}
        for path in self._added:
            if path not in kept:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def add(self, path: str, data: bytes) -> FileRef:
        """Write a file; where another one already has its name, the name gets a part of its hash.

        One that is there with the same bytes is taken as it is: the same files make the same manifest.

        Args:
            path: Relative to the bundle: ``model.PRECISION.onnx``, ``model.PRECISION.FORM.onnx``,
                ``probe.safetensors``, ``checkpoint/generator.safetensors`` or ``engines/NAME.engine``.
            data: Its bytes.
        """
        if not OWN_FILES.fullmatch(path):
            raise GantkError(f"{path!r} is not what a file of a bundle is called", where=str(self.root))
        ref = FileRef.of(path, data)
        stem, dot, suffix = path.rpartition(".")
        hashed = FileRef(f"{stem}-{ref.sha256[:8]}{dot}{suffix}", ref.sha256, ref.size_bytes)
        for known in (ref, hashed):
            if self._has(known.path, data):
                return known
        if (self._folder / path).exists():
            ref = hashed
        target = self._folder / ref.path
        if not leads_inside(target.parent, self._folder):
            raise GantkError(
                f"`{Path(path).parent}` is a link that leads out of the bundle", where=str(self.root)
            )
        if not target.exists():
            self._added.append(target)
        with self._named():
            write_bytes(target, data)
        return ref

    def _has(self, path: str, data: bytes) -> bool:
        """Whether the bundle has a file of this name with these bytes."""
        target = self._folder / path
        try:
            return (
                leads_inside(target, self._folder)
                and target.stat().st_size == len(data)
                and target.read_bytes() == data
            )
        except OSError:
            return False

    def so_far(self, manifest: Manifest) -> Bundle:
        """What `commit` would make of `manifest`, to read files from that are already there."""
        return Bundle(self._folder, manifest)

    def commit(self, manifest: Manifest) -> Bundle:
        """Make `manifest`, and so the files it names, the bundle.

        Raises:
            GantkError: The manifest could not be read again, or names a file that was not added; or it cannot
                be written.
        """
        data = manifest.dumps()
        checked = Bundle(self._folder, Manifest.loads(data))
        for ref in checked.manifest.files:
            if not (self._folder / ref.path).is_file():
                raise GantkError(
                    f"the manifest names `{ref.path}`, which was not added", where=str(self.root)
                )
        with self._named():
            write_bytes(self._folder / MANIFEST, data)
            if not self._replaces:
                self._move()
        self._committed = True
        return Bundle(self.root, checked.manifest)

    def _move(self) -> None:
        """Give the hidden folder its name."""
        try:
            self._folder.rename(self.root)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise GantkError(
                    f"`{self.root}` was made by somebody else meanwhile",
                    where=str(self.root),
                    hint="--force replaces it",
                ) from error
            raise
        sync_folder(self.root.absolute().parent)

    def _hidden_folders(self, parent: Path) -> list[Path]:
        """The folders in which a bundle of this name is, or was, being made."""
        pattern = re.compile(rf"{re.escape(f'.{self.root.name}.')}[0-9a-f]{{8}}{re.escape(PARTIAL)}")
        return [path for path in parent.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]

    def _named_files(self) -> set[str]:
        """The files that the manifest on disk names; none where it cannot be read."""
        try:
            return {ref.path for ref in Bundle.read(self.root).manifest.files}
        except GantkError:
            return set()

    def _sweep(self, parent: Path) -> None:
        """Remove what earlier exports left: files that are ours by name and that no manifest names."""
        for stale in self._hidden_folders(parent):
            if stale != self._folder:
                shutil.rmtree(stale, ignore_errors=True)
        named = self._named_files() if self._replaces else set()
        if not named:
            return  # An unreadable manifest tells nothing of what is in use; the next export sweeps.
        for path in unnamed(self.root, named):
            path.unlink(missing_ok=True)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the bundle in errors, not the hidden folder that it is made in."""
        try:
            with named_errors(self.root, "write"):
                yield
        except GantkError as error:
            hidden, shown = str(self._folder), str(self.root)
            raise type(error)(error.what.replace(hidden, shown), where=shown, hint=error.hint) from error
