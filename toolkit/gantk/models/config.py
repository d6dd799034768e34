# SPDX-License-Identifier: Apache-2.0
"""What configurations share: their fields are checked, and read from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from gantk.errors import UsageError
from gantk.tensors import TensorSpec

CHANNELS = (1, 3)
LATENT_SIZES = range(1, 4097)


@dataclass(frozen=True)
class NetworkConfig:
    """A pair of networks that makes and judges square pictures.

    Args:
        size: The height and width of a picture in pixels.
        channels: 1 for grey, 3 for colour.
        latent_size: The length of a latent vector.

    Raises:
        UsageError: A value is not allowed.
    """

    sizes: ClassVar[tuple[int, ...] | range]

    size: int = 64
    channels: int = 3
    latent_size: int = 100

    def __post_init__(self) -> None:
        check("size", self.size, self.sizes)
        check("channels", self.channels, CHANNELS)
        check("latent_size", self.latent_size, LATENT_SIZES)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` made; fields that are not there have their defaults.

        Raises:
            UsageError: A field is unknown, or a value is not allowed.
        """
        check_fields(cls, data)
        lists = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        return cls(**{**data, **lists})

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the generator takes."""
        return (TensorSpec("latent", "float32", ("N", self.latent_size), layout="NC"),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the generator returns."""
        shape = ("N", self.channels, self.size, self.size)
        return (TensorSpec("picture", "float32", shape, (-1.0, 1.0), "NCHW"),)


def check_fields(config: type, data: Mapping[str, Any]) -> None:
    """Raise a `UsageError` where `data` has a field that a configuration does not."""
    known = [field.name for field in fields(config)]
    unknown = [name for name in data if name not in known]
    if unknown:
        raise UsageError(f"a network has no {', '.join(map(repr, unknown))}; it has {', '.join(known)}")


def check_names(name: str, value: Any, fewest: int, most: int) -> None:
    """Raise a `UsageError` where `value` is no tuple of `fewest` to `most` different names."""
    named = isinstance(value, tuple) and all(isinstance(each, str) and each for each in value)
    if not named or not fewest <= len(value) <= most or len({*value}) < len(value):
        raise UsageError(f"{name} are {value!r}; {fewest} to {most} different names are wanted")


def check(name: str, value: Any, allowed: tuple[int, ...] | range) -> None:
    """Raise a `UsageError` that names `allowed` where `value` is not in it."""
    if isinstance(value, int) and not isinstance(value, bool) and value in allowed:
        return
    if isinstance(allowed, range):
        choice = f"a whole number from {allowed.start} to {allowed.stop - 1} is wanted"
    else:
        choice = f"allowed are {', '.join(map(str, allowed))}"
    raise UsageError(f"{name} is {value!r}; {choice}")
