# SPDX-License-Identifier: Apache-2.0
"""The two networks with all that a training remembers, to a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gantk import checkpoint, models
from gantk.checkpoint import Checkpoint
from gantk.errors import GantkError
from gantk.train.config import TrainConfig
from gantk.train.ema import Average

_BETAS = (0.5, 0.999)  # Section 4 of the DCGAN paper.


@dataclass
class State:
    """Everything that changes from step to step.

    Args:
        generator: Latents to pictures.
        discriminator: Pictures to logits.
        average: The averaged generator.
        optimizer_generator: Adam.
        optimizer_discriminator: Adam.
        latents: Draws this process's latents.
        step: Steps done.
    """

    generator: nn.Module
    discriminator: nn.Module
    average: Average
    optimizer_generator: torch.optim.Optimizer
    optimizer_discriminator: torch.optim.Optimizer
    latents: torch.Generator
    step: int = 0


def build(config: TrainConfig, device: torch.device, rank: int) -> State:
    """Networks with fresh weights, which are the same in every process; latents and dropout are not."""
    torch.manual_seed(config.seed)
    network = config.network_config()
    # Convolutions are faster with channels last, see `config.resolve`.
    generator, discriminator = (
        make(config.network, network).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for make in (models.build, models.build_discriminator)
    )
    torch.manual_seed(config.seed * 1000 + rank + 1)
    return State(
        generator,
        discriminator,
        Average(generator, config.ema),
        torch.optim.Adam(generator.parameters(), config.lr_g, _BETAS, fused=True),
        torch.optim.Adam(discriminator.parameters(), config.lr_d, _BETAS, fused=True),
        torch.Generator(device).manual_seed(config.seed * 1000 + rank),
    )


def save(path: Path, state: State, config: TrainConfig, rngs: list[dict[str, Tensor]], scaler: Any) -> None:
    """Write a checkpoint.

    Args:
        path: Its file.
        state: Of the first process.
        config: The resolved configuration.
        rngs: What `rng_states` gave in each process.
        scaler: The JSON state of fp16's loss scale, or `None`.
    """
    tensors = {
        **_prefixed("generator", state.generator.state_dict()),
        **_prefixed("ema", state.average.module.state_dict()),
        **_prefixed("discriminator", state.discriminator.state_dict()),
        **_prefixed("optimizer_generator", _optimizer_tensors(state.optimizer_generator)),
        **_prefixed("optimizer_discriminator", _optimizer_tensors(state.optimizer_discriminator)),
    }
    for rank, rng in enumerate(rngs):
        tensors |= _prefixed(f"rng.{rank}", rng)
    record = {
        "schema": checkpoint.SCHEMA_VERSION,
        "family": config.network,
        "config": models.configure(config.network, config.network_config()).to_json(),
        "step": state.step,
        "training": config.to_json(),
        "scaler": scaler,
    }
    checkpoint.write(path, {name: tensor.detach().cpu() for name, tensor in tensors.items()}, record)


def restore(state: State, saved: Checkpoint, path: Path, rank: int) -> None:
    """Put a checkpoint's values in place of those of `state`.

    Raises:
        GantkError: It is of another architecture, or lacks a part.
    """
    checkpoint.load_weights(state.generator, saved.part("generator"), path)
    checkpoint.load_weights(state.average.module, saved.part("ema"), path)
    checkpoint.load_weights(state.discriminator, saved.part("discriminator"), path)
    try:
        _restore_optimizer(state.optimizer_generator, saved.part("optimizer_generator"))
        _restore_optimizer(state.optimizer_discriminator, saved.part("optimizer_discriminator"))
        rng = saved.part(f"rng.{rank}")
        state.latents.set_state(rng["latents"])
        torch.set_rng_state(rng["torch"])
        if "cuda" in rng and torch.cuda.is_available():
            torch.cuda.set_rng_state(rng["cuda"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise GantkError(
            f"the checkpoint cannot be resumed from: it lacks {error}", where=str(path)
        ) from error
    state.step = saved.state["step"]


def rng_states(state: State) -> dict[str, Tensor]:
    """The states of this process's random number generators: latents, and dropout's."""
    states = {"latents": state.latents.get_state(), "torch": torch.get_rng_state()}
    if state.latents.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, state in states.items() for name, value in state.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    if not tensors:  # Saved before its first step.
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        # The moments must lie in memory as the parameter does: the fused step walks through both at once.
        moments = {
            name: torch.empty_like(parameter).copy_(tensors[f"{index}.{name}"])
            for name in ("exp_avg", "exp_avg_sq")
        }
        step = tensors[f"{index}.step"].to(parameter.device, torch.float32)
        optimizer.state[parameter] = {"step": step, **moments}
