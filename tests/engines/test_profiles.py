# SPDX-License-Identifier: Apache-2.0
"""Which shapes an engine serves: the defaults, what is asked for, and what cannot be."""

from __future__ import annotations

import pytest

from gantk.bundle import STEP_FAMILY, Interface, Manifest, ShapeRange
from gantk.errors import UsageError
from gantk.export.engines.profiles import make_profiles
from gantk.runtime.following import Follows, follows
from gantk.tensors import TensorSpec

LATENT = TensorSpec("latent", "float32", ("N", 100), layout="NC")
PICTURE = TensorSpec("picture", "uint8", ("N", "H", "W", 3), (0.0, 255.0), "NHWC", 16)
STYLE = TensorSpec("style", "uint8", ("N", "HS", "WS", 3), (0.0, 255.0), "NHWC", 100)
WEIGHTS = TensorSpec("weights", "float32", ("N", 5), (0.0, 1.0), "NC")
FEATURES = TensorSpec("features", "float32", ("N", 64, "h", "w"))


def interface(*inputs: TensorSpec) -> Interface:
    return Interface(inputs, (TensorSpec("y", "float32", ("N",)),))


def test_the_defaults_are_batches_and_sides() -> None:
    (profile,) = make_profiles(interface(LATENT))
    assert profile == {"latent": ShapeRange((1, 100), (1, 100), (64, 100))}
    (profile,) = make_profiles(interface(PICTURE, STYLE, WEIGHTS))
    assert profile["picture"] == ShapeRange((1, 64, 64, 3), (1, 512, 512, 3), (4, 1024, 1024, 3))
    assert profile["style"].min == (1, 100, 100, 3)  # It takes none smaller.
    assert profile["weights"] == ShapeRange((1, 5), (1, 5), (4, 5))


def test_a_fixed_or_empty_shape_is_itself() -> None:
    fixed, scalar = TensorSpec("z", "float32", (3, 4)), TensorSpec("rate", "float32", ())
    (profile,) = make_profiles(interface(fixed, scalar))
    assert profile == {"z": ShapeRange((3, 4), (3, 4), (3, 4)), "rate": ShapeRange((), (), ())}


def test_what_is_given_wins_and_the_rest_yields() -> None:
    found = make_profiles(interface(PICTURE), None, (), ["picture=1x2000x40x3"], ())
    assert found[0]["picture"] == ShapeRange((1, 64, 40, 3), (1, 2000, 40, 3), (4, 2000, 1024, 3))
    found = make_profiles(interface(PICTURE), None, ["picture=2x700x700x3"], (), ["picture=2x900x900x3"])
    assert found[0]["picture"] == ShapeRange((2, 700, 700, 3), (2, 700, 700, 3), (2, 900, 900, 3))


def test_several_profiles() -> None:
    usual = ["picture=1x512x512x3", "picture=1x2048x2048x3"]
    found = make_profiles(interface(PICTURE, WEIGHTS), None, ["picture=1x256x256x3"], usual, ())
    assert [profile["picture"].opt for profile in found] == [(1, 512, 512, 3), (1, 2048, 2048, 3)]
    assert [profile["picture"].min for profile in found] == [(1, 256, 256, 3)] * 2
    assert [profile["picture"].max for profile in found] == [(4, 1024, 1024, 3), (4, 2048, 2048, 3)]
    assert found[0]["weights"] == found[1]["weights"]


def test_sizes_that_follow_from_others() -> None:
    halved = {"h": Follows("H", 3), "w": Follows("W", 3)}
    (profile,) = make_profiles(interface(PICTURE, FEATURES), halved)
    assert profile["features"] == ShapeRange((1, 64, 8, 8), (1, 64, 64, 64), (4, 64, 128, 128))
    (profile,) = make_profiles(interface(FEATURES), halved)  # A form without the picture.
    assert profile["features"].max == (64, 64, 128, 128)
    small = ["picture=1x100x203x3"]
    (profile,) = make_profiles(interface(PICTURE, FEATURES), halved, small, small, small)
    assert profile["features"] == ShapeRange(*[(1, 64, 12, 25)] * 3)
    with pytest.raises(
        UsageError, match="h is 12 by picture and 13 by features|h is 13 by features and 12 by"
    ):
        make_profiles(interface(PICTURE, FEATURES), halved, (), [*small, "features=1x64x13x25"], ())


@pytest.mark.parametrize(
    ("family", "layer", "poolings"),
    [
        (STEP_FAMILY, "relu4_2", 3),
        (STEP_FAMILY, "relu1_1", 0),
        (STEP_FAMILY, None, None),
        ("style", "relu4_2", None),
    ],
)
def test_of_a_step_the_sides_of_features_follow(family: str, layer: str | None, poolings: int | None) -> None:
    outputs = (TensorSpec("y", "float32", ("N",)),)
    manifest = Manifest(family, "tiny", {"content_layer": layer}, (PICTURE,), outputs, variants=())
    wanted = {} if poolings is None else {"h": Follows("H", poolings), "w": Follows("W", poolings)}
    assert follows(manifest) == wanted


def test_a_symbol_is_one_size_in_all_inputs() -> None:
    label = TensorSpec("label", "int64", ("N",), (0.0, 9.0))
    sixteen = ["latent=16x100"]
    (profile,) = make_profiles(interface(LATENT, label), None, sixteen, sixteen, sixteen)
    assert profile["label"] == ShapeRange((16,), (16,), (16,))
    (profile,) = make_profiles(interface(LATENT, label), None, (), sixteen, ())
    assert profile == {
        "latent": ShapeRange((1, 100), (16, 100), (64, 100)),
        "label": ShapeRange((1,), (16,), (64,)),
    }
    for option in range(3):
        given = [(), (), ()]
        given[option] = (*sixteen, "label=4")
        with pytest.raises(UsageError, match="N is 16 by latent and 4 by label; it is one size") as caught:
            make_profiles(interface(LATENT, label), None, *given)
        assert caught.value.where == ("--min", "--opt", "--max")[option]


def test_one_shape_of_what_nothing_is_known_of_is_the_only_one() -> None:
    (profile,) = make_profiles(interface(FEATURES), None, (), ["features=2x64x7x9"], ())
    assert profile["features"] == ShapeRange((1, 64, 7, 9), (2, 64, 7, 9), (64, 64, 7, 9))
    given = ["features=1x64x5x5"], (), ["features=4x64x9x8"]
    (profile,) = make_profiles(interface(FEATURES), None, *given)
    assert profile["features"] == ShapeRange((1, 64, 5, 5), (1, 64, 9, 8), (4, 64, 9, 8))


@pytest.mark.parametrize(
    ("inputs", "given", "text"),
    [
        ([FEATURES], {}, r"nothing says how large h of features"),
        ([LATENT], {"usual": ["noise=1x100"]}, "is not NAME=SIZExSIZE...; the inputs are latent"),
        ([LATENT], {"usual": ["latent=1x99"]}, "does not fit latent"),
        (
            [PICTURE],
            {"smallest": ["picture=1x64x9x3"]},
            "as small as 64 x 9 pixels; the network takes 16 x 16 and",
        ),
        ([LATENT], {"usual": ["latent=0x100"]}, "is not NAME=SIZE"),
        ([LATENT], {"smallest": ["latent=8x100"], "largest": ["latent=4x100"]}, "which do not grow"),
        (
            [PICTURE, WEIGHTS],
            {"usual": ["picture=1x9x9x3"] * 2, "largest": ["weights=9x5"] * 3},
            "named 2 and 3 times",
        ),
    ],
)
def test_what_cannot_be(inputs: list[TensorSpec], given: dict[str, list[str]], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make_profiles(interface(*inputs), None, **given)


def test_what_to_say_is_said() -> None:
    with pytest.raises(UsageError) as caught:
        make_profiles(interface(FEATURES), None)
    assert "--opt features=1x64x512x512 says it" in str(caught.value)
