# SPDX-License-Identifier: Apache-2.0
"""The ONNX files of a bundle, and how far each is from PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gantk.bundle.fileref import FileRef
from gantk.bundle.reading import check_different, integer, printable, take, take_list, take_number
from gantk.errors import GantkError
from gantk.tensors import TensorSpec

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
FORMS = ("plain", "rewritten", "adam", "targets", "statistics")

WHOLLY_NATIVE = "channels-last-to-native"
"""The rewrite that leaves nothing but gantk's native operators of what is heavy: `gantk.export.rewrites.wholly_native`.
With these a backend computes a precision of which it has no kernels itself."""

OPSET_LIMIT = 1000


@dataclass(frozen=True)
class Parity:
    """How far one backend's outputs for one file are from a reference.

    Args:
        backend: The backend that ran the file, e.g. ``onnxruntime``.
        version: Of that backend.
        device: Where it ran, e.g. ``cpu``.
        executed: The precision it really computed in, which on a CPU may not be the file's.
        reference: What it was compared with, e.g. ``torch float32``.
        max_abs: The largest absolute difference, like the next two of the output with the smallest PSNR; all are
            `None` where an output is not finite.
        psnr_db: 10 log10(range^2 / mean squared difference) in dB, 200 for equal outputs.
        cosine: The smallest cosine similarity of an output with its reference.
        samples: The number of pictures compared.
        batches: The batch sizes they came in; none where the backend could not load the file.
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

    @property
    def loaded(self) -> bool:
        """Whether the backend could load the file."""
        return bool(self.batches)

    def complaint(self, path: str) -> str:
        """What a failed check found of the file at `path`, in words."""
        if not self.loaded:
            return f"{self.backend} could not load `{path}` when the bundle was made: {self.reason}"
        off_by = f", off by up to {self.max_abs:.3g}" if self.max_abs is not None else ""
        reason = self.reason or "its parity check failed"
        return f"{self.backend} computes `{path}` wrong: {reason}{off_by}, against {self.reference}"

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "batches": list(self.batches), "sizes": [list(size) for size in self.sizes]}

    @classmethod
    def from_json(cls, data: Any) -> Parity:
        return cls(
            backend=take(data, "backend", str),
            version=take(data, "version", str),
            device=take(data, "device", str),
            executed=take(data, "executed", str),
            reference=take(data, "reference", str),
            max_abs=take_number(data, "max_abs"),
            psnr_db=take_number(data, "psnr_db"),
            cosine=take_number(data, "cosine"),
            samples=take(data, "samples", int),
            batches=tuple(take_list(data, "batches", integer)),
            passed=take(data, "passed", bool),
            reason=take(data, "reason", str, optional=True),
            sizes=tuple(take_list(data, "sizes", _size)) if "sizes" in data else (),
        )


def readable(difference: float | None) -> str:
    """A largest difference for people: two digits, or all that are whole: ``0.0042``, ``7.5``, ``100``, ``12,345``."""
    if difference is None:
        return "-"
    return f"{difference:,.0f}" if 99.5 <= difference < 1e6 else f"{difference:.2g}"


@dataclass(frozen=True)
class Calibrated:
    """What the ranges of an int8 or fp8 file's tensors were taken from.

    Args:
        method: How a range followed from a tensor's values, e.g. ``minmax``.
        wanted: The number of inputs asked for.
        used: The number of inputs there were.
        held_out: The number of others that the file was judged by; 0 where there were too few.
        unreadable: The number of picture files that could not be read.
    """

    method: str
    wanted: int
    used: int
    held_out: int
    unreadable: int

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, data: Any) -> Calibrated:
        counts = ("wanted", "used", "held_out", "unreadable")
        return cls(take(data, "method", str), *(take(data, key, int) for key in counts))


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
            tuple(take_list(data, "inputs", TensorSpec.from_json)),
            tuple(take_list(data, "outputs", TensorSpec.from_json)),
        )
        if not found.inputs or not found.outputs:
            raise GantkError("at least one input and one output are wanted")
        check_different("inputs", [spec.name for spec in found.inputs])
        check_different("outputs", [spec.name for spec in found.outputs])
        return found


def place_of(backend: str, device: str) -> str:
    """Where a file is run, as a manifest names it: ``onnxruntime`` on a CPU, ``onnxruntime cuda`` on a GPU."""
    return backend if device == "cpu" else f"{backend} {device}"


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
        fastest_on: Where this form was measured faster than the others, or is the only one that runs: see `place_of`.
        rewrites: The names of the rewrites that were applied, in order.
        gains: Of each place in `fastest_on`, how many times as fast each rewrite made it, by name, when it was
            measured on the machine that made the bundle; nothing of a place where there was nothing to measure it by.
        interface: What goes in and out, where that differs from the manifest's.
        calibrated: Where the ranges of a quantised file are from.
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
    calibrated: Calibrated | None = None

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

    @property
    def is_native(self) -> bool:
        """Whether it is faster for gantk's native operators alone: by their bodies it may be slower than another."""
        return any(name.endswith("-to-native") for name in self.rewrites)

    @property
    def is_wholly_native(self) -> bool:
        """Whether native operators are all that is heavy in it: see `WHOLLY_NATIVE`."""
        return WHOLLY_NATIVE in self.rewrites

    def failed_on(self, backend: str, device: str) -> Parity | None:
        """The verdict that forbids this file on a backend's device, if there is one; those on others say nothing."""
        here = (p for p in self.parity if (p.backend, p.device) == (backend, device))
        return next((parity for parity in here if not parity.passed), None)

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
            "calibrated": None if self.calibrated is None else self.calibrated.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any) -> Variant:
        interface = take(data, "interface", dict, optional=True)
        calibrated = take(data, "calibrated", dict, optional=True)
        return cls(
            file=FileRef.from_json(take(data, "file", dict)),
            precision=take(data, "precision", str),
            form=take(data, "form", str),
            opset=take(data, "opset", int),
            parity=tuple(take_list(data, "parity", Parity.from_json)),
            fastest_on=tuple(take_list(data, "fastest_on", printable)),
            rewrites=tuple(take_list(data, "rewrites", printable)),
            gains=_gains(take(data, "gains", dict, optional=True) or {}),
            interface=None if interface is None else Interface.from_json(interface),
            calibrated=None if calibrated is None else Calibrated.from_json(calibrated),
        )


def _gains(data: dict[str, Any]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for backend in data:
        of_backend = take(data, backend, dict)
        numbers = {printable(name): take_number(of_backend, name) for name in of_backend}
        found[printable(backend)] = {name: number for name, number in numbers.items() if number is not None}
    return found


def _size(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise GantkError("a size is a height and a width")
    return integer(value[0]), integer(value[1])
