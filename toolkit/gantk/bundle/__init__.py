# SPDX-License-Identifier: Apache-2.0
"""A bundle: a folder `NAME.gantk/` with a network in every exported form. Standard library only."""

from gantk.bundle.engines import (
    ENGINE_BACKENDS,
    ENGINE_OPTIONS,
    ENGINE_PRECISIONS,
    LAYER_TYPES,
    Engine,
    HeavyLayer,
    Profile,
    ShapeRange,
)
from gantk.bundle.fileref import MANIFEST, FileRef
from gantk.bundle.folder import Bundle, is_bundle
from gantk.bundle.manifest import FOREIGN_FAMILY, STEP_FAMILY, Manifest
from gantk.bundle.reading import as_printable
from gantk.bundle.variants import (
    FORMS,
    PRECISIONS,
    WHOLLY_NATIVE,
    Calibrated,
    Interface,
    Parity,
    Variant,
    place_of,
    readable,
)
from gantk.bundle.writer import Writer

__all__ = [
    "ENGINE_BACKENDS",
    "ENGINE_OPTIONS",
    "ENGINE_PRECISIONS",
    "FOREIGN_FAMILY",
    "FORMS",
    "LAYER_TYPES",
    "MANIFEST",
    "PRECISIONS",
    "STEP_FAMILY",
    "WHOLLY_NATIVE",
    "Bundle",
    "Calibrated",
    "Engine",
    "FileRef",
    "HeavyLayer",
    "Interface",
    "Manifest",
    "Parity",
    "Profile",
    "ShapeRange",
    "Variant",
    "Writer",
    "as_printable",
    "is_bundle",
    "place_of",
    "readable",
]
