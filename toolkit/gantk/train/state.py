# SPDX-License-Identifier: Apache-2.0
"""The networks with all that a training remembers, to a checkpoint and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gantk import checkpoint, models
from gantk.checkpoint import Checkpoint
from gantk.errors import GantkError
from gantk.train.ema import Average
from gantk.train.options import RunConfig


@dataclass
class State:
    """Everything that changes from step to step.

    Args:
        networks: By name; ``generator`` is the one that pictures are made with.
        optimizers: Adam, by the names of the networks that learn.
        average: The averaged generator.
        draws: Draws what is random in this process's steps, such as latents.
        step: Steps done.
    """

    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    average: Average
    draws: torch.Generator
    step: int = 0

    @property
    def generator(self) -> nn.Module:
        return self.networks["generator"]


def save(path: Path, state: State, config: RunConfig, rngs: list[dict[str, Tensor]], scaler: Any) -> None:
    """Write a checkpoint.

    Args:
        path: Its file.
        state: Of the first process.
        config: The resolved configuration.
        rngs: What `rng_states` gave in each process.
        scaler: The JSON state of fp16's loss scale, or `None`.
    """
    tensors = _prefixed("ema", state.average.module.state_dict())
    for name, network in state.networks.items():
        tensors |= _prefixed(name, network.state_dict())
    for name, optimizer in state.optimizers.items():
        tensors |= _prefixed(f"optimizer_{name}", _optimizer_tensors(optimizer))
    for rank, rng in enumerate(rngs):
        tensors |= _prefixed(f"rng.{rank}", rng)
    record = {
        "schema": checkpoint.SCHEMA_VERSION,
        "family": config.family,
        "config": models.configure(config.family, config.network_config()).to_json(),
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
    checkpoint.load_weights(state.average.module, saved.part("ema"), path)
    for name, network in state.networks.items():
        checkpoint.load_weights(network, saved.part(name), path)
    try:
        for name, optimizer in state.optimizers.items():
            _restore_optimizer(optimizer, saved.part(f"optimizer_{name}"))
        rng = saved.part(f"rng.{rank}")
        state.draws.set_state(rng["draws"])
        torch.set_rng_state(rng["torch"])
        if "cuda" in rng and torch.cuda.is_available():
            torch.cuda.set_rng_state(rng["cuda"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise GantkError(
            f"the checkpoint cannot be resumed from: it lacks {error}", where=str(path)
        ) from error
    state.step = saved.state["step"]


def rng_states(state: State) -> dict[str, Tensor]:
    """The states of this process's random number generators: its draws, and dropout's."""
    states = {"draws": state.draws.get_state(), "torch": torch.get_rng_state()}
    if state.draws.device.type == "cuda":
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
