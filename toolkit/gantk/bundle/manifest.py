# SPDX-License-Identifier: Apache-2.0
"""The manifest of a bundle: the only thing that says what exists in it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gantk.errors import GantkError
from gantk.tensors import TensorSpec

SCHEMA_VERSION = 1
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FORMS = ("plain", "rewritten", "adam", "targets", "statistics")

MANIFEST = "manifest.json"
TEXT_LIMIT = 2000
OPSET_LIMIT = 1000

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True)
class FileRef:
    """A file of the bundle.

    Args:
        path: Relative to the bundle, with forward slashes, without ``..``.
        sha256: Of its bytes, in lower-case hexadecimal.
        size_bytes: Its length.
    """

    path: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if len(parts) > 4 or not all(_PART.fullmatch(part) for part in parts) or self.path == MANIFEST:
            raise GantkError(f"{self.path[:TEXT_LIMIT]!r} is not the path of a file inside a bundle")
        if not _SHA256.fullmatch(self.sha256):
            raise GantkError(
                f"the sha256 of `{self.path}` is {self.sha256[:100]!r}; 64 hexadecimal digits are wanted"
            )
        if self.size_bytes < 0:
            raise GantkError(f"`{self.path}` cannot have {self.size_bytes} bytes")

    @classmethod
    def of(cls, path: str, data: bytes) -> FileRef:
        return cls(path, hashlib.sha256(data).hexdigest(), len(data))

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "sha256": self.sha256, "size_bytes": self.size_bytes}

    @classmethod
    def from_json(cls, data: Any) -> FileRef:
        return cls(_take(data, "path", str), _take(data, "sha256", str), _take(data, "size_bytes", int))


@dataclass(frozen=True)
class Parity:
    """How far one backend's outputs for one file are from a reference.

    Args:
        backend: The backend that ran the file, e.g. ``onnxruntime``.
        version: Of that backend.
        device: Where it ran, e.g. ``cpu``.
        executed: The precision it really computed in, which on a CPU may not be the file's.
        reference: What it was compared with, e.g. ``torch float32``.
        max_abs: The largest absolute difference; like the next two, `None` where an output is not finite.
        psnr_db: 10 log10(range^2 / mean squared difference) in dB, 200 for equal outputs.
        cosine: The smallest cosine similarity of an output with its reference.
        samples: The number of pictures compared.
        batches: The batch sizes they came in.
        sizes: Height and width of the pictures of each batch, where the network takes any.
        passed: Whether the thresholds of `gantk.export.verify` hold.
        reason: Why not, if it did not pass.
    """

    backend: str
    version: str
    device: str
    executed: str
    reference: str
    max_abs: float | None
    psnr_db: float | None
    cosine: float | None
    samples: int
    batches: tuple[int, ...]
    passed: bool
    reason: str | None = None
    sizes: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "batches": list(self.batches), "sizes": [list(size) for size in self.sizes]}

    @classmethod
    def from_json(cls, data: Any) -> Parity:
        return cls(
            backend=_take(data, "backend", str),
            version=_take(data, "version", str),
            device=_take(data, "device", str),
            executed=_take(data, "executed", str),
            reference=_take(data, "reference", str),
            max_abs=_take_number(data, "max_abs"),
            psnr_db=_take_number(data, "psnr_db"),
            cosine=_take_number(data, "cosine"),
            samples=_take(data, "samples", int),
            batches=tuple(_take_list(data, "batches", _integer)),
            passed=_take(data, "passed", bool),
            reason=_take(data, "reason", str, optional=True),
            sizes=tuple(_take_list(data, "sizes", _size)) if "sizes" in data else (),
        )


@dataclass(frozen=True)
class Interface:
    """What goes into a file and what comes out of it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
        }

    @classmethod
    def from_json(cls, data: Any) -> Interface:
        """Read what `to_json` made.

        Raises:
            GantkError: A field is missing or not allowed, there is no input or output, or two are called the same.
        """
        found = cls(
            tuple(_take_list(data, "inputs", TensorSpec.from_json)),
            tuple(_take_list(data, "outputs", TensorSpec.from_json)),
        )
        if not found.inputs or not found.outputs:
            raise GantkError("at least one input and one output are wanted")
        _check_different("inputs", [spec.name for spec in found.inputs])
        _check_different("outputs", [spec.name for spec in found.outputs])
        return found


@dataclass(frozen=True)
class Variant:
    """One ONNX file: the network in one precision and one form.

    Args:
        file: The file.
        precision: One of `PRECISIONS`: the type its heavy layers compute in; inputs and outputs are the same
            in all.
        form: ``plain`` as exported, or ``rewritten`` by exact rewrites that were measured to pay; backends that
            like different rewrites have a file each. Of an optimisation step ``plain`` is its gradient,
            ``adam`` the whole step with the update, ``targets`` what it approaches. Of a style network
            ``statistics`` takes the means and variances of its normalisations as an input.
        opset: Of the default ONNX domain.
        parity: One verdict for each (backend, reference) pair that was checked.
        fastest_on: The backends on which this form was measured faster than the other.
        rewrites: The names of the rewrites that were applied, in order.
        gains: Of each backend in `fastest_on`, how many times as fast each rewrite made it, by name, when it was
            measured on the machine that made the bundle.
        interface: What goes in and out, where that differs from the manifest's.
    """

    file: FileRef
    precision: str
    form: str
    opset: int
    parity: tuple[Parity, ...] = ()
    fastest_on: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    gains: dict[str, dict[str, float]] = field(default_factory=dict)
    interface: Interface | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS or self.form not in FORMS:
            raise GantkError(
                f"`{self.file.path}` is {self.precision[:100]!r}, {self.form[:100]!r}; "
                f"known are {', '.join(PRECISIONS)} and {', '.join(FORMS)}"
            )
        if not 1 <= self.opset <= OPSET_LIMIT:
            raise GantkError(f"`{self.file.path}` has opset {self.opset}; 1 to {OPSET_LIMIT} are known")

    @property
    def label(self) -> str:
        """What tells it from the other variants, in words."""
        return f"{self.precision} ({' + '.join((self.form, *self.rewrites))})"

    def failed_on(self, backend: str) -> Parity | None:
        """The verdict that forbids this file on `backend`, if there is one."""
        return next(
            (parity for parity in self.parity if parity.backend == backend and not parity.passed), None
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file.to_json(),
            "precision": self.precision,
            "form": self.form,
            "opset": self.opset,
            "parity": [parity.to_json() for parity in self.parity],
            "fastest_on": list(self.fastest_on),
            "rewrites": list(self.rewrites),
            "gains": self.gains,
            "interface": None if self.interface is None else self.interface.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any) -> Variant:
        interface = _take(data, "interface", dict, optional=True)
        return cls(
            file=FileRef.from_json(_take(data, "file", dict)),
            precision=_take(data, "precision", str),
            form=_take(data, "form", str),
            opset=_take(data, "opset", int),
            parity=tuple(_take_list(data, "parity", Parity.from_json)),
            fastest_on=tuple(_take_list(data, "fastest_on", _text)),
            rewrites=tuple(_take_list(data, "rewrites", _text)),
            gains=_gains(_take(data, "gains", dict, optional=True) or {}),
            interface=None if interface is None else Interface.from_json(interface),
        )


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

    @property
    def files(self) -> tuple[FileRef, ...]:
        """Every file that exists, apart from the manifest itself."""
        extra = (ref for ref in (self.probe, self.checkpoint) if ref is not None)
        return (*(variant.file for variant in self.variants), *extra)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA_VERSION,
            "created": self.created,
            "model": {"family": self.family, "name": self.name, "config": self.config},
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "variants": [variant.to_json() for variant in self.variants],
            "engines": [],
            "probe": None if self.probe is None else self.probe.to_json(),
            "checkpoint": None if self.checkpoint is None else self.checkpoint.to_json(),
            "tools": self.tools,
        }

    def dumps(self) -> bytes:
        return (json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: Any) -> Manifest:
        """Read what `to_json` made.

        Raises:
            GantkError: The schema is another one, or a field is missing, of the wrong type or not allowed.
        """
        schema = _take(data, "schema", int)
        if schema != SCHEMA_VERSION:
            raise GantkError(
                f"the manifest has schema {schema}; this gantk reads schema {SCHEMA_VERSION}",
                hint="pip install -U gantk" if schema > SCHEMA_VERSION else "export the bundle again",
            )
        model = _take(data, "model", dict)
        tools = _take(data, "tools", dict)
        interface = Interface.from_json(data)
        manifest = cls(
            family=_take(model, "family", str),
            name=_take(model, "name", str),
            config=_take(model, "config", dict),
            inputs=interface.inputs,
            outputs=interface.outputs,
            variants=tuple(_take_list(data, "variants", Variant.from_json)),
            probe=_take_file(data, "probe"),
            checkpoint=_take_file(data, "checkpoint"),
            tools={_text(name): _text(version) for name, version in tools.items()},
            created=_take(data, "created", str),
        )
        paths = [ref.path for ref in manifest.files]
        if len(set(paths)) != len(paths):
            raise GantkError(f"two entries name one file: {', '.join(sorted(paths))}")
        if not manifest.variants:
            raise GantkError("a bundle wants at least one variant")
        _check_different("variants", [variant.label for variant in manifest.variants])
        return manifest

    @classmethod
    def loads(cls, data: bytes) -> Manifest:
        """Parse the bytes of a ``manifest.json``.

        Raises:
            GantkError: They are not UTF-8 JSON, or not a manifest that this version reads.
        """
        try:
            parsed = json.loads(data, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise GantkError(f"the manifest is not JSON: {error}") from error
        return cls.from_json(parsed)


def _check_different(what: str, keys: list[str]) -> None:
    if len(set(keys)) != len(keys):
        raise GantkError(f"two {what} are called the same: {', '.join(sorted(keys))}")


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _take(data: Any, key: str, kind: type[T], *, optional: bool = False) -> T:
    """The value of `key`, which must be of the type `kind`."""
    if not isinstance(data, dict):
        raise GantkError(f"an object with {key!r} is wanted, not {type(data).__name__}")
    value = data.get(key)
    if optional and value is None:
        return None  # type: ignore[return-value]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        got = "nothing" if value is None else type(value).__name__
        raise GantkError(f"{key!r} wants {kind.__name__}, not {got}")
    if isinstance(value, str):
        _text(value)
    return value


def _take_number(data: Any, key: str) -> float | None:
    if not isinstance(data, dict) or key not in data:
        raise GantkError(f"{key!r} is missing")
    value = data[key]
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise GantkError(f"{key!r} wants a finite number, not {str(value)[:100]!r}")
    return number


def _take_list(data: Any, key: str, read: Callable[[Any], T]) -> list[T]:
    items: list[T] = []
    for index, item in enumerate(_take(data, key, list)):
        try:
            items.append(read(item))
        except GantkError as error:
            raise GantkError(f"{key}[{index}]: {error.what}", where=error.where, hint=error.hint) from error
    return items


def _take_file(data: Any, key: str) -> FileRef | None:
    value = _take(data, key, dict, optional=True)
    return None if value is None else FileRef.from_json(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise GantkError(f"text is wanted, not {type(value).__name__}")
    if len(value) > TEXT_LIMIT or not value.isprintable():  # It will be printed on terminals.
        raise GantkError(f"printable text of up to {TEXT_LIMIT} characters is wanted, not {value[:100]!r}")
    return value


def _gains(data: dict[str, Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for backend in data:
        of_backend = _take(data, backend, dict)
        numbers = {_text(name): _take_number(of_backend, name) for name in of_backend}
        found[_text(backend)] = {name: number for name, number in numbers.items() if number is not None}
    return found


def _size(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise GantkError("a size is a height and a width")
    return _integer(value[0]), _integer(value[1])


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise GantkError(f"an integer is wanted, not {type(value).__name__}")
    return value
