# SPDX-License-Identifier: Apache-2.0
"""The optimisation step as PyTorch's users run it: autograd, eager or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantk.baselines.pytorch import DTYPES
from gantk.errors import GantkError, UsageError
from gantk.export.gatys.chain import Chain, StepConfig, loss_specs, picture_spec, step_inputs
from gantk.export.gatys.reference import add_losses, compute_losses, to_arrays
from gantk.models.vgg import load_vgg19
from gantk.runtime.runner import Array, Runner

MODES = ("eager", "channels_last", "default", "max-autotune")
"""The last two are those of torch.compile. Freezing is for networks without gradients."""

PRECISIONS = ("fp32", "fp16", "bf16")
"""A step runs on a CPU, which has no TF32."""

Call = Callable[[], dict[str, Tensor]]


class StepRunner(Runner):
    """A step's gradient by autograd.

    Args:
        bind: From tensors by name to a call that computes on them.
        inputs: As those of the exported gradient.
        backend: ``torch`` or ``torch-compile``.
        precision: What VGG computes in.
    """

    def __init__(
        self, bind: Callable[[Mapping[str, Tensor]], Call], inputs: Any, *, backend: str, precision: str
    ) -> None:
        self._bind: Callable[[Mapping[str, Tensor]], Call] | None = bind
        super().__init__(
            inputs,
            (picture_spec("gradient", None), *loss_specs()),
            backend=backend,
            version=torch.__version__,
            device="cpu",
            precision=precision,
            file_precision=precision,
        )

    def bind(self, feeds: Mapping[str, Array]) -> Call:
        """The call alone, on tensors made once."""
        if self._bind is None:
            raise GantkError("the runner is closed")
        return self._bind({name: torch.from_numpy(array) for name, array in feeds.items()})

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        return self._delivered(to_arrays(self.bind(arrays)()), out)

    def close(self) -> None:
        self._bind = None


def open_step(
    vgg: str, config: Mapping[str, Any], mode: str, precision: str = "fp32", threads: int | None = None
) -> StepRunner:
    """Make a step that a benchmark's worker can run.

    Args:
        vgg: A file of VGG-19's weights.
        config: The fields of a `StepConfig`.
        mode: One of `MODES`.
        precision: One of `PRECISIONS`: what VGG computes in.
        threads: For one operation.

    Raises:
        UsageError: An unknown mode or precision.
    """
    if mode not in MODES or precision not in PRECISIONS:
        known = f"{', '.join(MODES)} and {', '.join(PRECISIONS)}"
        raise UsageError(f"{mode!r}, {precision!r} is not a way to run PyTorch; known are {known}")
    if threads is not None:
        torch.set_num_threads(threads)
    step = StepConfig(**{**config, "style_layers": tuple(config["style_layers"])})
    network = load_vgg19(Path(vgg), step.last, step.pooling)
    inputs = step_inputs(Chain.of(network), step)
    layout = torch.channels_last if mode == "channels_last" else torch.preserve_format
    network = network.to(DTYPES[precision]).to(memory_format=layout)  # type: ignore[call-overload]

    def features_of(picture: Tensor) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = network(picture.to(DTYPES[precision], memory_format=layout))
        return found

    compiled = mode in MODES[2:]
    measure = torch.compile(compute_losses, dynamic=False, mode=mode) if compiled else compute_losses

    def bind(feeds: Mapping[str, Tensor]) -> Call:
        layer_weights = feeds["layer_weights"].tolist()

        def call() -> dict[str, Tensor]:
            picture = feeds["picture"].detach().requires_grad_()
            losses = measure(features_of, step, feeds, picture, layer_weights)
            (gradient,) = torch.autograd.grad(add_losses(losses, feeds), picture)
            return {"gradient": gradient, **{name: loss.detach() for name, loss in losses.items()}}

        return call

    backend = "torch-compile" if compiled else "torch"
    return StepRunner(bind, inputs, backend=backend, precision=precision)
