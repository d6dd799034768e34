# SPDX-License-Identifier: Apache-2.0
"""What surrounds the loop: the log, samples, checkpoints, and agreement among the processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantk import checkpoint
from gantk.data import Pictures
from gantk.errors import GantkError
from gantk.train import health, run_folder
from gantk.train import state as states
from gantk.train.config import TrainConfig
from gantk.train.log import Log, Window, check_finite
from gantk.train.reporter import Reporter
from gantk.train.samples import Showroom
from gantk.train.state import State

MOST_SHOWN = 200
"""The epochs of a run that are shown where nothing else is asked for, so that a thousand short ones are not."""

_AVERAGED = ("loss_d", "loss_g", "d_real", "d_fake", "d_accuracy", "skipped")


class Session:
    """One process's sitting of a training. Only the first process writes.

    Args:
        fabric: Lightning's, launched.
        config: The resolved configuration.
        state: What is trained.
        reporter: Told of the progress.
    """

    def __init__(self, fabric: Any, config: TrainConfig, state: State, reporter: Reporter) -> None:
        self.fabric = fabric
        self.config = config
        self.state = state
        self.window = Window()
        self._reporter = reporter
        self._run = Path(config.out)
        self._log: Log | None = None
        self._showroom: Showroom | None = None

    def restore(self, facts: dict[str, Any]) -> None:
        """Go to the newest whole checkpoint, or stay at the beginning where there is none yet.

        Raises:
            GantkError: The pictures are others now, or no checkpoint is whole.
        """
        known = run_folder.read(self._run).get("data")
        if self.fabric.is_global_zero and known != facts["data"]:
            raise GantkError(
                "the pictures are not those that the run began with",
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

    def open(self, pictures: Pictures) -> None:
        """Open the log, and keep some real pictures to compare samples with."""
        if self.fabric.is_global_zero:
            self._log = Log(self._run, self.state.step, tensorboard=self.config.tensorboard)
            self._showroom = Showroom(self._run, self.config, pictures, self.fabric.device)
        self.window = Window()

    def after_step(self, per_epoch: int, total: int, *, last: bool) -> None:
        """Do what is due after a step: a line in the log, samples and curves, a checkpoint.

        Args:
            per_epoch: Steps in an epoch.
            total: Steps in all.
            last: Whether the training ends here.
        """
        step, config = self.state.step, self.config
        epoch, within = divmod(step, per_epoch)
        sample_every = config.sample_every or math.ceil(total / per_epoch / MOST_SHOWN)
        shows = step == total or (within == 0 and epoch % sample_every == 0)
        saves = last or shows or (config.checkpoint_every > 0 and step % config.checkpoint_every == 0)
        if saves or self.window.steps >= config.log_every:
            self._write_line(epoch=math.ceil(step / per_epoch))
        self._reporter.step(step, total, self.latest())
        if saves:
            self._save(epoch=math.ceil(step / per_epoch), shows=shows)
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
        return tuple(health.warnings(self._log.history).values()) if self._log is not None else ()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _write_line(self, epoch: int) -> None:
        """Close the window with a line in the log; every process stops where a loss is not finite in one."""
        pictures_a_step = self.config.batch * self.fabric.world_size
        record = {
            "event": "step",
            "step": self.state.step,
            "epoch": epoch,
            **self.window.close(pictures_a_step),
        }
        self.window = Window()
        if self.fabric.world_size > 1:
            mine = torch.tensor([record[name] for name in _AVERAGED], device=self.fabric.device)
            means = self.fabric.all_reduce(mine).tolist()
            record |= {name: round(mean, 6) for name, mean in zip(_AVERAGED, means, strict=True)}
        check_finite(record, self._run)
        if self._log is not None:
            self._log.add(record)

    def _save(self, epoch: int, *, shows: bool) -> None:
        """Write a checkpoint, after samples and curves where they are due."""
        # All processes take part in gathering their random states, then the first goes on alone.
        mine = states.rng_states(self.state)
        gathered = {name: gather_all(self.fabric, tensor) for name, tensor in mine.items()}
        if self._log is None or self._showroom is None:
            return
        self._showroom.settle(self.state.average)
        if shows:
            before = health.warnings(self._log.history)
            self._showroom.show(self.state.average, self._log, self.state.step, epoch, self._reporter)
            for name, sentence in health.warnings(self._log.history).items():
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
