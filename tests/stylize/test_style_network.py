# SPDX-License-Identifier: Apache-2.0
"""Style networks of every kind behind one function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import networks
import style_networks
from gantk.errors import GantkError, UsageError
from gantk.stylize.network import Look, StyleNetwork, choose_look, open_network, pad_to
from style_pictures import scene


@settings(max_examples=20)
@given(st.sampled_from([(1, 1), (1, 5000), (5000, 1), (7, 9), (8, 8), (3, 40), (33, 61)]))
def test_any_size_comes_back(one_style: Path, size: tuple[int, int]) -> None:
    with open_network(one_style, "onnxruntime", threads=1) as network:
        picture = scene(*size)[None]
        painted = network.paint(picture, Look())
        assert painted.shape == picture.shape
        padded = pad_to(8, picture)
        assert (padded[:, : size[0], : size[1]] == picture).all()
        assert (painted == network.paint(padded, Look())[:, : size[0], : size[1]]).all()


def test_padding_repeats_the_edge() -> None:
    padded = pad_to(4, np.array([[[[1, 2, 3], [4, 5, 6]]]], np.uint8))
    assert padded.shape == (1, 4, 4, 3)
    assert (padded[0, :, 1:] == (4, 5, 6)).all()
    assert (padded[0, :, 0] == (1, 2, 3)).all()


def test_floats_and_pixels_give_the_same_picture(tmp_path: Path) -> None:
    picture = scene(40, 30)[None]
    painted = []
    for pixels in (True, False):
        path = tmp_path / f"{pixels}.onnx"
        path.write_bytes(style_networks.style_network(pixels=pixels))
        with open_network(path, "onnxruntime") as network:
            painted.append(network.paint(picture, Look()).astype(int))
    assert np.abs(painted[0] - painted[1]).max() <= 1
    assert painted[0].std() > 10


def test_styles_by_name_and_index(blending: StyleNetwork) -> None:
    assert choose_look(blending, "candy") == choose_look(blending, "1") == Look((0.0, 1.0, 0.0))
    assert choose_look(blending) == choose_look(blending, "waves")
    picture = scene(24, 24)[None]
    one, other = (blending.paint(picture, choose_look(blending, str(index))) for index in (0, 1))
    assert np.abs(one.astype(int) - other).mean() > 5


def test_a_blend_of_one_style_is_that_style(blending: StyleNetwork) -> None:
    assert choose_look(blending, weights="mosaic=0.2").weights == (0.0, 0.0, 1.0)
    assert choose_look(blending, weights="mosaic=0.7,waves=0.3").weights == pytest.approx((0.3, 0.0, 0.7))
    assert choose_look(blending, weights="0=1, 2=3").weights == (0.25, 0.0, 0.75)


@pytest.mark.parametrize("style", ["3", "-1", "Candy", "", "\N{SUPERSCRIPT TWO}", "candy.jpg"])
def test_a_style_that_is_not_there_lists_those_that_are(blending: StyleNetwork, style: str) -> None:
    if style == "":
        assert choose_look(blending, style) == choose_look(blending, "0")  # Nothing was asked for.
        return
    with pytest.raises(UsageError, match="0 waves, 1 candy, 2 mosaic"):
        choose_look(blending, style)


@pytest.mark.parametrize(
    "weights",
    ["", "candy", "candy=", "candy=x", "candy=-1", "candy=nan", "candy=inf", "=1", "candy=0", "a=1"],
)
def test_shares_that_are_none_are_refused(blending: StyleNetwork, weights: str) -> None:
    with pytest.raises(UsageError):
        choose_look(blending, weights=weights)


def test_options_of_other_networks_are_refused(
    blending: StyleNetwork, network: StyleNetwork, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="takes no style picture"):
        choose_look(blending, alpha=0.5)
    with pytest.raises(UsageError, match="not both"):
        choose_look(blending, "candy", "candy=1")
    assert choose_look(network, "waves") == choose_look(network, "0") == Look()
    with pytest.raises(UsageError, match="no style 'candy'"):
        choose_look(network, "candy")
    with open_network(style_networks.adain_bundle(tmp_path / "a.gantk").root) as adain:
        for wrong in ({}, {"style": "x.png", "weights": "a=1"}, {"style": "x.png", "alpha": 1.5}):
            with pytest.raises(UsageError):
                choose_look(adain, **wrong)
        with pytest.raises(GantkError, match="does not exist"):
            choose_look(adain, "x.png")


def test_a_style_picture_and_its_alpha(tmp_path: Path) -> None:
    Image.new("RGB", (30, 12), (250, 0, 50)).save(tmp_path / "red.png")
    content = np.full((2, 16, 20, 3), 50, np.uint8)
    with open_network(style_networks.adain_bundle(tmp_path / "a.gantk").root) as network:
        assert network.takes_style_picture
        for alpha, wanted in ((0.0, (50, 50, 50)), (0.5, (150, 25, 50)), (None, (250, 0, 50))):
            look = choose_look(network, str(tmp_path / "red.png"), alpha=alpha)
            painted = network.paint(content, look)
            assert painted.shape == content.shape
            assert (painted == wanted).all()


def test_a_generator_is_no_style_network(tmp_path: Path) -> None:
    bundle = networks.bundle(tmp_path / "g.gantk")
    with pytest.raises(GantkError, match="not a style network.*latent"):
        open_network(bundle.root)


def test_a_tampered_bundle_is_refused(tmp_path: Path) -> None:
    bundle = style_networks.style_bundle(tmp_path / "a.gantk")
    file = bundle.root / "model.fp32.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(GantkError, match="sha256"):
        open_network(bundle.root)


def test_names_that_do_not_fit_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for names, known in ((("a", "b", "c"), ("a", "b", "c")), (("a",), ("0", "1", "2"))):
        monkeypatch.setattr(style_networks, "STYLES", names)
        (tmp_path / "three.onnx").write_bytes(style_networks.style_network(3))
        with open_network(tmp_path / "three.onnx") as network:
            assert network.styles == known
