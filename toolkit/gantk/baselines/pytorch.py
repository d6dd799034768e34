# SPDX-License-Identifier: Apache-2.0
"""PyTorch as its users run it, in each of its modes, behind the runner's interface."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gantk.bundle import Bundle
from gantk.checkpoint import load_generator
from gantk.errors import GantkError, UsageError
from gantk.models.borders import Bordered
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""Of weights and layers. ``tf32`` is what PyTorch does on a GPU unless it is told not to: convolutions may round their
inputs to 10 bits of mantissa."""

MODES = ("eager", "channels_last", "default", "freezing", "reduce-overhead", "max-autotune")


class TorchRunner(Runner):
    """A PyTorch module.

    Args:
        call: Tensors, in the order of `inputs`, to one tensor.
        backend: ``torch`` or ``torch-compile``.
        precision: What `call` computes in.
        device: Where it computes.
    """

    def __init__(
        self,
        call: Callable[..., Tensor],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        backend: str,
        precision: str,
        device: str,
    ) -> None:
        self._call: Callable[..., Tensor] | None = call
        super().__init__(
            inputs,
            outputs,
            backend=backend,
            version=torch.__version__,
            device=device,
            precision=precision,
            file_precision=precision,
        )

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], Tensor]:
        """The call alone, on tensors made once: what a PyTorch program pays. It returns when the output is there."""
        call, tensors = self._open(), self._tensors(feeds)
        if self.device == "cpu":
            return torch.inference_mode()(lambda: call(*tensors))

        def synchronous() -> Tensor:
            # The last call's output may be overwritten.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            output = call(*tensors)
            torch.cuda.synchronize()
            return output

        return torch.inference_mode()(synchronous)

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        call, name, tensors = self._open(), self.outputs[0].name, self._tensors(arrays)
        with torch.inference_mode():
            result = call(*tensors)
        array = np.ascontiguousarray(result.cpu().numpy())
        if name in out:
            np.copyto(out[name], array)
            array = out[name]
        return {name: array}

    def _tensors(self, arrays: Mapping[str, Array]) -> list[Tensor]:
        # Never made in inference mode: torch.compile compiles again for tensors of the other kind.
        return [torch.from_numpy(arrays[spec.name]).to(self.device) for spec in self.inputs]

    def _open(self) -> Callable[..., Tensor]:
        if self._call is None:
            raise GantkError("the runner is closed")
        return self._call

    def close(self) -> None:
        self._call = None


def open_network(
    path: str | os.PathLike[str],
    backend: str = "torch",
    precision: str = "fp32",
    mode: str = "eager",
    device: str = "cpu",
    threads: int | None = None,
) -> TorchRunner:
    """Load the network of a bundle into PyTorch.

    Args:
        path: A bundle that holds its checkpoint.
        backend: ``torch`` or ``torch-compile``; it names the runner.
        precision: One of `DTYPES`: weights and layers; inputs and outputs stay as exported.
        mode: One of `MODES`; the last four compile at the first call, the last two use CUDA graphs on a GPU.
        device: ``cpu`` or ``cuda``.
        threads: For one operation.

    Raises:
        GantkError: The bundle is damaged or holds no checkpoint.
        UsageError: An unknown precision or mode.
    """
    if precision not in DTYPES or mode not in MODES:
        known = f"{', '.join(DTYPES)} and {', '.join(MODES)}"
        raise UsageError(f"{precision!r}, {mode!r} is not a way to run PyTorch; known are {known}")
    if threads is not None:
        torch.set_num_threads(threads)
    manifest = Bundle.read(path).manifest
    network: Any = load_generator(path).module
    pixels = any(spec.dtype == "uint8" for spec in manifest.outputs)
    borders = network.config.inputs, network.config.outputs
    module = Bordered(network, *borders, pixels=pixels).eval().to(device, DTYPES[precision])
    set_backends(precision, mode, device)
    call = _prepare(module, mode, device)
    return TorchRunner(
        call, manifest.inputs, manifest.outputs, backend=backend, precision=precision, device=device
    )


def set_backends(precision: str, mode: str, device: str) -> None:
    """Settings of this process: whether products round to TF32, and whether cuDNN tries all of its algorithms."""
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    # As it comes PyTorch takes what cuDNN recommends; its best modes may try all, for shapes are the same every time.
    torch.backends.cudnn.benchmark = device == "cuda" and mode != "eager"


def _prepare(module: nn.Module, mode: str, device: str) -> Callable[..., Tensor]:
    """The module as `mode` runs it. Weights are constants of an exported network; freezing makes them so here."""
    if mode == "eager":
        return module
    if mode == "channels_last":
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    import torch._inductor.config as inductor

    inductor.freezing = mode != "default"
    if device == "cuda" and inductor.freezing:  # Tensor cores want it; on an H100 this was PyTorch's best.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled: Callable[..., Tensor] = torch.compile(
        module, dynamic=False, mode=None if mode in ("default", "freezing") else mode
    )
    return compiled
