# SPDX-License-Identifier: Apache-2.0
"""Reading the folder: checked before use."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from gantk.bundle.fileref import MANIFEST, FileRef
from gantk.bundle.manifest import Manifest
from gantk.bundle.variants import FORMS, PRECISIONS, Variant
from gantk.errors import GantkError
from gantk.files import (
    PARTIAL,
    leads_inside,
    named_errors,
    read_bytes,
)

MANIFEST_LIMIT_BYTES = 16 * 2**20

# What a bundle's own files are called. Only these are ever swept: a note that somebody puts in stays.
_HASHED = r"(-[0-9a-f]{8})?"
OWN_FILES = re.compile(
    rf"model\.({'|'.join(PRECISIONS)})(\.({'|'.join(FORMS)}))?{_HASHED}\.onnx"
    rf"|(checkpoint/generator|probe){_HASHED}\.safetensors"
    r"|engines/[^/]+\.engine"
    rf"|([^/]+/)*\.[^/]+\.[0-9a-f]{{8}}{re.escape(PARTIAL)}"
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
        with named_errors(root, "read"):
            cls._check_folder(root)
        data = read_bytes(root / MANIFEST, MANIFEST_LIMIT_BYTES)
        try:
            return cls(root, Manifest.loads(data))
        except GantkError as error:
            raise GantkError(
                error.what, where=str(root / MANIFEST), hint=error.hint or "export the bundle again"
            ) from error

    def unused_files(self) -> list[Path]:
        """What earlier writings left, for readers that had begun: gantk's own by name, and not in the manifest.

        The next writing removes them.
        """
        named = {ref.path for ref in self.manifest.files}
        return unnamed(self.root, named)

    @staticmethod
    def _check_folder(root: Path) -> None:
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

    def read_file(self, ref: FileRef) -> bytes:
        """The bytes of a file, after its length and hash have been checked against the manifest.

        Raises:
            GantkError: It is missing, leads out of the bundle, or is not the file that was exported.
        """
        path = self.root / ref.path
        if not leads_inside(path, self.root):
            raise GantkError(f"`{ref.path}` is a link that leads out of the bundle", where=str(path))
        changed = "the file was changed or cut after the export; export the bundle again"
        data = read_bytes(path, limit_bytes=ref.size_bytes, hint=changed)
        digest = hashlib.sha256(data).hexdigest()
        if digest != ref.sha256:
            raise GantkError(
                f"`{ref.path}` has sha256 {digest[:12]}... and {len(data)} bytes; "
                f"the manifest says {ref.sha256[:12]}... and {ref.size_bytes}",
                where=str(path),
                hint=changed,
            )
        return data

    def find(self, precision: str, form: str = "plain") -> Variant:
        """The first variant of one precision and form.

        Raises:
            GantkError: There is none.
        """
        for variant in self.manifest.variants:
            if (variant.precision, variant.form) == (precision, form):
                return variant
        held = ", ".join(variant.label for variant in self.manifest.variants)
        raise GantkError(
            f"`{self.root}` has no {precision} ({form}) variant; it has {held}",
            where=str(self.root / MANIFEST),
            hint=f"gantk export RUN --precision {precision} -o {self.root} --force",
        )


def unnamed(root: Path, named: set[str]) -> list[Path]:
    """The files of a bundle's folder that are ours by name and not among those named."""
    found = ((path, path.relative_to(root).as_posix()) for path in sorted(root.rglob("*")))
    return [
        path for path, name in found if name not in named and OWN_FILES.fullmatch(name) and path.is_file()
    ]
