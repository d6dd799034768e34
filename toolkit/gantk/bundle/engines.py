# SPDX-License-Identifier: Apache-2.0
"""The TensorRT engines of a bundle: what each was built from and for, and what its layers really compute in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gantk.bundle.fileref import FileRef, check_sha256, is_part, take_file
from gantk.bundle.reading import check_different, integer, printable, take, take_list
from gantk.bundle.variants import FORMS, PRECISIONS, Interface, Parity
from gantk.errors import GantkError
from gantk.tensors import SIZE_LIMIT, TensorSpec

ENGINE_BACKENDS = ("tensorrt", "tensorrt-rtx")
ENGINE_PRECISIONS = ("fp32", "tf32", *PRECISIONS[1:])
"""What engines compute in, the most exact first: ``tf32`` is a way to compute fp32 files."""

ENGINE_OPTIONS = ("version-compatible", "hardware-compatible", "refit", "strip")
LAYER_TYPES = (*PRECISIONS, "int4", "fp4", "uint8", "int32", "int64", "bool", "other")

_TARGET = re.compile(r"sm_[1-9][0-9]{1,2}")
_VERSION = re.compile(r"[0-9]+(\.[0-9A-Za-z+-]+){1,5}")
_RANK_LIMIT = 16

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of one input that a profile serves.

    Args:
        min: The smallest, axis by axis.
        opt: The one that the engine is tuned for.
        max: The largest.
    """

    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        axes = list(zip(self.min, self.opt, self.max, strict=False))
        same_rank = len(self.min) == len(self.opt) == len(self.max) <= _RANK_LIMIT
        if not same_rank or not all(1 <= low <= mid <= high <= SIZE_LIMIT for low, mid, high in axes):
            raise GantkError(
                f"{self} is no range of shapes: of each axis a smallest, a usual and a largest size are wanted, "
                "in this order, at least 1"
            )

    def __str__(self) -> str:
        return " - ".join("x".join(map(str, shape)) or "scalar" for shape in (self.min, self.opt, self.max))

    def holds(self, shape: Sequence[int]) -> bool:
        """Whether a shape lies within."""
        return len(shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )

    def suits(self, spec: TensorSpec) -> bool:
        """Whether an input of this kind can have these shapes."""
        return len(spec.shape) == len(self.min) and all(
            isinstance(size, str) or low == size == high
            for size, low, high in zip(spec.shape, self.min, self.max, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        return {"min": list(self.min), "opt": list(self.opt), "max": list(self.max)}

    @classmethod
    def from_json(cls, data: Any) -> ShapeRange:
        return cls(*(tuple(take_list(data, key, integer)) for key in ("min", "opt", "max")))


Profile = dict[str, ShapeRange]
"""An optimisation profile: the shapes that each input may have, by its name."""


@dataclass(frozen=True)
class HeavyLayer:
    """A layer that takes the time, as the product's own network has it.

    Args:
        name: Of the layer.
        kind: ``convolution``, ``deconvolution`` or ``matrix-multiply``.
        precision: One of `LAYER_TYPES`: what it computes in; int8 and fp8 where its inputs are dequantised.
    """

    name: str
    kind: str
    precision: str

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, data: Any) -> HeavyLayer:
        layer = cls(take(data, "name", str), take(data, "kind", str), take(data, "precision", str))
        _check_layer_type(layer.precision)
        return layer


@dataclass(frozen=True)
class Engine:
    """One engine.

    Args:
        file: The file.
        backend: One of `ENGINE_BACKENDS`: the product that built it, and alone runs it.
        version: Of that product; no other runs it, but later ones what was built ``version-compatible``.
        targets: The GPU architectures that it was built for, e.g. ``sm_89``.
        precision: One of `PRECISIONS`, that of its source.
        form: One of `FORMS`, that of its source.
        source: The sha256 of the variant's file that it was built from.
        profiles: The shapes that it serves; one or more.
        tf32: Whether fp32 layers may round their inputs to 10 bits of mantissa.
        options: Of `ENGINE_OPTIONS`, those that it was built with.
        rewrites: The names of the exact rewrites that its source went through first.
        layers: How many layers of the network yield each of `LAYER_TYPES`, as audited after the build.
        heavy_layers: The layers that take the time, with what they compute in.
        plugins: The names of the plugin libraries that must be loaded first, found where the system looks for them.
        timing_cache: The sha256 of the timing cache that the build left in its user's cache.
        workspace_bytes: The most scratch memory that a layer was allowed; `None` for all that the GPU has.
        parity: The verdicts of machines that could run it. Where there is none the engine is unverified.
        probe: A few inputs of shapes that it serves, and what the network makes of them, where the bundle's probe has
            none (see `gantk.runtime.probe`).
    """

    file: FileRef
    backend: str
    version: str
    targets: tuple[str, ...]
    precision: str
    form: str
    source: str
    profiles: tuple[Profile, ...]
    tf32: bool = False
    options: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    layers: dict[str, int] = field(default_factory=dict)
    heavy_layers: tuple[HeavyLayer, ...] = ()
    plugins: tuple[str, ...] = ()
    timing_cache: str | None = None
    workspace_bytes: int | None = None
    parity: tuple[Parity, ...] = ()
    probe: FileRef | None = None

    def __post_init__(self) -> None:
        path = self.file.path
        for what, value, known in (
            ("backend", self.backend, ENGINE_BACKENDS),
            ("precision", self.precision, PRECISIONS),
            ("form", self.form, FORMS),
            *(("option", option, ENGINE_OPTIONS) for option in self.options),
        ):
            if value not in known:
                raise GantkError(f"`{path}` has {what} {value[:100]!r}; known are {', '.join(known)}")
        if not _VERSION.fullmatch(self.version):
            raise GantkError(f"`{path}` is of version {self.version[:100]!r}; one such as '1.7.1' is wanted")
        if not self.targets or not all(_TARGET.fullmatch(target) for target in self.targets):
            raise GantkError(f"`{path}` is for {str(self.targets)[:100]}; targets such as 'sm_89' are wanted")
        if not self.profiles:
            raise GantkError(f"`{path}` has no profile; the shapes that it serves are wanted")
        check_different(f"targets of `{path}`", list(self.targets))
        check_sha256(self.source, f"the source of `{path}`")
        if self.timing_cache is not None:
            check_sha256(self.timing_cache, f"the timing cache of `{path}`")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise GantkError(
                f"`{path}` cannot have been built in {self.workspace_bytes} bytes of scratch memory"
            )
        for library in self.plugins:
            if not is_part(library):  # A path would load a file that came with the bundle.
                raise GantkError(
                    f"`{path}` wants the plugin library {library[:100]!r}; a name without a folder is wanted"
                )
        for kind, count in self.layers.items():
            _check_layer_type(kind)
            if count < 0:
                raise GantkError(f"`{path}` cannot have {count} layers of {kind}")

    @property
    def label(self) -> str:
        """What tells it from the other engines, in words."""
        tf32 = " tf32" if self.tf32 else ""
        options = "".join(f", {option}" for option in self.options)
        targets = " + ".join(self.targets)
        return f"{self.backend} {self.version} {self.precision}{tf32} ({self.form}{options}) for {targets}"

    @property
    def served(self) -> str:
        """The shapes that it serves, in words."""
        return "; ".join(
            ", ".join(f"{name} {shapes}" for name, shapes in profile.items()) for profile in self.profiles
        )

    @property
    def executed(self) -> str:
        """What it computes in, one of `ENGINE_PRECISIONS`."""
        return "tf32" if self.tf32 else self.precision

    @property
    def verified(self) -> bool:
        """Whether a machine has run it and found its outputs right."""
        return bool(self.parity) and all(parity.passed for parity in self.parity)

    def check_profiles(self, interface: Interface) -> None:
        """Refuse profiles that do not belong to the inputs of the engine's source.

        Raises:
            GantkError: An input is missing or unknown, or cannot have these shapes.
        """
        specs = {spec.name: spec for spec in interface.inputs}
        for profile in self.profiles:
            if profile.keys() != specs.keys():
                raise GantkError(
                    f"a profile of `{self.file.path}` is for {', '.join(sorted(profile)) or 'nothing'}; "
                    f"the inputs are {', '.join(sorted(specs))}"
                )
            for name, shapes in profile.items():
                if not shapes.suits(specs[name]):
                    raise GantkError(f"a profile of `{self.file.path}` has {shapes} for {specs[name]}")

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file.to_json(),
            "backend": self.backend,
            "version": self.version,
            "targets": list(self.targets),
            "precision": self.precision,
            "form": self.form,
            "source": self.source,
            "profiles": [
                {name: shapes.to_json() for name, shapes in profile.items()} for profile in self.profiles
            ],
            "tf32": self.tf32,
            "options": list(self.options),
            "rewrites": list(self.rewrites),
            "layers": self.layers,
            "heavy_layers": [layer.to_json() for layer in self.heavy_layers],
            "plugins": list(self.plugins),
            "timing_cache": self.timing_cache,
            "workspace_bytes": self.workspace_bytes,
            "verified": self.verified,
            "parity": [parity.to_json() for parity in self.parity],
            "probe": None if self.probe is None else self.probe.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any) -> Engine:
        """Read what `to_json` made.

        Raises:
            GantkError: A field is missing, of the wrong type or not allowed.
        """
        layers = take(data, "layers", dict)
        engine = cls(
            file=FileRef.from_json(take(data, "file", dict)),
            backend=take(data, "backend", str),
            version=take(data, "version", str),
            targets=tuple(take_list(data, "targets", printable)),
            precision=take(data, "precision", str),
            form=take(data, "form", str),
            source=take(data, "source", str),
            profiles=tuple(take_list(data, "profiles", _profile)),
            tf32=take(data, "tf32", bool),
            options=tuple(take_list(data, "options", printable)),
            rewrites=tuple(take_list(data, "rewrites", printable)),
            layers={printable(kind): take(layers, kind, int) for kind in layers},
            heavy_layers=tuple(take_list(data, "heavy_layers", HeavyLayer.from_json)),
            plugins=tuple(take_list(data, "plugins", printable)),
            timing_cache=take(data, "timing_cache", str, optional=True),
            workspace_bytes=take(data, "workspace_bytes", int, optional=True),
            parity=tuple(take_list(data, "parity", Parity.from_json)),
            # Engines of before they had probes of their own may lack it.
            probe=take_file(data, "probe") if "probe" in data else None,
        )
        if take(data, "verified", bool) != engine.verified:
            raise GantkError(f"`{engine.file.path}` is called verified where its parity says otherwise")
        return engine


def _profile(data: Any) -> Profile:
    if not isinstance(data, Mapping):
        raise GantkError(f"a profile is an object, not {type(data).__name__}")
    return {printable(name): ShapeRange.from_json(shapes) for name, shapes in data.items()}


def _check_layer_type(kind: str) -> None:
    if kind not in LAYER_TYPES:
        raise GantkError(f"a layer computes in {kind[:100]!r}; known are {', '.join(LAYER_TYPES)}")
