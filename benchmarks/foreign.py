# SPDX-License-Identifier: Apache-2.0
"""Generators after ten papers, exported by PyTorch and given to gantk as files: how many times as fast. Prints JSON.

    python benchmarks/foreign.py > benchmarks/results/foreign.json
    python benchmarks/foreign.py --device cuda > benchmarks/results/foreign-cuda.json

Weights are random and sizes the papers', as `torch.onnx.export` writes them at opset 17. For each backend: how long
their file takes, and how many times as fast what `gantk export theirs.onnx --precision fp32,bf16` (on a GPU fp32,fp16)
makes of it is, with the operators that `GANTK_ONNXRUNTIME_OPS` or the package has, and by which rewrites. Blocks of
calls alternate, on a GPU bound ones; of two batches the factor is the geometric mean, the time that of the first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fast_gan import FastGAN
from gantk.bench import machine
from gantk.bundle import Bundle, Variant, place_of
from gantk.export.foreign.noise import draws_noise
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.export.foreign.timed import timed_inputs
from gantk.export.reference import Feeds
from gantk.export.speed import speedup, timed_call
from gantk.runtime.model import Model, choose, from_path
from gantk.runtime.operators import native_operators
from gantk.runtime.registry import executed, open_model, status
from latent_decoder import decoder
from naf_net import NAFNet
from style_gan2 import StyleGAN2
from style_gan3 import StyleGAN3

PLACES = {
    "cpu": (("onnxruntime", "openvino"), ("fp32", "bf16")),
    "cuda": (("onnxruntime",), ("fp32", "fp16")),
}
"""Of each device the backends, and the precisions."""


def dcgan(latent: int = 100, width: int = 64) -> nn.Module:
    """Radford et al., arXiv 1511.06434, 64 x 64 pixels."""
    layers: list[nn.Module] = []
    widths = [latent, *(width * 2**power for power in (3, 2, 1, 0))]
    for index, (before, made) in enumerate(pairwise(widths)):
        how = (1, 0) if index == 0 else (2, 1)
        layers += [nn.ConvTranspose2d(before, made, 4, *how, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


class Sum(nn.Module):
    """What it is given, and what layers make of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def cycle_gan(width: int = 64, blocks: int = 9) -> nn.Module:
    """Zhu et al., arXiv 1703.10593, section 7.2, for 256 x 256 pixels."""

    def layer(before: int, made: int, kernel: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(before, made, kernel, stride, int(stride > 1)), nn.InstanceNorm2d(made), nn.ReLU()]

    def block(width: int) -> nn.Module:
        first, second = ([nn.ReflectionPad2d(1), *layer(width, width, 3, 1)] for _ in range(2))
        return Sum(*first, *second[:-1])

    layers = [nn.ReflectionPad2d(3), *layer(3, width, 7, 1), *layer(width, 2 * width, 3, 2)]
    layers += [*layer(2 * width, 4 * width, 3, 2), *(block(4 * width) for _ in range(blocks))]
    for before in (4 * width, 2 * width):
        layers += [nn.ConvTranspose2d(before, before // 2, 3, 2, 1, output_padding=1)]
        layers += [nn.InstanceNorm2d(before // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


class Pix2Pix(nn.Module):
    """Isola et al., arXiv 1611.07004, section 6.1.1: the U-Net for 256 x 256 pixels."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = [3, *(width * min(2**power, 8) for power in range(8))]
        self.down = nn.ModuleList(
            nn.Sequential(
                *([nn.LeakyReLU(0.2)] if level else []),
                nn.Conv2d(widths[level], widths[level + 1], 4, 2, 1),
                *([nn.BatchNorm2d(widths[level + 1])] if 0 < level < 7 else []),
            )
            for level in range(8)
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.ConvTranspose2d((1 if level == 7 else 2) * widths[level + 1], widths[level], 4, 2, 1),
                nn.BatchNorm2d(widths[level]) if level else nn.Tanh(),
                *([nn.Dropout()] if level > 4 else []),
            )
            for level in reversed(range(8))
        )

    def forward(self, x: Tensor) -> Tensor:
        held = []
        for layer in self.down:
            x = layer(x)
            held.append(x)
        held.pop()
        for layer in self.up:
            x = layer(x)
            x = torch.cat([x, held.pop()], 1) if held else x
        return x


def srresnet(width: int = 64, blocks: int = 16) -> nn.Module:
    """Ledig et al., arXiv 1609.04802, figure 4: four times as large, by pixel shuffles."""

    def layer() -> list[nn.Module]:
        return [nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)]

    body = [*(Sum(*layer(), nn.PReLU(), *layer()) for _ in range(blocks)), *layer()]
    layers = [nn.Conv2d(3, width, 9, 1, 4), nn.PReLU(), Sum(*body)]
    for _ in range(2):
        layers += [nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PixelShuffle(2), nn.PReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 9, 1, 4))


class Dense(nn.Module):
    """Five convolutions, each of which reads what all before it made, and a fifth of the last added to the first."""

    def __init__(self, width: int, grown: int) -> None:
        super().__init__()
        made = [grown] * 4 + [width]
        self.layers = nn.ModuleList(
            nn.Conv2d(width + index * grown, count, 3, 1, 1) for index, count in enumerate(made)
        )

    def forward(self, x: Tensor) -> Tensor:
        held = [x]
        for layer in self.layers:
            y = layer(torch.cat(held, 1))
            held.append(nn.functional.leaky_relu(y, 0.2))
        return x + 0.2 * y


class Scaled(Sum):
    """What it is given, and a fifth of what layers make of it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.layers(x)


def real_esrgan(width: int = 64, grown: int = 32, blocks: int = 6) -> nn.Module:
    """Wang et al., arXiv 2107.10833 and 1809.00219, section 3.1: four times as large; six blocks are for drawings."""
    body = [Scaled(*(Dense(width, grown) for _ in range(3))) for _ in range(blocks)]
    layers = [nn.Conv2d(3, width, 3, 1, 1), Sum(*body, nn.Conv2d(width, width, 3, 1, 1))]
    for _ in range(2):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, 1, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(
        *layers, nn.Conv2d(width, width, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 3, 3, 1, 1)
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[int, str]]] = {
    "DCGAN, 64 x 64, batch 1 and 16": (dcgan, (1, 100, 1, 1), {0: "N"}),
    "CycleGAN, 256 x 256": (cycle_gan, (1, 3, 256, 256), {}),
    "pix2pix, 256 x 256": (Pix2Pix, (1, 3, 256, 256), {}),
    "SRResNet, 96 x 128 to 384 x 512": (srresnet, (1, 3, 96, 128), {}),
    "Real-ESRGAN of 6 blocks, 64 x 64 to 256 x 256": (real_esrgan, (1, 3, 64, 64), {}),
    "StyleGAN2, 256 x 256": (StyleGAN2, (1, 512), {}),
    "StyleGAN3, 128 x 128": (StyleGAN3, (1, 256), {}),
    "latent diffusion's decoder, 32 x 32 to 128 x 128": (decoder, (1, 4, 32, 32), {}),
    "NAFNet, 256 x 256": (NAFNet, (1, 3, 256, 256), {}),
    "FastGAN, 256 x 256": (FastGAN, (1, 256, 1, 1), {}),
}
"""Of each the module, the shape of its input, and which of the axes are free."""


def exported(name: str, folder: Path) -> Path:
    """The ONNX file of a network, with the statistics that a training leaves: none that are 0 and 1."""
    make, shape, free = NETWORKS[name]
    torch.manual_seed(0)
    module = make().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    path = folder / "theirs.onnx"
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": free, "y": free}}
    torch.onnx.export(module, (torch.randn(shape),), path, dynamo=False, opset_version=17, **names)
    return path


def chosen(bundle: Bundle, backend: str, precision: str, device: str) -> Variant | None:
    """What a backend runs of a bundle in a precision, if it computes in that."""
    variant = choose(bundle, precision, None, backend, device)
    native = variant.is_wholly_native
    return variant if executed(backend, precision, device, native=native) == precision else None


def latency_ms(model: Model, backend: str, feeds: Feeds, device: str) -> float:
    """The median of a second of calls."""
    times: list[float] = []
    with open_model(model, backend, device) as runner:
        call = timed_call(runner, feeds)
        call()
        end = time.perf_counter() + 1
        while time.perf_counter() < end or len(times) < 5:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def measured(name: str, device: str) -> dict[str, Any]:
    """How many times as fast as the file in float32 each backend runs what is made of it."""
    backends, precisions = PLACES[device]
    with tempfile.TemporaryDirectory() as folder:
        path = exported(name, Path(folder))
        model = from_path(path)
        report = lambda line: print(f"{name}: {line.strip()}", file=sys.stderr)  # noqa: E731
        noise = "constant" if draws_noise(model) else None  # The file itself is timed as it draws it.
        bundle = bundle_onnx(
            path, Path(folder) / "theirs.gantk", precisions=precisions, noise=noise, report=report
        )
        timed = timed_inputs(model, ())
        row: dict[str, Any] = {"inputs": [list(array.shape) for feeds in timed for array in feeds.values()]}
        for backend in backends:
            row[f"{backend} ms"] = round(latency_ms(model, backend, timed[0], device), 3)
            for precision in precisions:
                variant = chosen(bundle, backend, precision, device)
                if variant is None:
                    continue
                factor = speedup(model.data, bundle.read_file(variant.file), backend, timed)
                row[f"{backend} {precision}"] = {
                    "times_as_fast": None if factor is None else round(factor, 2),
                    "rewrites": list(variant.rewrites),
                }
                gains = variant.gains.get(place_of(backend, device))
                if gains:
                    row[f"{backend} {precision}"]["gains"] = gains
        return row


def section(document: dict[str, Any]) -> str:
    """The table: a network a line."""
    backends, precisions = PLACES[document.get("device", "cpu")]
    columns = [name for backend in backends for name in (f"{backend}, the file", *precisions)]
    lines = [f"| network | {' | '.join(columns)} |", f"| :--- |{' ---: |' * len(columns)}"]
    for name, row in document["networks"].items():
        cells = []
        for backend in backends:
            cells.append(f"{row[f'{backend} ms']:.3g} ms")
            for precision in precisions:
                factor = row.get(f"{backend} {precision}", {}).get("times_as_fast")
                cells.append("-" if factor is None else f"{factor:.2f}x")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    packages = ("onnxruntime", "onnxruntime-gpu", "openvino", "gantk's operators")
    found = document["versions"]
    versions = ", ".join(f"{package} {found[package]}" for package in packages if package in found)
    processor = document["machine"]
    where = processor.get("gpu") or f"{processor['cpu']}, {processor['usable_cores']} cores"
    return "\n".join([*lines, "", f"- {where}; {versions}; commit {document['commit']}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=PLACES, default="cpu")
    parser.add_argument("--network", action="append", help="one whose name begins so; default: all of them")
    arguments = parser.parse_args()
    backends, _ = PLACES[arguments.device]
    missing = [backend for backend in backends if arguments.device not in status(backend).devices]
    if missing or native_operators(arguments.device) is None:
        sys.exit(f"{', '.join(missing) or 'gantk_onnxruntime'} is wanted: pip install './kernels'")
    wanted = tuple(arguments.network or [""])
    document = {
        "benchmark": "foreign",
        "device": arguments.device,
        "machine": machine.describe(),
        "versions": machine.versions(arguments.device),
        "commit": machine.commit(),
        "networks": {name: measured(name, arguments.device) for name in NETWORKS if name.startswith(wanted)},
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
