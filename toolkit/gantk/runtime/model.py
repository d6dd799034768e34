# SPDX-License-Identifier: Apache-2.0
"""An ONNX file before a backend has it: its bytes, checked, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gantk.bundle import FORMS, PRECISIONS, Bundle, Interface, Variant, place_of
from gantk.errors import GantkError, UsageError
from gantk.files import read_bytes
from gantk.runtime import onnx_file
from gantk.runtime.operators import has_native_operators
from gantk.tensors import TensorSpec

ONNX_LIMIT_BYTES = 2**31 - 1
"""The largest message that protobuf reads."""


@dataclass(frozen=True)
class Model:
    """One ONNX file.

    Args:
        data: Its bytes; those of a bundle have been checked against the manifest's hash.
        path: Where it came from.
        inputs: What goes in.
        outputs: What comes out.
        precision: One of `PRECISIONS`: what most of its weights are stored in.
        name: The network's name.
        form: One of `FORMS`.
        external: Whether weights lie in other files beside `path`, which a backend must then open by path.
        channels_last: Whether it was measured faster where a backend lays pictures out so.
        is_wholly_native: Whether native operators are all that is heavy in it: see `gantk.bundle.WHOLLY_NATIVE`.
        has_native_form: Whether it is, or its bundle has a file of its precision that is.
        config: The network's configuration, where the file tells it.
    """

    data: bytes = field(repr=False)
    path: Path | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    name: str
    form: str = "plain"
    external: bool = False
    channels_last: bool = False
    is_wholly_native: bool = False
    has_native_form: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The file's name in errors."""
        return str(self.path or self.name)


def from_path(
    path: str | Path,
    precision: str | None = None,
    form: str | None = None,
    backend: str | None = None,
    device: str = "cpu",
) -> Model:
    """Read one variant of a bundle, or a lone ONNX file.

    Args:
        path: A bundle's folder or an ``.onnx`` file.
        precision: One of `PRECISIONS`; by default fp32 where the bundle has it, else what it has first.
        form: One of `FORMS`; by default the one measured fastest on `backend`, else ``plain``, and none whose
            inputs and outputs are not the bundle's.
        backend: The backend that will run it.
        device: Where.

    Raises:
        GantkError: It cannot be read, is neither of the two, is damaged, or has no such variant.
        UsageError: An unknown precision or form.
    """
    path = Path(path)
    check_choice("precision", precision, PRECISIONS)
    check_choice("form", form, FORMS)
    if path.is_dir():
        bundle = Bundle.read(path)
        return from_variant(bundle, choose(bundle, precision, form, backend, device))
    model = from_bytes(read_bytes(path, ONNX_LIMIT_BYTES), path)
    wanted = (precision or model.precision, form or model.form)
    if wanted != (model.precision, model.form):
        raise GantkError(
            f"`{path}` is {model.precision} ({model.form}), not {wanted[0]} ({wanted[1]})",
            where=str(path),
            hint="leave --precision out, or export a bundle, which holds several",
        )
    return model


def choose(
    bundle: Bundle, precision: str | None, form: str | None, backend: str | None, device: str = "cpu"
) -> Variant:
    """The variant that `from_path` reads; arguments as there.

    Raises:
        GantkError: There is none.
    """
    precision = precision or default_precision(bundle)
    fitting = [
        v
        for v in bundle.manifest.variants
        if v.precision == precision and (v.interface is None if form is None else v.form == form)
    ]
    if not fitting:
        return bundle.find(precision, form or "plain")

    def preference(variant: Variant) -> tuple[bool, bool, bool, bool]:
        if backend is None:
            return (False, False, False, variant.form != "plain")
        return (
            variant.failed_on(backend, device) is not None,
            *slowness(variant, backend, device),
            variant.form != "plain",
        )

    return min(fitting, key=preference)


def default_precision(bundle: Bundle) -> str:
    """What is run where nobody says: fp32 where the bundle has it, else what it has first."""
    held = [variant.precision for variant in bundle.manifest.variants]
    return "fp32" if "fp32" in held else held[0]


class Form(Protocol):
    """What is known of how fast a file is."""

    @property
    def fastest_on(self) -> tuple[str, ...]: ...
    @property
    def is_native(self) -> bool: ...


def slowness(form: Form, backend: str, device: str) -> tuple[bool, bool]:
    """A key to sort forms by: the smallest is of the one that was measured fastest on a backend and device.

    A form with native operators is not, where their library is not.
    """
    usable = not form.is_native or has_native_operators(device)
    fastest = usable and place_of(backend, device) in form.fastest_on
    return not fastest, not (fastest and form.is_native)


def from_variant(bundle: Bundle, variant: Variant) -> Model:
    """Read and check the file of one variant; what is known of it comes from the manifest.

    Raises:
        GantkError: It is missing or damaged, or its weights lie in other files.
    """
    manifest = bundle.manifest
    interface = variant.interface or Interface(manifest.inputs, manifest.outputs)
    path = bundle.root / variant.file.path
    data = bundle.read_file(variant.file)
    onnx_file.refuse_external(data, str(path))
    return Model(
        data=data,
        path=path,
        inputs=interface.inputs,
        outputs=interface.outputs,
        precision=variant.precision,
        name=manifest.name,
        form=variant.form,
        channels_last="channels-last" in variant.rewrites,
        is_wholly_native=variant.is_wholly_native,
        has_native_form=any(
            other.is_wholly_native and other.precision == variant.precision for other in manifest.variants
        ),
        config=manifest.config,
    )


def from_bytes(data: bytes, path: Path | None = None) -> Model:
    """Read what the header of an ONNX file says.

    Args:
        data: The whole file.
        path: Where it lies, for errors and for weights stored beside it.

    Raises:
        GantkError: It is not ONNX, is cut short, or has inputs or outputs that gantk cannot feed.
    """
    where = str(path or "model")
    proto = onnx_file.parse(data, where)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = onnx_file.specs([value for value in proto.graph.input if value.name not in weights], where)
    outputs = onnx_file.specs(proto.graph.output, where)
    facts = {entry.key: entry.value for entry in proto.metadata_props if entry.key.startswith("gantk.")}
    about = onnx_file.fact(facts, "gantk.model", dict) or {}
    name, config = about.get("name"), about.get("config")
    wholly_native = onnx_file.fact(facts, "gantk.wholly_native", bool) or False
    return Model(
        data=data,
        path=path,
        inputs=onnx_file.described(inputs, onnx_file.fact(facts, "gantk.inputs", list)),
        outputs=onnx_file.described(outputs, onnx_file.fact(facts, "gantk.outputs", list)),
        precision=onnx_file.weights_precision(proto),
        name=name if isinstance(name, str) and name else (path.stem if path else proto.graph.name or "model"),
        form=form if (form := onnx_file.fact(facts, "gantk.form", str)) in FORMS else "plain",
        external=onnx_file.has_external(proto, path, where),
        channels_last=onnx_file.fact(facts, "gantk.channels_last", bool) or False,
        is_wholly_native=wholly_native,
        has_native_form=wholly_native,
        config=config if isinstance(config, dict) else {},
    )


def check_choice(what: str, value: str | None, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among those allowed; `None` passes."""
    if value is not None and value not in allowed:
        raise UsageError(f"{value!r} is not a {what}; known are {', '.join(allowed)}", where=what)
