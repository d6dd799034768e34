# SPDX-License-Identifier: Apache-2.0
"""`gantk run`, as a user calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import networks
from gantk.tensors import TensorSpec

Gantk = Callable[..., Any]


def test_run_on_files(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", networks.latents(3))
    done = gantk("run", bundle, "--input", "latent=z.npy", "--output-dir", "out", "--json", "-")
    assert done.status == 0
    saved = np.load(tmp_path / "out" / "picture.npy")
    (output,) = (row for row in done.json["tensors"] if row["kind"] == "output")
    assert output["shape"] == list(saved.shape) == [3, 3, 8, 8]
    assert output["max"] == pytest.approx(saved.max())
    assert output["mean"] == pytest.approx(saved.mean(), abs=1e-6)
    assert done.json["random"] == []


def test_outputs_that_are_there_are_not_replaced_unawares(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    """As the other verbs do; and what cannot be written is refused before the network runs."""
    held = tmp_path / "out" / "picture.npy"
    held.parent.mkdir()
    held.write_bytes(b"of somebody")
    done = gantk("run", bundle, "-o", "out")
    assert done.status == 1
    assert "error: `out/picture.npy` exists" in done.err
    assert "hint: --force replaces it" in done.err
    assert held.read_bytes() == b"of somebody"
    assert gantk("run", bundle, "-o", "out", "--force").status == 0
    assert np.load(held).shape == (1, 3, 8, 8)
    refused = gantk("run", bundle, "-o", held)
    assert refused.status == 1
    assert "random values" not in refused.err


def test_run_on_random_values(gantk: Gantk, bundle: Path) -> None:
    first, again, other = (
        gantk("run", bundle, "--shape", "latent=5x4", "--seed", seed, "--json", "-") for seed in (1, 1, 2)
    )
    assert first.json["random"] == ["latent"]
    assert first.json["tensors"][0]["shape"] == [5, 4]
    assert first.json == again.json != other.json
    assert "random values for latent" in first.err
    assert "3 x 8 x 8" in gantk("run", bundle).out


def test_run_on_a_picture(gantk: Gantk, tmp_path: Path) -> None:
    spec = [TensorSpec(name, "uint8", ("N", "H", "W", 3)) for name in ("picture", "y")]
    (tmp_path / "p.onnx").write_bytes(networks.simple("Identity", spec[:1], spec[1]))
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(tmp_path / "p.png")
    assert gantk("run", "p.onnx", "-i", "picture=p.png", "-o", "out").status == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy").ravel(), np.arange(60))
    assert "wants an .npy file" in gantk("run", _latent(tmp_path), "-i", "latent=p.png").err


def test_sizes_that_a_network_does_not_take_are_to_be_chosen(gantk: Gantk, tmp_path: Path) -> None:
    """A size that is free is 1 where nothing says more, which few networks of others take."""
    specs = [TensorSpec(name, "float32", ("N", 3, "H", "W")) for name in ("picture", "y")]
    halves = {"shape": np.array([0, 3, 2, -1])}
    (tmp_path / "halves.onnx").write_bytes(networks.simple("Reshape", specs[:1], specs[1], halves))
    done = gantk("run", "halves.onnx")
    assert done.status == 1
    assert "  in: onnxruntime 1." in done.err
    assert "hint: choose sizes that it takes, for example --shape picture=1x3x512x512" in done.err
    assert gantk("run", "halves.onnx", "--shape", "picture=1x3x512x512").status == 0


def _latent(folder: Path) -> str:
    (folder / "g.onnx").write_bytes(networks.generator())
    return "g.onnx"


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("--input latent=pickle.npy", 1, "it is a pickle"),
        ("--input latent=text.npy", 1, "is not an .npy file"),
        ("--input latent=cut.npy", 1, "is not an .npy file"),
        ("--input latent=none.npy", 1, "cannot read `none.npy`"),
        ("--input latent=wide.npy", 1, "has shape [2, 9]; the network wants [N, 4]"),
        ("--input latent=nan.npy", 1, "1 of 4 values that are NaN"),
        ("--input z=text.npy", 2, "the inputs are latent: float32[N x 4]"),
        ("--input latent", 2, "is not NAME=FILE"),
        ("--shape latent=3x5", 2, "does not fit latent"),
        ("--shape latent=0x4", 2, "is not NAME=SIZE"),
        ("--shape latent=9999999999x4", 2, "does not fit"),
        ("--form fast", 2, "'fast' is not a form"),
    ],
)
def test_run_refuses(gantk: Gantk, tmp_path: Path, line: str, status: int, says: str) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "wide.npy", np.ones((2, 9), np.float32))
    np.save(tmp_path / "nan.npy", np.array([[0, 1, np.nan, 2]], np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "wide.npy").read_bytes()[:-8])
    done = gantk("run", _latent(tmp_path), *line.split(), "-o", "out")
    assert says in done.err
    assert done.status == status
    assert not (tmp_path / "out").exists()
