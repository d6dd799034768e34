# SPDX-License-Identifier: Apache-2.0
"""Probes: a few inputs of a network and what it makes of them, by which a machine without PyTorch checks an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gantk.bundle import Bundle, Engine, FileRef, Interface, Profile
from gantk.errors import GantkError
from gantk.runtime.runner import Array

_INPUT, _OUTPUT = "input.", "output."

_SAMPLES_LIMIT = 1_000_000


@dataclass(frozen=True)
class Probe:
    """A file of safetensors with tensors ``input.NAME`` and ``output.NAME``.

    Args:
        inputs: By name; those of several forms of a network, where it has them.
        outputs: Likewise.
    """

    inputs: dict[str, Array] = field(default_factory=dict)
    outputs: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def read(cls, bundle: Bundle, ref: FileRef) -> Probe:
        """One of a bundle's.

        Raises:
            GantkError: It is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(bundle.read_file(ref))
        except SafetensorError as error:
            raise GantkError(f"the probe cannot be read: {error}", where=ref.path) from error
        inputs, outputs = (
            {name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}
            for kind in (_INPUT, _OUTPUT)
        )
        return cls(inputs, outputs)

    def dumps(self) -> bytes:
        """The bytes of its file."""
        from safetensors.numpy import save

        return save(
            {
                **{f"{_INPUT}{name}": array for name, array in self.inputs.items()},
                **{f"{_OUTPUT}{name}": array for name, array in self.outputs.items()},
            }
        )

    def served(self, interface: Interface, profiles: Sequence[Profile]) -> Probe | None:
        """What an engine takes and yields of it, cut to the largest batch that a profile serves; `None` for none."""
        names, wanted = ([spec.name for spec in specs] for specs in (interface.inputs, interface.outputs))
        if not (self.inputs.keys() >= set(names) and self.outputs.keys() >= set(wanted)):
            return None
        first = self.outputs[wanted[0]]
        count = min(len(first) if first.ndim else 1, _SAMPLES_LIMIT)

        def cut(array: Array, batch: int) -> Array:
            return array[:batch] if array.ndim and len(array) == count else array

        for batch in range(count, 0, -1):
            inputs = {name: cut(self.inputs[name], batch) for name in names}
            for profile in profiles:
                if all(shapes.holds(inputs[name].shape) for name, shapes in profile.items()):
                    return Probe(inputs, {name: cut(self.outputs[name], batch) for name in wanted})
        return None


def file_of(bundle: Bundle, engine: Engine) -> FileRef | None:
    """The file of the probe that an engine of a bundle is judged by: its own, else the bundle's."""
    return engine.probe or bundle.manifest.probe


def probe_of(bundle: Bundle, engine: Engine) -> Probe | None:
    """What an engine takes and yields of its probe; `None` where there is none of a shape that it serves.

    Raises:
        GantkError: The probe is missing or damaged.
    """
    ref = file_of(bundle, engine)
    interface = bundle.manifest.interface(bundle.manifest.source(engine))
    return None if ref is None else Probe.read(bundle, ref).served(interface, engine.profiles)
