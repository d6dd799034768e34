# SPDX-License-Identifier: Apache-2.0
"""`metrics.jsonl`, the curves drawn from it, and TensorBoard's files."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantk.errors import GantkError
from gantk.files import named_errors, read_bytes, write_bytes, write_text
from gantk.train.run_folder import METRICS

Record = dict[str, Any]


class Window:
    """Means over the steps since the last line of the log; values stay on their device until asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._wait_s = 0.0
        self._began_s = time.perf_counter()
        self.steps = 0

    def add(self, wait_s: float, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._wait_s += wait_s
        self.steps += 1

    def close(self, pictures_a_step: int) -> tuple[Record, Record]:
        """The means, and the speeds, since the window was opened."""
        means = {name: float(total) / self.steps for name, total in self._sums.items()}
        elapsed_s = max(time.perf_counter() - self._began_s, 1e-9)
        return {name: round(mean, 6) for name, mean in means.items()}, {
            "samples_per_second": round(pictures_a_step * self.steps / elapsed_s, 2),
            "data_wait_ms": round(self._wait_s / self.steps * 1000, 4),
        }


class Log:
    """The metrics of a run, on disk and in `history`.

    Args:
        run: The run folder.
        step: The step that the run begins at, or goes on from; later lines are cut off.
        tensorboard: Whether to write TensorBoard's files too.

    Raises:
        GantkError: TensorBoard is wanted and not installed, or the file cannot be written.
    """

    def __init__(self, run: Path, step: int, *, tensorboard: bool = False) -> None:
        self._run = run
        self.history = _read(run / METRICS, step)
        write_text(run / METRICS, "".join(map(_line, self.history)))
        self._writer = _writer(run / "tensorboard", step) if tensorboard else None

    def add(self, record: Record) -> None:
        """Append one line.

        Raises:
            GantkError: It cannot be written, e.g. as the disk is full.
        """
        path = self._run / METRICS
        with named_errors(path, "write"), path.open("a") as stream:
            stream.write(_line(record))
        self.history.append(record)
        if self._writer is not None:
            for name, value in record.items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._writer.add_scalar(f"{record['event']}/{name}", value, record["step"])

    def draw(self, name: str, curves: bytes) -> None:
        """Write curves, the bytes of a PNG file, into the run folder."""
        write_bytes(self._run / name, curves)

    def show(self, pictures: Any, step: int) -> None:
        """Show a grid uint8[H, W, C] in TensorBoard."""
        if self._writer is not None:
            self._writer.add_image("samples", pictures, step, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def check_finite(record: Record, run: Path) -> None:
    """Stop a training whose losses are not numbers any more.

    Raises:
        GantkError: A value is NaN or infinite.
    """
    bad = [name for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        raise GantkError(
            f"the training diverged before step {record['step']}: {', '.join(bad)} is not a finite number",
            where=str(run),
            hint="train again with lower learning rates; the checkpoints are from before",
        )


def check_tensorboard() -> None:
    """Raise a `GantkError` where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise GantkError(
            "--tensorboard wants the package tensorboard, which is not installed",
            hint="pip install 'gantk[tensorboard]'",
        ) from error


def _writer(folder: Path, step: int) -> Any:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with named_errors(folder, "write"):
        return SummaryWriter(os.fspath(folder), purge_step=step + 1)


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _read(path: Path, step: int) -> list[Record]:
    """The lines up to a step; a line that was cut by a crash is left out."""
    if not path.is_file():
        return []
    records = []
    for line in read_bytes(path).decode(errors="replace").splitlines():
        try:
            record = json.loads(line)
            if record["step"] <= step and record["event"] in ("step", "snapshot"):
                records.append(record)
        except (ValueError, KeyError, TypeError):
            continue
    return records
