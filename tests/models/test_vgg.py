# SPDX-License-Identifier: Apache-2.0
"""VGG-19: features equal to a plain chain of operations, weights that are whole or refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from gantk.errors import GantkError, UsageError
from gantk.models import vgg

# torchvision's `features`: the index of each convolution, its channels, and the poolings between, written out.
CHAIN = [
    *((0, 3, 64), (2, 64, 64), "pool", (5, 64, 128), (7, 128, 128), "pool"),
    *((10, 128, 256), (12, 256, 256), (14, 256, 256), (16, 256, 256), "pool"),
    *((19, 256, 512), (21, 512, 512), (23, 512, 512), (25, 512, 512), "pool"),
    *((28, 512, 512), (30, 512, 512), (32, 512, 512), (34, 512, 512)),
]


def weights(last: int = 34, prefix: str = "features.") -> dict[str, Tensor]:
    rng, made = torch.Generator().manual_seed(0), {}
    for entry in CHAIN:
        if entry != "pool" and entry[0] <= last:  # type: ignore[operator]
            index, before, after = entry
            weight = torch.randn(after, before, 3, 3, generator=rng) * (2 / (9 * before)) ** 0.5  # type: ignore[arg-type, call-overload, operator]
            made[f"{prefix}{index}.weight"] = weight
            made[f"{prefix}{index}.bias"] = torch.randn(after, generator=rng) * 0.1  # type: ignore[call-overload]
    return made


def plain(tensors: dict[str, Tensor], pictures: Tensor, pool: Any = F.max_pool2d) -> list[Tensor]:
    """What follows from the paper, in float64, one operation after the other."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    features, found = ((pictures.double() - mean.view(3, 1, 1)) / std.view(3, 1, 1)), []
    for entry in CHAIN:
        if entry == "pool":
            features = pool(features, 2)
        elif f"features.{entry[0]}.weight" in tensors:
            weight, bias = (tensors[f"features.{entry[0]}.{kind}"].double() for kind in ("weight", "bias"))
            features = F.conv2d(features, weight, bias, padding=1).clamp(min=0)
            found.append(features)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    classifier = {"classifier.0.weight": torch.full((2, 2), torch.nan)}
    torch.save({**weights(), **classifier}, path)
    return path


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_features_are_those_of_a_plain_chain(whole: Path, pooling: str) -> None:
    network = vgg.load_vgg19(whole, "relu5_4", pooling)
    pictures = torch.rand(2, 3, 35, 46)
    found = network(pictures)
    assert tuple(found) == vgg.LAYERS
    pool = F.max_pool2d if pooling == "max" else F.avg_pool2d
    for (layer, features), expected in zip(found.items(), plain(weights(), pictures, pool), strict=True):
        assert features.shape[1] == vgg.channels(layer)
        torch.testing.assert_close(features.double(), expected, rtol=1e-4, atol=1e-4, msg=layer)


def test_no_more_is_computed_than_is_asked_for(whole: Path) -> None:
    network, pictures = vgg.load_vgg19(whole, "relu3_1"), torch.rand(1, 3, 16, 16)
    all_of_them, some = network(pictures), network(pictures, until="relu2_1")
    assert list(some) == ["relu1_1", "relu1_2", "relu2_1"]
    assert all(torch.equal(features, all_of_them[layer]) for layer, features in some.items())


def test_it_is_frozen_and_lets_gradients_through(whole: Path) -> None:
    network = vgg.load_vgg19(whole, "relu2_1")
    assert not network.training
    picture = torch.rand(1, 3, 9, 8, requires_grad=True)
    network(picture)["relu2_1"].sum().backward()
    assert picture.grad is not None and picture.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_names_without_a_prefix_and_half_precision(tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in weights(7, prefix="").items()}
    save_file(halves, tmp_path / "a.safetensors")
    network = vgg.load_vgg19(tmp_path / "a.safetensors", "relu2_2")
    stored = network.state_dict()["convolutions.relu2_1.weight"]
    assert stored.dtype == torch.float32
    assert torch.equal(stored, halves["5.weight"].float())
    assert vgg.last_layer(tmp_path / "a.safetensors") == "relu2_2"


def test_the_smallest_picture_of_a_layer(whole: Path) -> None:
    for layer in ("relu1_1", "relu2_2", "relu3_1", "relu5_4"):
        side = vgg.smallest_size(layer)
        network = vgg.load_vgg19(whole, layer)
        assert network(torch.rand(1, 3, side, side))[layer].shape[2:] == (1, 1)
    with pytest.raises(RuntimeError, match="small"):
        network(torch.rand(1, 3, side - 1, side))


def test_missing_layers_are_named_with_the_last_that_is_there(tmp_path: Path) -> None:
    save_file(weights(16), tmp_path / "cut.safetensors")
    vgg.load_vgg19(tmp_path / "cut.safetensors", "relu3_4")
    with pytest.raises(GantkError, match=r"lacks the layers relu4_1, relu4_2 of VGG-19; its last is relu3_4"):
        vgg.load_vgg19(tmp_path / "cut.safetensors", "relu4_2")
    assert vgg.last_layer(tmp_path / "cut.safetensors") == "relu3_4"


@pytest.mark.parametrize("last", ["relu6_1", "relu1_3", "conv1_1", ""])
def test_layers_that_do_not_exist(last: str) -> None:
    with pytest.raises(UsageError, match="has no layer"):
        vgg.Vgg19(last)


def test_poolings_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match="allowed are max, average"):
        vgg.Vgg19("relu1_1", "median")


def broken(kind: str, path: Path) -> None:
    tensors = weights(2)
    if kind == "nan":
        tensors["features.2.weight"][3, 1] = torch.nan
    if kind == "batch norm":
        tensors["features.2.weight"] = torch.ones(64)
    if kind == "no bias":
        del tensors["features.2.bias"]
    if kind == "other":
        tensors = {"conv1.weight": torch.ones(3)}
    if kind == "list":
        torch.save([1, 2], path)
    elif kind == "code":
        torch.save(torch.nn.Linear(2, 2), path)
    else:
        (torch.save if path.suffix == ".pth" else save_file)(tensors, path)  # type: ignore[operator]
    if kind.startswith("cut"):
        path.write_bytes(path.read_bytes()[: int(kind.split()[1])])
    if kind == "text":
        path.write_text("hello, here is no network")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", r"convolutions\.relu1_2\.weight.*NaN"),
        ("batch norm", r"relu1_2\.weight is \[64\], not \[64, 64, 3, 3\]"),
        ("no bias", r"relu1_2\.bias is nothing, not \[64\]"),
        ("other", "holds no VGG-19"),
        ("cut 0", "whole file of weights"),
        ("cut 5", "whole file of weights|more than weights"),
        ("cut 5000", "whole file of weights"),
        ("text", "whole file of weights|more than weights"),
    ],
)
def test_broken_files_are_refused(kind: str, words: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"vgg{suffix}"
    broken(kind, path)
    with pytest.raises(GantkError, match=words) as caught:
        vgg.load_vgg19(path, "relu1_2")
    assert caught.value.where == str(path)


@pytest.mark.parametrize(("kind", "words"), [("list", "holds list"), ("code", "runs no code from files")])
def test_pth_files_of_something_else(kind: str, words: str, tmp_path: Path) -> None:
    broken(kind, tmp_path / "vgg.pth")
    with pytest.raises(GantkError, match=words):
        vgg.load_vgg19(tmp_path / "vgg.pth", "relu1_1")
    with pytest.raises(GantkError, match="cannot read"):
        vgg.load_vgg19(tmp_path / "missing.pth", "relu1_1")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(GantkError, match="is not a regular file"):
        vgg.load_vgg19(tmp_path / "pipe.pth", "relu1_1")


def test_what_trainings_put_around_the_weights(tmp_path: Path) -> None:
    inside = {f"module.{name}": tensor for name, tensor in weights(0).items()}
    torch.save({"epoch": 3, "state_dict": inside}, tmp_path / "new.pth")
    torch.save(weights(0), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    first, second = (vgg.load_vgg19(tmp_path / name, "relu1_1") for name in ("new.pth", "old.pth"))
    picture = torch.rand(1, 3, 4, 4)
    assert torch.equal(first(picture)["relu1_1"], second(picture)["relu1_1"])


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for torchvision's, and empty caches."""
    path = tmp_path / "remote" / "vgg19-dcbb9e9d.pth"
    path.parent.mkdir()
    torch.save(weights(0), path)
    monkeypatch.setattr(vgg, "URL", path.as_uri())
    monkeypatch.setattr(vgg, "HASH", hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return path


def test_the_file_is_fetched_once(remote: Path) -> None:
    told: list[tuple[int, int]] = []
    first = vgg.load_vgg19(None, "relu1_1", progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (remote.stat().st_size,) * 2
    remote.unlink()
    second = vgg.load_vgg19(None, "relu1_1")
    assert torch.equal(first.convolutions["relu1_1"].weight, second.convolutions["relu1_1"].weight)
    assert vgg.last_layer(None) == "relu5_4"


def test_the_file_of_torch_hub_serves(remote: Path, tmp_path: Path) -> None:
    kept = tmp_path / "hub" / "hub" / "checkpoints" / remote.name
    kept.parent.mkdir(parents=True)
    remote.rename(kept)
    assert vgg.fetch() == kept
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_of_torch_hub_is_passed_by(remote: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "hub" / "hub" / "checkpoints" / remote.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(remote.read_bytes()[:-1])
    fetched = vgg.fetch()
    assert fetched != damaged
    assert fetched.read_bytes() == remote.read_bytes()


def test_another_file_is_refused_and_not_kept(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vgg, "HASH", "dcbb9e9d")
    with pytest.raises(
        GantkError, match=r"is not the VGG-19 file: its SHA-256 begins [0-9a-f]{8}, not dcbb9e9d"
    ):
        vgg.load_vgg19(None, "relu1_1")
    assert not list((tmp_path / "cache").rglob("*.pth*"))


def test_a_broken_connection_leaves_nothing(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking:
        headers = {"Content-Length": "1000"}  # noqa: RUF012
        sent = False

        def __enter__(self) -> Breaking:
            return self

        def __exit__(self, *details: object) -> None: ...

        def read(self, count: int) -> bytes:
            if self.sent:
                raise ConnectionResetError("the line is dead")
            self.sent = True
            return b"x" * 500

    monkeypatch.setattr(vgg.urllib.request, "urlopen", lambda *_, **__: Breaking())
    with pytest.raises(GantkError, match="cannot be fetched: the line is dead") as caught:
        vgg.fetch()
    assert "--vgg FILE" in str(caught.value.hint)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_without_a_network(remote: Path) -> None:
    remote.unlink()
    with pytest.raises(GantkError, match="cannot be fetched") as caught:
        vgg.fetch()
    assert caught.value.where == vgg.URL


def test_the_real_weights_see_edges_and_colours(data_dir: Path) -> None:
    """The published network's features have known statistics: sparse, and stronger where a picture has detail."""
    path = data_dir / "vgg19" / "vgg19_to_relu3_4.safetensors"
    network = vgg.load_vgg19(path, "relu3_4")
    pictures = torch.rand(1, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    expected = plain(load_file(path), pictures)
    for features, wanted in zip(network(pictures).values(), expected, strict=True):
        # Sums cancel, and how PyTorch adds depends on the CPU: an error is one of the layer, not of one value.
        assert (features.double() - wanted).abs().max() < 1e-4 * wanted.square().mean().sqrt()
    assert vgg.last_layer(path) == "relu3_4"
    smooth = network(torch.full((1, 3, 32, 32), 0.5))["relu3_3"]
    assert network(torch.rand(1, 3, 32, 32))["relu3_3"].mean() > 2 * smooth.mean()


def test_rescaled_features_are_of_unit_size_and_nothing_is_rounded(whole: Path) -> None:
    network, before = vgg.load_vgg19(whole, "relu4_1"), vgg.load_vgg19(whole, "relu4_1")
    for layer, factor in (("relu1_1", 300.0), ("relu2_2", 1 / 77.0), ("relu3_4", 1e4)):
        for each in (network, before):
            each.convolutions[layer].weight.mul_(factor)
    shown = torch.rand(3, 3, 40, 48)
    network.rescale(shown)
    for layer, features in network(shown).items():
        assert 0.7 < features.square().mean().sqrt() < 1.42, layer
    other = torch.rand(1, 3, 33, 21)
    for (layer, scaled), plain_features in zip(network(other).items(), before(other).values(), strict=True):
        strongest = plain_features.abs().max()
        factor = 2.0 ** torch.log2(scaled.abs().max() / strongest).round()
        assert torch.equal(scaled, plain_features * factor), layer


def test_rescaling_survives_features_of_nothing() -> None:
    network = vgg.Vgg19("relu1_2")
    network.requires_grad_(False)
    network.convolutions["relu1_1"].weight.zero_()
    network.convolutions["relu1_1"].bias.fill_(-1)
    network.rescale(torch.rand(1, 3, 8, 8))
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())
