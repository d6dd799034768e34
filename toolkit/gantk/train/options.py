# SPDX-License-Identifier: Apache-2.0
"""What every training can be told, checked as soon as it is said."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from types import UnionType
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin, get_type_hints

import gantk
from gantk.errors import UsageError
from gantk.options import check_options
from gantk.runtime.cores import core_count

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")

EPOCHS, LEAST_STEPS = 25, 2000
"""The length of a training where none is asked for: so many epochs, or as many more as make so many steps."""

MOST_SHOWN, LEAST_BETWEEN = 200, 50
"""Where nothing else is asked for, so many times a run is shown at most, with so many steps between at least: of a
few hundred pictures an epoch takes hardly longer than to draw what it made."""


@dataclass(frozen=True)
class RunConfig(ABC):
    """A training of any kind.

    Args:
        data: A folder of pictures.
        out: The run folder.
        epochs: Passes over the pictures; by default `EPOCHS`, or what makes `LEAST_STEPS`.
        steps: Batches in all; wins over `epochs`.
        batch: Pictures in a batch of each process; lowered where there are fewer.
        ema: The share that the averaged generator keeps at each step once warm.
        flip: Whether to mirror pictures at random.
        seed: Of weights, draws and the order of pictures.
        precision: One of `PRECISIONS`: the type that the heavy layers compute in (`auto`: see
            `resolve_machine`).
        device: One of `DEVICES`.
        devices: Processes, each with its share of the pictures.
        threads: CPU threads of all processes together; by default as many as there are cores.
        checkpoint_every: Steps between checkpoints besides those with samples; 0: there are none.
        sample_every: Epochs between sample grids, curves and checkpoints; 0: one, or what keeps to `MOST_SHOWN`
            and `LEAST_BETWEEN`.
        log_every: Steps in a line of ``metrics.jsonl``.
        keep: The number of checkpoints kept.
        tensorboard: Whether to write TensorBoard's files too.

    Raises:
        UsageError: A value is not allowed; the message says which are.
    """

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "epochs": (1, 1_000_000),
        "steps": (1, 1_000_000_000),
        "batch": (1, 65_536),
        "ema": (0.0, 0.999_999),
        "seed": (0, 2**31 - 1),
        "devices": (1, 1024),
        "threads": (1, 4096),
        "checkpoint_every": (0, 1_000_000_000),
        "sample_every": (0, 1_000_000),
        "log_every": (1, 1_000_000),
        "keep": (1, 1_000_000),
    }
    """The smallest and largest value of each number; a field that may be `None` is checked where it is not."""

    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"precision": PRECISIONS, "device": DEVICES}

    changeable: ClassVar[frozenset[str]] = frozenset(
        (
            "data",
            "out",
            "epochs",
            "steps",
            "threads",
            "checkpoint_every",
            "sample_every",
            "keep",
            "log_every",
            "tensorboard",
        )
    )
    """What a run may be resumed with another value of. None of it changes what a step computes, but for the
    number of steps of a run that anneals its learning rates; the content of pictures and styles is compared."""

    data: str
    out: str
    epochs: int | None = None
    steps: int | None = None
    batch: int = 64
    ema: float = 0.999
    flip: bool = False
    seed: int = 0
    precision: str = "auto"
    device: str = "auto"
    devices: int = 1
    threads: int | None = None
    checkpoint_every: int = 2000
    sample_every: int = 0
    log_every: int = 10
    keep: int = 3
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_options(self, self.limits, self.choices)

    @property
    @abstractmethod
    def family(self) -> str:
        """The network's, one of `gantk.models.FAMILIES`."""

    @abstractmethod
    def network_config(self) -> dict[str, Any]:
        """The part that `gantk.models.build` takes."""

    @property
    @abstractmethod
    def decoded(self) -> tuple[int, int]:
        """The size and the channels that pictures are decoded to, of a resolved configuration."""

    @property
    def crop(self) -> int | None:
        """The size that random parts of the decoded pictures have, or `None` for the whole of them."""
        return None

    def total_steps(self, per_epoch: int) -> int:
        """The steps in all, where an epoch has `per_epoch`."""
        if self.steps is not None:
            return self.steps
        return per_epoch * (self.epochs or max(EPOCHS, math.ceil(LEAST_STEPS / per_epoch)))

    def show_every(self, per_epoch: int, total: int) -> int:
        """The steps between samples: whole epochs, as many as `sample_every` says."""
        between = max(total / MOST_SHOWN, LEAST_BETWEEN)
        return per_epoch * (self.sample_every or math.ceil(between / per_epoch))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` made.

        JSON has no tuples: what is a list comes back as one.

        Raises:
            UsageError: A field is unknown, not there or of another type, or a value is not allowed.
        """
        unknown = data.keys() - {field.name for field in fields(cls)}
        if unknown:  # What it would have changed, going on without it would change.
            raise UsageError(
                f"gantk {gantk.__version__} knows no {', '.join(sorted(unknown))}",
                hint="pip install -U gantk, where a newer one wrote it; else take it out of the file",
            )
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        types = get_type_hints(cls)
        for field in fields(cls):
            if field.name not in given and field.default is MISSING:
                raise UsageError(f"{field.name} is not there")
            if field.name in given and not _is_of(given[field.name], types[field.name]):
                raise UsageError(f"{field.name} is {given[field.name]!r}; {field.type} is wanted")
        return cls(**given)


C = TypeVar("C", bound=RunConfig)


def resolve_machine(config: C) -> C:
    """Put what is chosen by the machine in place of every `auto` and `None`.

    `auto` precision is bf16 on a GPU or a CPU that computes in it (AMX or AVX512-BF16), else fp32:
    `benchmarks/results/training.json` has the times of a step in both.

    Raises:
        UsageError: CUDA was asked for and is not there, or fp16 on a CPU.
    """
    import torch

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is 'cuda' and torch finds no CUDA device here", hint="--device cpu")
    if config.precision == "fp16" and device == "cpu":
        raise UsageError(
            "fp16 training wants a CUDA device; on a CPU fp32 and bf16 are allowed",
            where="--precision",
            hint="--precision bf16",
        )
    return replace(
        config,
        precision=best_precision(device) if config.precision == "auto" else config.precision,
        device=device,
        threads=config.threads or core_count(),
    )


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's annotated type."""
    if isinstance(kind, UnionType):
        return any(_is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def best_precision(device: str) -> str:
    """What `auto` precision is on a device; see `resolve_machine`."""
    import torch

    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    tests = (
        getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("amx_tile", "avx512_bf16")
    )
    return "bf16" if any(test() for test in tests) else "fp32"
