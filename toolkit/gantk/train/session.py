# SPDX-License-Identifier: Apache-2.0
"""What surrounds the loop: the log, samples, checkpoints, and agreement among the processes."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantk import checkpoint
from gantk.errors import GantkError
from gantk.train import run_folder
from gantk.train import state as states
from gantk.train.log import Log, Window, check_finite
from gantk.train.reporter import Reporter
from gantk.train.training import Training


class Session:
    """One process's sitting of a training. Only the first process writes.

    Args:
        training: What is trained.
        reporter: Told of the progress.
    """

    def __init__(self, training: Training[Any], reporter: Reporter) -> None:
        self.training = training
        self.fabric = training.fabric
        self.config = training.config
        self.state = training.state
        self.window = Window()
        self.saving_s = 0.0
        """How long samples, curves and checkpoints took; no step is on its way meanwhile."""
        self._reporter = reporter
        self._run = Path(self.config.out)
        self._log: Log | None = None

    def restore(self, facts: dict[str, Any]) -> None:
        """Go to the newest whole checkpoint, or stay at the beginning where there is none yet.

        Raises:
            GantkError: The pictures are others now, or no checkpoint is whole.
        """
        known = run_folder.read(self._run)
        for name, fact in facts.items():
            # As text, for the order of styles is a part of what was learned.
            if self.fabric.is_global_zero and json.dumps(known.get(name)) != json.dumps(fact):
                raise GantkError(
                    f"the {'pictures' if name == 'data' else name} are not those that the run began with",
                    where=str(self._run),
                    hint="begin a new run with another --out",
                )
        if not checkpoint.list_paths(self._run):
            self._reporter.say("the run has no checkpoint yet: it begins anew")
            return
        saved, path, problems = checkpoint.read_newest(self._run)
        for problem in problems:
            self._reporter.warn(f"passed over a checkpoint: {problem.what}")
        states.restore(self.state, saved, path, self.fabric.global_rank)
        if saved.state.get("scaler"):
            self.fabric.strategy.precision.load_state_dict(saved.state["scaler"])
        self._reporter.say(f"goes on from step {self.state.step} ({path.name})")

    def open(self) -> None:
        """Open the log."""
        if self.fabric.is_global_zero:
            self._log = Log(self._run, self.state.step, tensorboard=self.config.tensorboard)
        self.window = Window()

    def after_step(self, per_epoch: int, total: int, *, last: bool) -> None:
        """Do what is due after a step: a line in the log, samples and curves, a checkpoint.

        Args:
            per_epoch: Steps in an epoch.
            total: Steps in all.
            last: Whether the training ends here.
        """
        step, config = self.state.step, self.config
        shows = step == total or step % config.show_every(per_epoch, total) == 0
        saves = last or shows or (config.checkpoint_every > 0 and step % config.checkpoint_every == 0)
        if saves or self.window.steps >= config.log_every:
            self._write_line(epoch=math.ceil(step / per_epoch))
        self._reporter.step(step, total, self.latest())
        if saves:
            began_s = time.perf_counter()
            self._save(epoch=math.ceil(step / per_epoch), shows=shows)
            self.saving_s += time.perf_counter() - began_s
            self.window = Window()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        if self.fabric.world_size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.fabric.device)
        return bool(self.fabric.all_reduce(flags, reduce_op="sum") > 0)

    def latest(self) -> dict[str, Any]:
        """The last line on steps in the log, in the first process."""
        history = self._log.history if self._log is not None else []
        return next((line for line in reversed(history) if line["event"] == "step"), {})

    def warnings(self) -> tuple[str, ...]:
        """What is wrong now, in words, in the first process."""
        return tuple(self.training.warnings(self._log.history).values()) if self._log is not None else ()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _write_line(self, epoch: int) -> None:
        """Close the window with a line in the log; every process stops where a loss is not finite in one."""
        pictures_a_step = self.config.batch * self.fabric.world_size
        means, times = self.window.close(pictures_a_step)
        self.window = Window()
        if self.fabric.world_size > 1:
            mine = torch.tensor([*means.values()], device=self.fabric.device)
            shared = self.fabric.all_reduce(mine).tolist()
            means = {name: round(mean, 6) for name, mean in zip(means, shared, strict=True)}
        record = {"event": "step", "step": self.state.step, "epoch": epoch, **means, **times}
        check_finite(record, self._run)
        if self._log is not None:
            self._log.add(record)

    def _save(self, epoch: int, *, shows: bool) -> None:
        """Write a checkpoint, after samples and curves where they are due."""
        # All processes take part in gathering their random states, then the first goes on alone.
        mine = states.rng_states(self.state)
        gathered = {name: gather_all(self.fabric, tensor) for name, tensor in mine.items()}
        if self._log is None:
            return
        self.training.settle()
        if shows:
            before = self.training.warnings(self._log.history)
            self.training.show(self._log, epoch, self._reporter)
            for name, sentence in self.training.warnings(self._log.history).items():
                if name not in before:
                    self._reporter.warn(sentence)
        rngs = [
            {name: tensor[rank] for name, tensor in gathered.items()}
            for rank in range(self.fabric.world_size)
        ]
        scaler = self.fabric.strategy.precision.state_dict() or None
        states.save(checkpoint.path_of(self._run, self.state.step), self.state, self.config, rngs, scaler)
        run_folder.drop_old_checkpoints(self._run, self.config.keep)


def gather_all(fabric: Any, tensor: Tensor) -> Tensor:
    """The tensors of all processes, stacked on the CPU in the order of their ranks."""
    if fabric.world_size == 1:
        return tensor[None].cpu()
    gathered: Tensor = fabric.all_gather(tensor.to(fabric.device)).cpu()
    return gathered
