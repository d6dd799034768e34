# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the public example: the same pictures, or a sentence that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from gantk import checkpoint
from gantk.cli.main import main
from gantk.errors import GantkError
from gantk.models.fast_neural_style import convert


def state_dict(width: int = 4, blocks: int = 2) -> dict[str, Tensor]:
    """Weights with the example's names."""
    rng = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = {}

    def add(name: str, before: int, after: int, kernel: int, norm: str | None) -> None:
        # The first layer sees 0 to 255; its small weights make the epsilon of the normalisation count.
        scale = (2 / (before * kernel**2)) ** 0.5 * (1e-4 if name == "conv1" else 1)
        made[f"{name}.conv2d.weight"] = torch.randn(after, before, kernel, kernel, generator=rng) * scale
        made[f"{name}.conv2d.bias"] = torch.randn(after, generator=rng)
        if norm is not None:
            made[f"{norm}.weight"] = 1 + 0.3 * torch.randn(after, generator=rng)
            made[f"{norm}.bias"] = 0.3 * torch.randn(after, generator=rng)

    add("conv1", 3, width, 9, "in1")
    add("conv2", width, 2 * width, 3, "in2")
    add("conv3", 2 * width, 4 * width, 3, "in3")
    for n in range(1, blocks + 1):
        for m in (1, 2):
            add(f"res{n}.conv{m}", 4 * width, 4 * width, 3, f"res{n}.in{m}")
    add("deconv1", 4 * width, 2 * width, 3, "in4")
    add("deconv2", 2 * width, width, 3, "in5")
    add("deconv3", width, 3, 9, None)
    return made


def example(weights: dict[str, Tensor], pictures: Tensor, blocks: int = 2) -> Tensor:
    """What the example's network makes of pictures 0..255, in float64, operation by operation."""
    w = {name: tensor.double() for name, tensor in weights.items()}

    def convolve(name: str, x: Tensor, stride: int = 1, scale: int = 1) -> Tensor:
        kernel = w[f"{name}.conv2d.weight"]
        x = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        x = F.pad(x, (kernel.shape[-1] // 2,) * 4, mode="reflect")
        return F.conv2d(x, kernel, w[f"{name}.conv2d.bias"], stride)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        normal = (x - mean) / (variance + 1e-5).sqrt()
        return normal * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    x = pictures.double()
    for n, stride in ((1, 1), (2, 2), (3, 2)):
        x = norm(f"in{n}", convolve(f"conv{n}", x, stride)).clamp(min=0)
    for n in range(1, blocks + 1):
        inner = norm(f"res{n}.in1", convolve(f"res{n}.conv1", x)).clamp(min=0)
        x = x + norm(f"res{n}.in2", convolve(f"res{n}.conv2", inner))
    for n in (1, 2):
        x = norm(f"in{n + 3}", convolve(f"deconv{n}", x, scale=2)).clamp(min=0)
    return convolve("deconv3", x)


@pytest.mark.parametrize(("width", "blocks"), [(4, 2), (6, 1)])
def test_the_converted_network_paints_the_same(width: int, blocks: int) -> None:
    weights = state_dict(width, blocks)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    network = convert(weights, "waves", Path("waves.pth"))
    assert network.config.to_json() == {"styles": ["waves"], "width": width, "blocks": blocks}
    pictures = torch.rand(2, 3, 24, 32)
    expected = example(weights, pictures * 255, blocks) / 255
    torch.testing.assert_close(network(pictures).double(), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())


def test_statistics_of_old_versions_are_dropped() -> None:
    weights = state_dict()
    old = {f"{norm}.{kind}": torch.full((4,), torch.nan)
           for norm in ("in1", "res1.in2")
           for kind in ("running_mean", "running_var", "num_batches_tracked", "saved_running_mean")}  # fmt: skip
    picture = torch.rand(1, 3, 16, 16)
    first, second = (convert(given, "a", Path("a.pth"))(picture) for given in (weights, {**weights, **old}))
    assert torch.equal(first, second)


def changed(kind: str) -> dict[str, Tensor]:
    weights = state_dict()
    if kind == "nan":
        weights["res2.in1.bias"][0] = torch.nan
    elif kind == "infinite":
        weights["deconv3.conv2d.weight"][0, 0, 0, 0] = torch.inf
    elif kind == "transposed":
        weights["deconv1.conv2d.weight"] = weights["deconv1.conv2d.weight"].transpose(0, 1).contiguous()
    elif kind == "no norm":
        del weights["in4.weight"], weights["in4.bias"]
    elif kind == "more":
        weights["attention.weight"] = torch.ones(2)
    elif kind == "no block":
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("res")}
    elif kind == "vgg":
        weights = {"features.0.weight": torch.ones(64, 3, 3, 3)}
    elif kind == "flat":
        weights["conv1.conv2d.weight"] = torch.ones(4)
    return weights


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", r"res2\.in1\.bias of `a.pth` has values that are NaN or infinite"),
        ("infinite", r"deconv3\.conv2d\.weight of `a.pth` has values"),
        ("transposed", r"deconv1\.conv2d\.weight is \[16, 8, 3, 3\], not \[8, 16, 3, 3\]"),
        ("no norm", r"it lacks in4\.weight, in4\.bias"),
        ("more", r"it has attention\.weight too"),
        ("no block", r"lacks conv1\.conv2d\.weight or res1\.conv1\.conv2d\.weight"),
        ("vgg", r"and has features\.0\.weight"),
        ("flat", "no checkpoint of the fast_neural_style example"),
    ],
)
def test_what_does_not_fit_is_said(kind: str, words: str) -> None:
    with pytest.raises(GantkError, match=words):
        convert(changed(kind), "a", Path("a.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_becomes_a_run(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, run = tmp_path / f"waves{suffix}", tmp_path / "run"
    weights = {name: tensor.half() for name, tensor in state_dict().items()}
    (torch.save if suffix == ".pth" else save_file)(weights, file)  # type: ignore[operator]
    assert main(["import", "fast-neural-style", str(file), "-o", str(run), "--json", "-"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["config"] == {"styles": ["waves"], "width": 4, "blocks": 2}
    assert "width 4 with 2 residual blocks" in said.err
    loaded = checkpoint.load_generator(run)
    picture = torch.rand(1, 3, 20, 24)
    assert torch.equal(loaded.module(picture), convert(weights, "waves", file)(picture))
    assert (loaded.family, loaded.name, loaded.step) == ("style", "run", 0)
    record = json.loads((run / "run.json").read_text())
    assert (record["kind"], record["imported"]["file"]) == ("import", file.name)

    assert main(["import", "fast-neural-style", str(file), "-o", str(run)]) == 1
    assert "holds a run" in (taken := capsys.readouterr().err)
    assert "--force" in taken and "--resume" not in taken  # Which this verb has not.
    assert main(["generate", str(run)]) == 1
    assert "makes pictures of pictures; dcgan, mlp make them of latents" in capsys.readouterr().err
    again = ["import", "fast-neural-style", str(file), "-o", str(run), "--force", "--name", "sea"]
    assert main(again) == 0
    assert checkpoint.load_generator(run).config["styles"] == ["sea"]
    odd = file.rename(tmp_path / f"two\nlines{suffix}")
    assert main(["import", "fast-neural-style", str(odd), "-o", str(run), "--force"]) == 0
    assert checkpoint.load_generator(run).config["styles"] == ["two\ufffdlines"]


@pytest.mark.parametrize("count", [0, 6, 4000])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_cut_file_leaves_no_run(
    suffix: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"waves{suffix}"
    (torch.save if suffix == ".pth" else save_file)(state_dict(), file)  # type: ignore[operator]
    file.write_bytes(file.read_bytes()[:count])
    assert main(["import", "fast-neural-style", str(file), "-o", str(tmp_path / "run")]) == 1
    assert f"waves{suffix}` " in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [file]


@pytest.mark.slow  # A megapixel; the example's own computation, above, tells the same of small ones.
@pytest.mark.parametrize("name", ["candy", "mosaic"])
def test_published_pictures_are_painted_again(name: str, data_dir: Path, tmp_path: Path) -> None:
    file = data_dir / "transformer_nets" / f"{name}_transformernet.safetensors"
    assert main(["import", "fast-neural-style", str(file), "-o", str(tmp_path / name)]) == 0
    network = checkpoint.load_generator(tmp_path / name).module.to(memory_format=torch.channels_last)
    given = read(data_dir / "pictures" / "ptex_amber.jpg")
    with torch.inference_mode():
        painted = network(given.to(memory_format=torch.channels_last))[0].clamp(0, 1)
    wanted = read(data_dir / "pictures" / "ptex_expected" / f"amber-{name}.jpg")[0]
    assert np.corrcoef(painted.flatten(), wanted.flatten())[0, 1] > 0.98


def read(path: Path) -> Tensor:
    """A picture as float32[1, 3, H, W] in [0, 1]."""
    with Image.open(path) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)[None] / 255
