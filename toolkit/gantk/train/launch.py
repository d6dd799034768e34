# SPDX-License-Identifier: Apache-2.0
"""One process, several that we start, or those that torchrun started: a function runs in each."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.multiprocessing as mp
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from gantk.errors import GantkError
from gantk.train.interrupt import Interruption
from gantk.train.options import RunConfig

T = TypeVar("T")

_FABRIC_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

# Fabric announces each process on standard error, which is ours for the progress bar.
logging.getLogger("lightning_fabric").setLevel(logging.ERROR)


def is_first() -> bool:
    """Whether this process is the one that speaks and writes, of those that torchrun started."""
    return not _by_torchrun() or os.environ.get("RANK", "0") == "0"


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(function: Callable[..., T], config: RunConfig, *args: Any) -> T:
    """Call ``function(fabric, config, *args)`` in every process.

    Args:
        function: At the top level of a module, so that other processes find it.
        config: Says device, precision, processes and threads.
        args: More arguments; picklable where there are several processes.

    Returns:
        What the first process returned.

    Raises:
        GantkError: As the first process raised it, or another process died.
        KeyboardInterrupt: A signal came before the first step or twice.
    """
    torchrun = _by_torchrun()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if torchrun else config.devices
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // processes if torchrun else 1
    several = processes * nodes > 1
    fabric = Fabric(
        accelerator=config.device,
        devices=processes,
        num_nodes=nodes,
        # Buffers are batch-norm statistics that training does not use. Passing them round before each of the
        # discriminator's two passes would change them between a pass and its gradient.
        strategy=DDPStrategy(start_method="popen" if torchrun else "spawn", broadcast_buffers=False)
        if several
        else "auto",
        precision=_FABRIC_PRECISIONS[config.precision],
    )
    if not several or torchrun:
        fabric.launch()
        return _call(fabric, function, config, args)
    outcome = mp.get_context("spawn").SimpleQueue()
    # Bound, not passed: Fabric walks through arguments and results, and refuses frozen dataclasses.
    work = partial(_call_and_tell, function=function, config=config, args=args, outcome=outcome)
    try:
        with Interruption(forward=True) as interruption:
            fabric.launch(work)
    except (ProcessRaisedException, ProcessExitedException) as error:
        if outcome.empty() and interruption.requested:  # Before a process could tell anything.
            raise KeyboardInterrupt from None
        if outcome.empty():
            raise GantkError(f"a training process died: {str(error).strip().splitlines()[-1]}") from error
    result: T | GantkError | KeyboardInterrupt = outcome.get()
    if isinstance(result, GantkError | KeyboardInterrupt):
        raise result
    return result


def _call(fabric: Any, function: Callable[..., T], config: RunConfig, args: tuple[Any, ...]) -> T:
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", config.devices))
    torch.set_num_threads(max(1, (config.threads or 1) // local_processes))
    with warnings.catch_warnings():
        # Fabric calls functions that torch 2.13 deprecates; its users cannot change that.
        warnings.filterwarnings("ignore", message=".*(all_gather|broadcast_buffers).* is deprecated")
        return function(fabric, config, *args)


def _call_and_tell(
    fabric: Any, function: Callable[..., T], config: RunConfig, args: tuple[Any, ...], outcome: Any
) -> None:
    """As `_call`, but the result or the error goes into a queue: an error reaches a parent as text alone."""
    try:
        result = _call(fabric, function, config, args)
        if fabric.global_rank == 0:
            outcome.put(result)
    except (GantkError, KeyboardInterrupt) as error:
        outcome.put(error)
        raise RuntimeError(str(error)) from error
