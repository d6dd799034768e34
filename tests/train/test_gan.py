# SPDX-License-Identifier: Apache-2.0
"""The loop does what the lesson says, and leaves a run that tells what happened."""

from __future__ import annotations

import json
import math
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from listener import Listener
from PIL import Image

from gantk import checkpoint, models
from gantk.errors import GantkError, UsageError
from gantk.train import gan, launch, options
from gantk.train.config import TrainConfig
from gantk.train.ema import Average
from gantk.train.log import Window


def config(pictures: Path, run: Path, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        data=str(pictures), out=str(run), size=28, width=2, batch=8, steps=10,
        threads=1, precision="fp32", sample_every=100, log_every=5, augment="none",
    )  # fmt: skip
    return replace(base, **changes)


def lines(run: Path, event: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == event]


@pytest.mark.curves
def test_a_run_holds_all_that_is_promised(pictures: Path, tmp_path: Path) -> None:
    run, listener = tmp_path / "run", Listener()
    result = gan.train(config(pictures, run, sample_every=1), reporter=listener)

    assert (result.step, result.epoch, result.interrupted) == (10, 2, False)
    assert listener.steps == list(range(1, 11))
    assert listener.epochs == [1, 2]
    assert [line["step"] for line in lines(run, "step")] == [5, 10]
    for line in lines(run, "step"):
        assert 0 < line["d_real"] < 1
        assert 0 <= line["d_accuracy"] <= 1
        assert line["samples_per_second"] > 0
    with Image.open(run / "samples" / "epoch-0002.png") as grid:
        assert (grid.mode, grid.size) == ("L", (8 * 30 + 2, 8 * 30 + 2))
    for name in ("losses.png", "health.png"):
        with Image.open(run / name) as curves:
            assert len(set(np.asarray(curves.convert("L")).ravel().tolist())) > 20
    record = json.loads((run / "run.json").read_text())
    assert (record["config"]["channels"], record["config"]["precision"]) == (1, "fp32")
    assert record["data"]["pictures"] == 40
    assert not list(run.rglob("*.partial"))


def test_a_long_run_of_short_epochs_is_not_shown_after_each(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "MOST_SHOWN", 2)
    monkeypatch.setattr(options, "LEAST_BETWEEN", 1)
    listener = Listener()
    gan.train(config(pictures, tmp_path / "run", sample_every=0, steps=25), reporter=listener)
    assert listener.epochs == [3, 5]


def test_it_learns_where_the_brightness_is(pictures: Path, tmp_path: Path) -> None:
    """The pictures' mean brightness is known; samples start at mid grey and must come near it."""
    run = tmp_path / "run"
    gan.train(config(pictures, run, steps=150, width=8, lr_g=1e-3, lr_d=1e-3, ema=0.95))
    generator = checkpoint.load_generator(run).module
    mean = generator(torch.randn(64, 100)).mean().item()
    real = (20 + 210 * 64 / 784) / 127.5 - 1
    assert abs(mean - real) < 0.15


def test_one_seed_gives_one_result_and_another_another(pictures: Path, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> torch.Tensor:
        gan.train(config(pictures, tmp_path / name, seed=seed, steps=3))
        return checkpoint.read_newest(tmp_path / name)[0].tensors["generator.enlarge.0.weight"]

    first = weights("a", 0)
    assert torch.equal(first, weights("b", 0))
    assert not torch.equal(first, weights("c", 1))


def test_a_skipped_discriminator_stays_as_it_is(pictures: Path, tmp_path: Path) -> None:
    def judge(steps: int, skip: float) -> dict[str, torch.Tensor]:
        run = tmp_path / f"{steps}-{skip}"
        gan.train(config(pictures, run, steps=steps, skip_d_below=skip))
        assert lines(run, "step")[-1]["skipped"] == float(skip > 0)
        return checkpoint.read_newest(run)[0].part("discriminator")

    # Its loss is never above ten, so that it never learns; batch-norm statistics are no weights.
    one, four = judge(1, 10.0), judge(4, 10.0)
    assert all(
        torch.equal(one[name], four[name]) for name in one if "running" not in name and "num" not in name
    )
    assert not torch.equal(one["shrink.0.weight"], judge(4, 0.0)["shrink.0.weight"])


def test_each_phase_moves_its_own_network(pictures: Path, tmp_path: Path) -> None:
    for still, rates in (("generator", {"lr_g": 0.0}), ("discriminator", {"lr_d": 0.0})):
        run = tmp_path / still
        gan.train(config(pictures, run, steps=2, **rates))
        saved = checkpoint.read_newest(run)[0]
        torch.manual_seed(0)
        network = config(pictures, run).network_config(default_channels=1)
        fresh = {
            "generator": models.build("dcgan", network),
            "discriminator": models.build_discriminator("dcgan", network),
        }
        for name, module in fresh.items():
            same = [
                torch.equal(saved.tensors[f"{name}.{key}"], value) for key, value in module.named_parameters()
            ]
            assert all(same) if name == still else not any(same)


def test_label_smoothing_lowers_the_score_of_real_pictures(pictures: Path, tmp_path: Path) -> None:
    def score(smoothing: float) -> float:
        run = tmp_path / str(smoothing)
        gan.train(config(pictures, run, steps=60, label_smoothing=smoothing, lr_g=0.0, lr_d=2e-3))
        return float(lines(run, "step")[-1]["d_real"])

    assert score(0.0) > 0.9
    assert score(0.4) == pytest.approx(0.6, abs=0.12)


def test_a_divergence_is_stopped_and_keeps_the_last_checkpoint(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    real = gan.normalise
    calls = iter(range(100))
    poisoned = lambda *args: real(*args) * (math.nan if next(calls) == 7 else 1)  # noqa: E731
    monkeypatch.setattr(gan, "normalise", poisoned)
    with pytest.raises(GantkError, match=r"diverged before step 10: loss_d"):
        gan.train(config(pictures, run, checkpoint_every=5))
    assert [path.name for path in checkpoint.list_paths(run)] == ["step-0000005.safetensors"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 7.78 GiB of which "
                "5.00 GiB is free. Including non-PyTorch memory, this process has 2.1 GiB memory in use."
            ),
            r"the GPU's memory is full: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity "
            r"of 7.78 GiB of which 5.00 GiB is free$",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            r"the memory is full: you tried to allocate 9 bytes$",
        ),
        (MemoryError(), "the memory is full: nothing more can be had$"),
    ],
)  # fmt: skip
def test_a_full_memory_is_no_bug(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def step(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched, pytest.raises(GantkError) as raised:
        patched.setattr(gan.GanTraining, "step", step)
        gan.train(config(pictures, tmp_path / "run"))
    assert re.search(words, raised.value.what)
    assert raised.value.hint == "a smaller --batch, --width or --size"
    assert gan.train(config(pictures, tmp_path / "run", batch=4, steps=1)).step == 1  # As the hint has it.


def test_the_speed_counts_waiting_for_a_gpu_and_no_checkpoints(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is behind the steps that it was given: a line of the log, which reads their losses, waits for it."""
    close, write = Window.close, checkpoint.write
    monkeypatch.setattr(Window, "close", lambda *given: (time.sleep(0.05), close(*given))[1])
    monkeypatch.setattr(checkpoint, "write", lambda *given: (time.sleep(0.5), write(*given))[1])
    result = gan.train(config(pictures, tmp_path / "run", network="mlp", size=8, log_every=1))
    trained_s = 8 * 10 / result.samples_per_second
    assert 10 * 0.05 < trained_s < result.seconds - 0.5


def test_a_training_that_dies_is_told_from_one_that_is_well(pictures: Path, tmp_path: Path) -> None:
    dying, well = (
        gan.train(config(pictures, tmp_path / str(lr_g), steps=320, sample_every=12, lr_g=lr_g, lr_d=2e-3))
        for lr_g in (1e-7, 2e-3)
    )
    assert any(sentence.startswith("perfect discriminator") for sentence in dying.warnings)
    assert not any(sentence.startswith("perfect discriminator") for sentence in well.warnings)


def test_few_pictures_lower_the_batch(pictures: Path, tmp_path: Path) -> None:
    listener = Listener()
    gan.train(config(pictures, tmp_path / "run", batch=64, steps=1), reporter=listener)
    assert listener.said[-1:] == ["the batch is 40 instead of 64: there are no more pictures"]


def test_only_the_last_checkpoints_are_kept(pictures: Path, tmp_path: Path) -> None:
    gan.train(config(pictures, tmp_path / "run", checkpoint_every=2, keep=2))
    assert [path.name[5:12] for path in checkpoint.list_paths(tmp_path / "run")] == ["0000010", "0000008"]


def test_an_existing_run_is_refused_and_force_clears_it(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    gan.train(config(pictures, run))
    before = (run / "run.json").read_bytes()
    with pytest.raises(GantkError, match="holds a run"):
        gan.train(config(pictures, run))
    assert (run / "run.json").read_bytes() == before
    (run / "notes.txt").write_text("mine")
    gan.train(config(pictures, run, steps=5), force=True)
    assert [path.name for path in checkpoint.list_paths(run)] == ["step-0000005.safetensors"]
    assert [line["step"] for line in lines(run, "step")] == [5]
    assert (run / "notes.txt").read_text() == "mine"


def test_a_folder_of_something_else_is_never_replaced(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(GantkError, match="is not a run"):
        gan.train(config(pictures, tmp_path), force=True)
    with pytest.raises(GantkError, match="cannot write"):
        gan.train(config(pictures, tmp_path / "thesis.txt" / "run"))


def test_too_few_pictures_leave_no_folder(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes((pictures / "00.png").read_bytes())
    with pytest.raises(GantkError, match="has 1 readable picture; at least 2"):
        gan.train(config(tmp_path / "one", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_tensorboard_files_are_written(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    gan.train(config(pictures, tmp_path / "run", tensorboard=True, sample_every=1))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("step/loss_d")] == [5, 10]
    assert [event.step for event in events.Images("samples")] == [5, 10]


def test_a_missing_tensorboard_is_named_before_anything_is_done(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(GantkError, match="tensorboard, which is not installed"):
        gan.train(config(pictures, tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_bf16_trains(pictures: Path, tmp_path: Path) -> None:
    gan.train(config(pictures, tmp_path / "run", precision="bf16", steps=5))
    saved = checkpoint.read_newest(tmp_path / "run")[0]
    assert saved.tensors["generator.enlarge.0.weight"].dtype == torch.float32
    assert math.isfinite(lines(tmp_path / "run", "step")[0]["loss_g"])


def test_the_average_is_the_mean_it_claims_to_be() -> None:
    generator = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        generator.weight.fill_(0.0)
        average = Average(generator, 0.5)
        expected = 0.0
        for step in range(20):
            generator.weight.fill_(step)
            average.update(generator, step)
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * step
    assert average.module.weight.item() == pytest.approx(expected)  # type: ignore[union-attr, operator]


def test_settled_statistics_are_those_of_the_averaged_weights() -> None:
    torch.manual_seed(0)
    average = Average(models.build("dcgan", {"size": 28, "channels": 1, "width": 4}), 0.9)
    latents = torch.randn(512, 100)
    before = average.module(latents)
    average.settle(latents)
    settled = average.module(latents)
    average.module.train()
    for norm in average.module.modules():
        if isinstance(norm, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert norm.momentum == 0.1
    exact = average.module(latents)
    assert (settled - exact).abs().mean() < 0.1 * (before - exact).abs().mean()


def test_torchrun_is_not_needed_for_one_process(pictures: Path, tmp_path: Path) -> None:
    seen = launch.launch(_world, replace(config(pictures, tmp_path), device="cpu"))
    assert seen == (1, 0)


def _world(fabric: Any, config: TrainConfig) -> tuple[int, int]:
    return fabric.world_size, fabric.global_rank


def test_classes_are_learned(kinds: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    changes = {"conditional": True, "steps": 150, "width": 4, "lr_g": 2e-3, "lr_d": 2e-3, "ema": 0.9}
    gan.train(config(kinds, run, **changes))
    generator = checkpoint.load_generator(run)
    assert generator.config["classes"] == ["black", "white"]
    latents = torch.randn(64, 100)
    black, white = (generator.module(latents, torch.full((64,), label)).mean().item() for label in (0, 1))
    assert black < -0.4
    assert white > 0.4
    with Image.open(run / "samples" / "epoch-0030.png") as grid:
        assert grid.size == (2 * 30 + 2, 8 * 30 + 2)
        pixels = np.asarray(grid)
    assert pixels[2:, 2:30].mean() + 80 < pixels[2:, 32:60].mean()


def test_a_run_goes_on_with_the_classes_that_it_began_with(kinds: Path, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    gan.train(config(kinds, run, conditional=True, steps=2))
    assert json.loads((run / "run.json").read_text())["config"]["classes"] == ["black", "white"]
    assert gan.resume(run, {"steps": 3}).step == 3
    shutil.copytree(kinds, moved)
    (moved / "black").rename(moved / "other")
    with pytest.raises(GantkError, match="of the class 'other'; the run knows black, white"):
        gan.resume(run, {"steps": 4, "data": str(moved)})
    (moved / "other").rename(moved / "black")
    # The same pictures in the same order, two of them under the other name.
    for name in (
        "00.png",
        "01.png",
    ):
        (moved / "white" / name).rename(moved / "black" / f"z{name}")
    with pytest.raises(GantkError, match="classes"):
        gan.resume(run, {"steps": 4, "data": str(moved)})


def test_only_the_convolutional_pair_learns_classes(kinds: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'mlp' learns no classes"):
        config(kinds, tmp_path, network="mlp", conditional=True)
