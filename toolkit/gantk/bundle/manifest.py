# SPDX-License-Identifier: Apache-2.0
"""The manifest of a bundle: the only thing that says what exists in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from gantk.bundle.engines import Engine
from gantk.bundle.fileref import FileRef, take_file
from gantk.bundle.reading import check_different, check_finite, printable, refuse_constant, take, take_list
from gantk.bundle.variants import Interface, Variant
from gantk.errors import GantkError
from gantk.tensors import TensorSpec

SCHEMA_VERSION = 1

STEP_FAMILY = "gatys-step"
"""The family of an exported step of style transfer by optimisation."""

FOREIGN_FAMILY = "onnx"
"""The family of an ONNX file from elsewhere, of which there is no PyTorch."""


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    Args:
        family: The model family, e.g. ``dcgan``.
        name: The model's name, e.g. the name of the run it came from.
        config: The network's configuration, by which `gantk.models.build` makes it again.
        inputs: What goes in; symbols in shapes are sizes chosen at run time.
        outputs: What comes out.
        variants: The ONNX files.
        engines: What was built of them, each of a variant that is here too.
        probe: A safetensors file of a few inputs with PyTorch's float32 outputs.
        checkpoint: A safetensors file of the network's weights.
        tools: The versions of the packages that made the bundle.
        created: UTC time, ISO 8601.
    """

    family: str
    name: str
    config: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]
    probe: FileRef | None = None
    checkpoint: FileRef | None = None
    tools: dict[str, str] = field(default_factory=dict)
    created: str = ""
    engines: tuple[Engine, ...] = ()

    @property
    def files(self) -> tuple[FileRef, ...]:
        """Every file that exists, apart from the manifest itself."""
        probes = dict.fromkeys(engine.probe for engine in self.engines)  # Engines may share one.
        extra = (ref for ref in (self.probe, *probes, self.checkpoint) if ref is not None)
        return (*(v.file for v in self.variants), *(engine.file for engine in self.engines), *extra)

    def interface(self, variant: Variant) -> Interface:
        """What goes into one of the variants, and what comes out of it."""
        return variant.interface or Interface(self.inputs, self.outputs)

    def source(self, engine: Engine) -> Variant:
        """The variant that an engine was built from.

        Raises:
            GantkError: It is not here.
        """
        wanted = (engine.source, engine.precision, engine.form)
        for variant in self.variants:
            if (variant.file.sha256, variant.precision, variant.form) == wanted:
                return variant
        raise GantkError(
            f"`{engine.file.path}` was built from a {engine.precision} ({engine.form}) file with sha256 "
            f"{engine.source[:12]}..., which the manifest does not have"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA_VERSION,
            "created": self.created,
            "model": {"family": self.family, "name": self.name, "config": self.config},
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "variants": [variant.to_json() for variant in self.variants],
            "engines": [engine.to_json() for engine in self.engines],
            "probe": None if self.probe is None else self.probe.to_json(),
            "checkpoint": None if self.checkpoint is None else self.checkpoint.to_json(),
            "tools": self.tools,
        }

    def dumps(self) -> bytes:
        """What `loads` reads.

        Raises:
            GantkError: A number is NaN or infinite, which JSON has no word for.
        """
        document = self.to_json()
        check_finite(document)
        return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: Any) -> Manifest:
        """Read what `to_json` made.

        Raises:
            GantkError: The schema is another one, or a field is missing, of the wrong type or not allowed.
        """
        schema = take(data, "schema", int)
        if schema != SCHEMA_VERSION:
            raise GantkError(
                f"the manifest has schema {schema}; this gantk reads schema {SCHEMA_VERSION}",
                hint="pip install -U gantk" if schema > SCHEMA_VERSION else "export the bundle again",
            )
        model = take(data, "model", dict)
        tools = take(data, "tools", dict)
        interface = Interface.from_json(data)
        manifest = cls(
            family=take(model, "family", str),
            name=take(model, "name", str),
            config=take(model, "config", dict),
            inputs=interface.inputs,
            outputs=interface.outputs,
            variants=tuple(take_list(data, "variants", Variant.from_json)),
            probe=take_file(data, "probe"),
            checkpoint=take_file(data, "checkpoint"),
            tools={printable(name): printable(version) for name, version in tools.items()},
            created=take(data, "created", str),
            # Bundles of before there were engines may lack the list.
            engines=tuple(take_list(data, "engines", Engine.from_json)) if "engines" in data else (),
        )
        paths = [ref.path for ref in manifest.files]
        if len(set(paths)) != len(paths):
            raise GantkError(f"two entries name one file: {', '.join(sorted(paths))}")
        if not manifest.variants:
            raise GantkError("a bundle wants at least one variant")
        check_different("variants", [variant.label for variant in manifest.variants])
        check_different("engines", [engine.label for engine in manifest.engines])
        for engine in manifest.engines:
            engine.check_profiles(manifest.interface(manifest.source(engine)))
        return manifest

    @classmethod
    def loads(cls, data: bytes) -> Manifest:
        """Parse the bytes of a ``manifest.json``.

        Raises:
            GantkError: They are not UTF-8 JSON, or not a manifest that this version reads.
        """
        try:
            parsed = json.loads(data, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise GantkError(f"the manifest is not JSON: {error}") from error
        return cls.from_json(parsed)
