# SPDX-License-Identifier: Apache-2.0
"""Reading and writing the folder: checked before use, and whole or absent after a crash."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType

from gantk.bundle.manifest import FileRef, Manifest, Variant
from gantk.errors import GantkError
from gantk.files import PARTIAL, named_errors, partial_name, read_bytes, sync_folder, write_bytes

MANIFEST = "manifest.json"
MANIFEST_LIMIT_BYTES = 16 * 2**20

# What a bundle's own files are called. Only these are ever swept: a note that somebody puts in the folder stays.
_OWN_FILES = (
    "model.*.onnx",
    "probe*.safetensors",
    "checkpoint/*",
    "engines/*",
    f".*{PARTIAL}",
    f"*/.*{PARTIAL}",
)


def is_bundle(path: Path) -> bool:
    """Whether `path` is a folder with a manifest, readable or not."""
    return (path / MANIFEST).is_file()


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest has been read; its files are checked when they are.

    Args:
        root: The folder.
        manifest: What it holds.
    """

    root: Path
    manifest: Manifest

    @classmethod
    def read(cls, root: str | os.PathLike[str]) -> Bundle:
        """Read the manifest of the bundle at `root`.

        Raises:
            GantkError: There is no such folder, it is no bundle, or its manifest is not valid.
        """
        root = Path(root)
        if not root.is_dir():
            found = "is a file" if root.exists() else "does not exist"
            raise GantkError(
                f"`{root}` {found}; a bundle is a folder", where=str(root), hint="gantk export RUN -o X.gantk"
            )
        if not is_bundle(root):
            raise GantkError(
                f"`{root}` is not a bundle: it has no {MANIFEST}",
                where=str(root),
                hint="gantk export RUN -o X.gantk",
            )
        data = read_bytes(root / MANIFEST, MANIFEST_LIMIT_BYTES)
        try:
            return cls(root, Manifest.loads(data))
        except GantkError as error:
            raise GantkError(
                error.what, where=str(root / MANIFEST), hint=error.hint or "export the bundle again"
            ) from error

    def read_file(self, ref: FileRef) -> bytes:
        """The bytes of a file, after its length and hash have been checked against the manifest.

        Raises:
            GantkError: It is missing, leads out of the bundle, or is not the file that was exported.
        """
        path = self.root / ref.path
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise GantkError(f"`{ref.path}` leads out of the bundle, to `{path.resolve()}`", where=str(path))
        data = read_bytes(path, limit_bytes=ref.size_bytes)
        digest = hashlib.sha256(data).hexdigest()
        if digest != ref.sha256:
            raise GantkError(
                f"`{ref.path}` has sha256 {digest[:12]}... and {len(data)} bytes; "
                f"the manifest says {ref.sha256[:12]}... and {ref.size_bytes}",
                where=str(path),
                hint="the file was changed or cut after the export; export the bundle again",
            )
        return data

    def find(self, precision: str, form: str = "plain") -> Variant:
        """The variant of one precision and form.

        Raises:
            GantkError: There is none.
        """
        for variant in self.manifest.variants:
            if (variant.precision, variant.form) == (precision, form):
                return variant
        held = ", ".join(f"{v.precision} ({v.form})" for v in self.manifest.variants)
        raise GantkError(
            f"`{self.root}` has no {precision} ({form}) variant; it has {held}",
            where=str(self.root / MANIFEST),
            hint=f"gantk export RUN --precision {precision} -o {self.root} --force",
        )


class Writer:
    """Writes a new bundle, or replaces what an existing one holds.

    A new bundle is made under a hidden name beside `root` and moved there by `commit`. In an existing one files
    are added under names that are not in use and the manifest is replaced last; what it no longer names
    is swept when the bundle is next written. So a crash at any moment leaves the old bundle or the new one.

    Args:
        root: The folder.
        force: Whether an existing bundle may be replaced.

    Raises:
        GantkError: `root` exists and is not a bundle, or is one and `force` is not set, or cannot be written.
    """

    def __init__(self, root: str | os.PathLike[str], *, force: bool = False) -> None:
        self.root = Path(root)
        self._replaces = is_bundle(self.root)
        if self._replaces and not force:
            raise GantkError(f"`{self.root}` exists", where=str(self.root), hint="--force replaces it")
        if not self._replaces and (self.root.is_file() or (self.root.is_dir() and any(self.root.iterdir()))):
            raise GantkError(
                f"`{self.root}` exists and is not a bundle; gantk replaces nothing else",
                where=str(self.root),
                hint="choose another name",
            )
        self._folder = self.root if self._replaces else partial_name(self.root.absolute())
        self._added: list[Path] = []
        self._committed = False
        self._lock: int | None = None

    def __enter__(self) -> Writer:
        with named_errors(self.root, "write"):
            if not self._replaces:
                self._folder.parent.mkdir(parents=True, exist_ok=True)
                self._folder.mkdir()
            self._lock = os.open(self._folder, os.O_RDONLY)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._release()
                raise GantkError(
                    f"another process is writing `{self.root}`",
                    where=str(self.root),
                    hint="wait for it to end",
                ) from error
            self._sweep()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            if self._replaces:
                for path in self._added:
                    path.unlink(missing_ok=True)
            else:
                shutil.rmtree(self._folder, ignore_errors=True)
        self._release()

    def add(self, path: str, data: bytes) -> FileRef:
        """Write a file; where another one already has its name, the name gets a part of its hash.

        Args:
            path: Relative to the bundle, e.g. ``model.fp32.onnx``.
            data: Its bytes.
        """
        ref = FileRef.of(path, data)
        if (self._folder / path).exists():
            stem, suffix = os.path.splitext(path)
            ref = FileRef(f"{stem}-{ref.sha256[:8]}{suffix}", ref.sha256, ref.size_bytes)
        target = self._folder / ref.path
        if not target.exists():
            self._added.append(target)
        with self._named():
            write_bytes(target, data)
        return ref

    def commit(self, manifest: Manifest) -> Bundle:
        """Make `manifest`, and so the files it names, the bundle."""
        with self._named():
            write_bytes(self._folder / MANIFEST, manifest.dumps())
            if not self._replaces:
                os.rename(self._folder, self.root)
                sync_folder(self.root.absolute().parent)
        self._committed = True
        return Bundle(self.root, manifest)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _sweep(self) -> None:
        """Remove what an interrupted or superseded export left: it is ours by name, and no manifest names it."""
        for stale in self.root.absolute().parent.glob(f".{self.root.name}.*{PARTIAL}"):
            if stale != self._folder and stale.is_dir() and not _is_locked(stale):
                shutil.rmtree(stale, ignore_errors=True)
        if not self._replaces:
            return
        try:
            named = {ref.path for ref in Bundle.read(self.root).manifest.files}
        except GantkError:
            return  # An unreadable manifest tells nothing of what is in use; the next export sweeps.
        for path in self.root.rglob("*"):
            relative = path.relative_to(self.root).as_posix()
            if path.is_file() and relative not in named and any(fnmatch(relative, own) for own in _OWN_FILES):
                path.unlink(missing_ok=True)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the bundle in errors, not the hidden folder that it is made in."""
        try:
            with named_errors(self.root, "write"):
                yield
        except GantkError as error:
            hidden, shown = str(self._folder), str(self.root)
            raise GantkError(error.what.replace(hidden, shown), where=shown, hint=error.hint) from error


def _is_locked(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
