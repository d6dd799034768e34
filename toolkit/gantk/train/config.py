# SPDX-License-Identifier: Apache-2.0
"""Everything that a training can be told, checked as soon as it is said."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from gantk import models
from gantk.data.pictures import Source
from gantk.errors import UsageError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")

# What a run may be resumed with another value of. None of it changes what a step computes, but for the number
# of steps of a run that anneals its learning rates.
CHANGEABLE = frozenset(
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

# The smallest and largest value of each number; a field that may be `None` is checked where it is not.
_LIMITS: dict[str, tuple[float, float]] = {
    "epochs": (1, 1_000_000),
    "steps": (1, 1_000_000_000),
    "batch": (2, 65_536),
    "lr_g": (0.0, 1.0),
    "lr_d": (0.0, 1.0),
    "label_smoothing": (0.0, 0.5),
    "skip_d_below": (0.0, 10.0),
    "ema": (0.0, 0.999_999),
    "seed": (0, 2**31 - 1),
    "devices": (1, 1024),
    "threads": (1, 4096),
    "checkpoint_every": (0, 1_000_000_000),
    "sample_every": (0, 1_000_000),
    "log_every": (1, 1_000_000),
    "keep": (1, 1_000_000),
}


@dataclass(frozen=True)
class TrainConfig:
    """A training of a pair of networks against each other.

    Args:
        data: A folder of pictures, or a MNIST-type idx file, or the folder of one.
        out: The run folder.
        network: One of `gantk.models.PAIRS`.
        size: The height and width of pictures in pixels; by default 28 for idx files of that size, else 64.
        channels: 1 or 3; by default 1 where the pictures are grey.
        latent_size: The length of a latent vector.
        width: Channels of a DCGAN at half the picture's size; the fully connected pair has none.
        epochs: Passes over the pictures.
        steps: Batches in all; wins over `epochs`.
        batch: Pictures in a batch of each process; lowered where there are fewer.
        lr_g: The generator's learning rate.
        lr_d: The discriminator's.
        label_smoothing: Real pictures are labelled 1 minus this (arXiv 1606.03498, section 3.4), 0 to 0.5.
        anneal: Whether both learning rates fall to zero over the second half of the steps.
        skip_d_below: The discriminator does not learn from a batch on which its loss is lower; 0: it does.
        ema: The share that the averaged generator keeps at each step once warm.
        flip: Whether to mirror pictures at random.
        seed: Of weights, latents and the order of pictures.
        precision: One of `PRECISIONS`: the type that the heavy layers compute in (`auto`: see `resolve`).
        device: One of `DEVICES`.
        devices: Processes, each with its share of the pictures.
        threads: CPU threads of all processes together; by default as many as there are cores.
        checkpoint_every: Steps between checkpoints within an epoch; 0: at its end alone.
        sample_every: Epochs between sample grids, curves and checkpoints; 0: one, or more in
            a run of over 200 epochs, which shows 200.
        log_every: Steps in a line of ``metrics.jsonl``.
        keep: The number of checkpoints kept.
        tensorboard: Whether to write TensorBoard's files too.

    Raises:
        UsageError: A value is not allowed; the message says which are.
    """

    data: str
    out: str
    network: str = "dcgan"
    size: int | None = None
    channels: int | None = None
    latent_size: int = 100
    width: int = 64
    epochs: int = 25
    steps: int | None = None
    batch: int = 64
    lr_g: float = 2e-4
    lr_d: float = 2e-4
    anneal: bool = False
    label_smoothing: float = 0.0
    skip_d_below: float = 0.0
    ema: float = 0.999
    flip: bool = False
    seed: int = 0
    precision: str = "auto"
    device: str = "auto"
    devices: int = 1
    threads: int | None = None
    checkpoint_every: int = 0
    sample_every: int = 0
    log_every: int = 10
    keep: int = 3
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and lowest <= value <= highest):
                raise UsageError(
                    f"{name} is {value}; {lowest:g} to {highest:g} is allowed", where=_option(name)
                )
        for name, allowed in (("precision", PRECISIONS), ("device", DEVICES), ("network", models.PAIRS)):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}",
                    where=_option(name),
                )
        models.configure(self.network, self.network_config(default_size=64, default_channels=3))

    def network_config(
        self, default_size: int | None = None, default_channels: int | None = None
    ) -> dict[str, Any]:
        """The part that `gantk.models.build` takes."""
        config = {
            "size": self.size or default_size,
            "channels": self.channels or default_channels,
            "latent_size": self.latent_size,
        }
        return {**config, "width": self.width} if self.network == "dcgan" else config

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` made; fields that this version does not know are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


def resolve(config: TrainConfig, source: Source) -> TrainConfig:
    """Put what is chosen by the pictures and the machine in place of every `auto` and `None`.

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
    native = source.size if source.size in (28, 32, 64, 128) else 64
    return replace(
        config,
        size=config.size or native,
        channels=config.channels or source.channels,
        precision=_best_precision(device) if config.precision == "auto" else config.precision,
        device=device,
        threads=config.threads or len(os.sched_getaffinity(0)),
    )


def _best_precision(device: str) -> str:
    import torch

    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    tests = (
        getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("amx_tile", "avx512_bf16")
    )
    return "bf16" if any(test() for test in tests) else "fp32"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
