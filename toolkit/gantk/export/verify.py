# SPDX-License-Identifier: Apache-2.0
"""The parity gate: no file is written before what it computes has been compared with PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from gantk.bundle import Parity
from gantk.errors import GantkError
from gantk.export.fold import SCALED
from gantk.export.precision import expose_intermediates
from gantk.runtime import parity
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.registry import BACKENDS, executed, open_model, status
from gantk.runtime.runner import Array
from gantk.tensors import TensorSpec

BATCHES = (1, 3, 8)
"""The batch sizes that a file is tried with whose pictures have one size."""

PICTURES = ((1, 96, 128), (3, 37, 61), (2, 50, 23))
"""Batch size, height and width of what a file is tried with that takes any size."""

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# The relative difference from which a layer is named as the place where outputs part.
_LAYER_TOLERANCE = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1}

Feeds = dict[str, Array]
Outputs = dict[str, Array]


@dataclass(frozen=True)
class Reference:
    """What PyTorch makes of some inputs.

    Args:
        name: E.g. ``torch float32``.
        feeds: The inputs, a batch each.
        outputs: PyTorch's outputs, a batch each.
        spans: Of each output, its range, by name.
        sizes: Height and width of the first picture of each batch, where the network takes any.
    """

    name: str
    feeds: tuple[Feeds, ...]
    outputs: tuple[Outputs, ...]
    spans: dict[str, float]
    sizes: tuple[tuple[int, int], ...] = ()


def trial_sizes(
    inputs: Sequence[TensorSpec], pictures: Sequence[tuple[int, int, int]] = PICTURES
) -> tuple[dict[str, int], ...]:
    """What the symbols of a network's inputs stand for in each trial.

    Args:
        inputs: Of the network. Where none is a picture of any size, the trials are the batch sizes `BATCHES`.
        pictures: Batch size, height and width of the first picture in each trial; a second picture has
            those of the next one.
    """
    free = _free_pictures(inputs)
    if not free:
        return tuple({"N": batch} for batch in BATCHES)
    trials = []
    for index, (batch, *_) in enumerate(pictures):
        sizes = {"N": batch}
        for offset, (spec, symbols) in enumerate(free):
            sides = pictures[(index + offset) % len(pictures)][1:]
            for symbol, side in zip(symbols, sides, strict=True):
                sizes.setdefault(symbol, max(side, spec.smallest))
        trials.append(sizes)
    return tuple(trials)


def make_feeds(
    inputs: Sequence[TensorSpec], trials: Sequence[Mapping[str, int]] | None = None, seed: int = 0
) -> tuple[Feeds, ...]:
    """Random inputs for each trial (see `gantk.runtime.arrays.random_array`).

    Args:
        inputs: Of the network.
        trials: From `trial_sizes`, which makes them where they are not given.
        seed: Other inputs for each.
    """
    trials = trial_sizes(inputs) if trials is None else trials
    return tuple(random_feeds(inputs, sizes, seed=1000 * seed + index) for index, sizes in enumerate(trials))


def run_torch(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    feeds: Sequence[Feeds],
    precision: str,
) -> Reference:
    """Run a float32 module in PyTorch, in a precision, with float32 inputs and outputs.

    Raises:
        GantkError: An output is NaN, infinite, or the same constant everywhere.
    """
    dtype = TORCH_DTYPES[precision]
    lowered = copy.deepcopy(module).to(dtype) if precision != "fp32" else module
    made = []
    with torch.inference_mode():
        for feed in feeds:
            # A bare module wants its own precision; `Bordered` takes any.
            arguments = [torch.from_numpy(feed[spec.name]) for spec in inputs]
            results = lowered(*(a.to(dtype) if a.is_floating_point() else a for a in arguments))
            results = (results,) if isinstance(results, torch.Tensor) else results
            made.append({spec.name: _to_numpy(result) for spec, result in zip(outputs, results, strict=True)})
    name = f"torch {str(dtype).removeprefix('torch.')}"
    for spec in outputs:
        _refuse_degenerate(name, spec, [batch[spec.name] for batch in made])
    spans = {spec.name: _span(spec, [batch[spec.name] for batch in made]) for spec in outputs}
    return Reference(name, tuple(feeds), tuple(made), spans, _picture_sizes(inputs, feeds))


def working_backends(precision: str) -> tuple[str, ...]:
    """The backends that work here and can open a file of this precision; the first is the default one."""
    return tuple(_executions(precision))


def measurable_backends(precision: str) -> tuple[str, ...]:
    """Those of `working_backends` that compute in the file's own precision: of others no time tells anything."""
    return tuple(name for name, executed in _executions(precision).items() if executed == precision)


def native_backends(precision: str) -> tuple[str, ...]:
    """Those that work here and compute a precision with gantk's native operators alone: see `WHOLLY_NATIVE`."""
    found = []
    for name in BACKENDS:
        here = status(name)
        by = [executed(name, precision, here.devices[0], native=n) for n in (False, True) if here.works]
        if by == [None, precision]:
            found.append(name)
    return tuple(found)


def measure(
    data: bytes,
    precision: str,
    backend: str,
    references: Sequence[Reference],
    psnr_min: float | None,
    threshold: parity.Threshold | None = None,
) -> list[Parity]:
    """Run a file on one backend and compare it with each reference.

    Args:
        data: The ONNX file.
        precision: Of the file; it chooses the thresholds.
        backend: A working backend.
        references: All made from the same feeds.
        psnr_min: Replaces the precision's smallest PSNR, in dB.
        threshold: Replaces all of the precision's.

    Returns:
        A verdict for each reference, or one that failed where the backend cannot load or run the file.
    """
    batches: tuple[int, ...] = ()
    try:
        with open_model(from_bytes(data), backend) as runner:
            batches = _batches(references[0])
            outputs = [runner.run(feed) for feed in references[0].feeds]
            by = (runner.backend, runner.version, runner.device, runner.precision)
    except GantkError as error:
        return [_unable(backend, precision, references[0], error.what, batches)]
    return [
        _judge(outputs, reference, precision, psnr_min, *by, threshold=threshold) for reference in references
    ]


def decisive(verdicts: Sequence[Parity], precision: str) -> list[Parity]:
    """The verdicts that a file stands and falls with; others are recorded, and `auto` passes their backends by.

    They are PyTorch's own and the default backend's, which is the first. But there are backends that say they
    compute in bf16 and lack it for an operator: of a bf16 file the first one that loads it decides, if any does.

    Args:
        verdicts: On one file, in the order of the backends.
        precision: Of the file.
    """
    deciding = [v.backend for v in verdicts if v.backend != "torch" and (precision != "bf16" or v.loaded)]
    return [verdict for verdict in verdicts if verdict.backend in ("torch", *deciding[:1])]


def _unable(
    backend: str, precision: str, reference: Reference, reason: str, batches: tuple[int, ...]
) -> Parity:
    """The verdict on a backend that cannot load a file, and so was given no batches, or cannot run it."""
    here = status(backend)
    return Parity(
        backend=backend,
        version=here.version or "unknown",
        device=here.devices[0],
        executed=precision,
        reference=reference.name,
        max_abs=None,
        psnr_db=None,
        cosine=None,
        samples=0,
        batches=batches,
        passed=False,
        # Vendors' texts are long and may hold what a manifest refuses.
        reason="".join(c if c.isprintable() else " " for c in reason)[:500],
    )


def compare_references(half: Reference, full: Reference, precision: str, psnr_min: float | None) -> Parity:
    """PyTorch's own half precision against its float32: whether the network survives the precision at all."""
    return _judge(half.outputs, full, precision, psnr_min, "torch", torch.__version__, "cpu", precision)


def locate(
    model: Model, program: torch.export.ExportedProgram, feeds: Feeds, backend: str, precision: str
) -> tuple[str, float] | None:
    """The first layer of a file whose tensor parts from PyTorch's.

    Args:
        model: The file.
        program: What PyTorch captured, whose nodes have the names of the file's tensors.
        feeds: One batch.
        backend: What to run the file with.
        precision: Of the file.

    Returns:
        The layer's name and its largest difference as a share of the tensor's largest value; `None` where
        no tensor could be compared.
    """
    graph = ir.from_proto(onnx.load_from_string(model.data))
    exposed = expose_intermediates(graph)
    wanted = _intermediates(program, feeds)
    try:
        with open_model(from_bytes(ir.to_proto(graph).SerializeToString()), backend) as runner:
            outputs = runner.run(feeds)
    except GantkError:
        return None
    found: list[tuple[str, float]] = []
    for name, (tensor, layer) in exposed.items():
        reference = _reference(tensor, wanted, outputs[name])
        reference = wanted.get(name) if reference is None else reference
        if reference is not None and reference.shape == outputs[name].shape:
            found.append((layer, _relative(outputs[name], reference)))
    parted = [entry for entry in found if not entry[1] <= _LAYER_TOLERANCE[precision]]
    return parted[0] if parted else max(found, key=lambda entry: entry[1], default=None)


def _judge(
    outputs: Sequence[Outputs],
    reference: Reference,
    precision: str,
    psnr_min: float | None,
    backend: str,
    version: str,
    device: str,
    executed: str,
    threshold: parity.Threshold | None = None,
) -> Parity:
    threshold = threshold or parity.THRESHOLDS[precision]
    if psnr_min is not None:
        threshold = replace(threshold, psnr_db=psnr_min)
    verdicts = []
    for name, span in reference.spans.items():
        difference = parity.compare([o[name] for o in outputs], [r[name] for r in reference.outputs], span)
        verdicts.append((difference.against(threshold, span), difference))
    # Of several outputs the worst one speaks.
    reason, worst = min(
        verdicts, key=lambda v: (v[0] is None, v[1].psnr_db if v[1].psnr_db is not None else -1.0)
    )
    return Parity(
        backend=backend,
        version=version,
        device=device,
        executed=executed,
        reference=reference.name,
        max_abs=worst.max_abs,
        psnr_db=worst.psnr_db,
        cosine=worst.cosine,
        samples=worst.samples,
        batches=_batches(reference),
        sizes=reference.sizes,
        passed=reason is None,
        reason=reason,
    )


def _batches(reference: Reference) -> tuple[int, ...]:
    return tuple(len(next(iter(feed.values()))) for feed in reference.feeds)


def _reference(tensor: str, wanted: Mapping[str, Array], output: Array) -> Array | None:
    """PyTorch's values of a tensor; of one that holds a multiple of them, the multiple that is nearest."""
    reference = wanted.get(tensor.removesuffix(SCALED))
    if reference is None or not tensor.endswith(SCALED) or reference.shape != output.shape:
        return reference
    factor = float(np.vdot(output, reference)) / (float(np.vdot(reference, reference)) or 1.0)
    nearest: Array = factor * reference
    return nearest


def _executions(precision: str) -> dict[str, str]:
    """What a file of this precision is computed in by each backend that works here and can open it."""
    found = {}
    for name in BACKENDS:
        here = status(name)
        if here.works and (by := executed(name, precision, here.devices[0])) is not None:
            found[name] = by
    return found


def _free_pictures(inputs: Sequence[TensorSpec]) -> list[tuple[TensorSpec, tuple[str, str]]]:
    """The inputs that are pictures of any size, with the symbols of their heights and widths."""
    found = []
    for spec in inputs:
        height, width = (spec.shape[axis] for axis in spec.picture_axes or (0, 0))
        if spec.picture_axes and isinstance(height, str) and isinstance(width, str):
            found.append((spec, (height, width)))
    return found


def _picture_sizes(inputs: Sequence[TensorSpec], feeds: Sequence[Feeds]) -> tuple[tuple[int, int], ...]:
    for spec, _ in _free_pictures(inputs):
        assert spec.picture_axes is not None
        height, width = spec.picture_axes
        shapes = [feed[spec.name].shape for feed in feeds]
        return tuple((shape[height], shape[width]) for shape in shapes)
    return ()


def _to_numpy(tensor: torch.Tensor) -> Array:
    array: Array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _refuse_degenerate(name: str, spec: TensorSpec, batches: Sequence[Array]) -> None:
    values = np.concatenate([batch.astype(np.float64).ravel() for batch in batches])
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise GantkError(
            f"{name} itself yields {bad} of {values.size} values that are NaN or infinite in `{spec.name}`",
            where=spec.name,
            hint="train further, or export another precision (--precision fp32)",
        )
    if np.ptp(values) == 0:
        raise GantkError(
            f"{name} itself yields the constant {values[0]:g} everywhere in `{spec.name}`",
            where=spec.name,
            hint="the network has died; look at the run's samples, and train again",
        )


def _span(spec: TensorSpec, batches: Sequence[Array]) -> float:
    if spec.range is not None:
        return spec.range[1] - spec.range[0]
    return max(float(batch.max()) for batch in batches) - min(float(batch.min()) for batch in batches)


def _relative(output: Array, reference: Array) -> float:
    scale = float(np.abs(reference).max()) or 1.0
    return float(np.abs(output.astype(np.float64) - reference).max()) / scale


class _Recorder(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.tensors: dict[str, Array] = {}

    def run_node(self, node: torch.fx.Node) -> object:
        result = super().run_node(node)
        if isinstance(result, torch.Tensor) and node.op == "call_function":
            self.tensors[node.name] = _to_numpy(result)
        return result


def _intermediates(program: torch.export.ExportedProgram, feeds: Mapping[str, Array]) -> dict[str, Array]:
    recorder = _Recorder(program.module())
    with torch.inference_mode():
        recorder.run(*(torch.from_numpy(array) for array in feeds.values()))
    return recorder.tensors
