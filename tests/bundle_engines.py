# SPDX-License-Identifier: Apache-2.0
"""Entries for engines, with no engine behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

import networks
from gantk.bundle import (
    ENGINE_BACKENDS,
    ENGINE_OPTIONS,
    LAYER_TYPES,
    Bundle,
    Engine,
    FileRef,
    HeavyLayer,
    Manifest,
    Parity,
    ShapeRange,
    Variant,
)
from gantk.export.engines.profiles import make_profiles
from gantk.runtime.following import follows

HASHES = st.binary(max_size=4).map(lambda data: FileRef.of("x", data).sha256)


def make_engine(variant: Variant, shapes: Mapping[str, tuple[int, ...]], **changes: Any) -> Engine:
    """An engine of a variant that serves one shape of each input."""
    facts: dict[str, Any] = {
        "file": FileRef.of("engines/tensorrt-rtx-sm_89.engine", b"engine"),
        "backend": "tensorrt-rtx",
        "version": "1.7.1.116",
        "targets": ("sm_89", "sm_120"),
        "precision": variant.precision,
        "form": variant.form,
        "source": variant.file.sha256,
        "profiles": ({name: ShapeRange(shape, shape, shape) for name, shape in shapes.items()},),
        "options": ("refit",),
        "rewrites": ("transposed-to-subpixel",),
        "layers": {"fp16": 7},
        "heavy_layers": (HeavyLayer("conv1", "convolution", "fp16"),),
        "plugins": ("libgantk.so",),
        "timing_cache": "0" * 64,
        "workspace_bytes": 2**20,
        "parity": (networks.parity("tensorrt-rtx"),),
    }
    return Engine(**{**facts, **changes})


def usual_engine(bundle: Bundle, variant: Variant) -> Engine:
    """An engine of a variant for the shapes that it is built for where none are named."""
    (profile,) = make_profiles(bundle.manifest.interface(variant), follows(bundle.manifest))
    return make_engine(variant, {}, profiles=(profile,), parity=())


@st.composite
def engines_of(
    draw: st.DrawFn, manifest: Manifest, parities: st.SearchStrategy[tuple[Parity, ...]]
) -> tuple[Engine, ...]:
    """Up to three engines of a manifest's variants."""
    names = st.text("abcxyz._/ ", min_size=1, max_size=20)
    made = []
    for number, variant in enumerate(draw(st.lists(st.sampled_from(manifest.variants), max_size=3))):
        inputs = manifest.interface(variant).inputs
        if any(size == 0 for spec in inputs for size in spec.shape):
            continue  # No engine takes an empty tensor.
        profile = {
            spec.name: ShapeRange(*zip(*(draw(_axis(size)) for size in spec.shape), strict=True))
            if spec.shape
            else ShapeRange((), (), ())
            for spec in inputs
        }
        options = tuple(draw(st.lists(st.sampled_from(ENGINE_OPTIONS), max_size=2, unique=True)))
        engine = make_engine(
            variant,
            {},
            file=FileRef.of(f"engines/{number}.engine", draw(st.binary(max_size=5))),
            backend=draw(st.sampled_from(ENGINE_BACKENDS)),
            version=f"{number}.{draw(st.integers(0, 99))}",
            targets=tuple(draw(st.lists(_targets, min_size=1, max_size=3, unique=True))),
            profiles=(profile,) * draw(st.integers(1, 2)),
            tf32=draw(st.booleans()),
            options=options,
            rewrites=tuple(draw(st.lists(names, max_size=2))),
            layers=draw(st.dictionaries(st.sampled_from(LAYER_TYPES), st.integers(0, 999))),
            heavy_layers=tuple(
                draw(st.lists(st.builds(HeavyLayer, names, names, st.sampled_from(LAYER_TYPES)), max_size=3))
            ),
            plugins=tuple(draw(st.lists(st.from_regex(r"lib[a-z_]{1,9}\.so", fullmatch=True), max_size=2))),
            timing_cache=draw(st.none() | HASHES),
            workspace_bytes=draw(st.none() | st.integers(1, 2**50)),
            parity=draw(parities),
            probe=draw(st.none() | _probes(number)),
        )
        made.append(engine)
    return tuple(made)


_targets = st.integers(50, 121).map(lambda number: f"sm_{number}")


def _probes(number: int) -> st.SearchStrategy[FileRef]:
    path = f"probe-{number:08}.safetensors"
    return st.binary(max_size=5).map(lambda data: FileRef.of(path, data))


def _axis(size: int | str) -> st.SearchStrategy[tuple[int, ...]]:
    if isinstance(size, int):
        return st.just((size, size, size))
    return st.tuples(*[st.integers(1, 4096)] * 3).map(lambda sizes: tuple(sorted(sizes)))
