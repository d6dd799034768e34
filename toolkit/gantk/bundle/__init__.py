# SPDX-License-Identifier: Apache-2.0
"""A bundle: a folder `NAME.gantk/` with a network in every exported form. Standard library only."""

from gantk.bundle.folder import Bundle, Writer, is_bundle
from gantk.bundle.manifest import FORMS, MANIFEST, PRECISIONS, FileRef, Interface, Manifest, Parity, Variant

__all__ = [
    "FORMS",
    "MANIFEST",
    "PRECISIONS",
    "Bundle",
    "FileRef",
    "Interface",
    "Manifest",
    "Parity",
    "Variant",
    "Writer",
    "is_bundle",
]
