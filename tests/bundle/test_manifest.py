# SPDX-License-Identifier: Apache-2.0
"""The manifest: what is written is read again, and whatever else is read is refused in words."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import networks
from bundle_engines import engines_of, make_engine
from gantk.bundle import (
    FORMS,
    PRECISIONS,
    Calibrated,
    FileRef,
    Interface,
    Manifest,
    Parity,
    Variant,
    place_of,
    readable,
)
from gantk.errors import GantkError
from gantk.tensors import DTYPES, TensorSpec

text = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20)
symbols = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
# The kinds of values that make hurried readers stumble.
nasty = st.sampled_from(
    [None, True, -1, 0, 1.5, 10**400, -(10**400), float("nan"), float("inf"), [], {}, [[]], {"path": "x"},
     "", "..", "\0", "\ud800", "a" * 5000, "/etc/passwd", "model.fp32.onnx", "\x1b[2J", "fp32"]
)  # fmt: skip


# Made once: to make a strategy takes as long as to draw from it.
texts = st.lists(text, max_size=2).map(tuple)
specs = st.lists(
    st.builds(
        TensorSpec, text, st.sampled_from(DTYPES), st.lists(st.integers(0, 4096) | symbols, max_size=4).map(tuple),
        st.none() | st.tuples(st.floats(-1e6, -1), st.floats(0, 1e6)),
    ),
    min_size=1, max_size=3, unique_by=lambda spec: spec.name,
).map(tuple)  # fmt: skip
parities = st.lists(
    st.builds(
        Parity, text, text, text, text, text, numbers, numbers, numbers, st.integers(0, 99),
        st.lists(st.integers(1, 99), max_size=3).map(tuple), st.booleans(), st.none() | text,
        st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), max_size=2).map(tuple),
    ),
    max_size=3,
).map(tuple)  # fmt: skip
variants = st.lists(
    st.builds(
        lambda data, kind, *others, **facts: Variant(
            FileRef.of(f"model.{kind[0]}.{kind[1]}.onnx", data), *kind, *others, **facts
        ),
        st.binary(max_size=9), st.tuples(st.sampled_from(PRECISIONS), st.sampled_from(FORMS)), st.integers(1, 30),
        parities, texts, texts,
        st.dictionaries(text, st.dictionaries(text, st.floats(0.1, 9.0), max_size=2), max_size=2),
        interface=st.none() | st.builds(Interface, specs, specs),
        calibrated=st.none() | st.builds(Calibrated, text, *[st.integers(0, 99)] * 4),
    ),
    min_size=1, max_size=4, unique_by=lambda variant: (variant.precision, variant.form),
).map(tuple)  # fmt: skip
bare_manifests = st.builds(
    Manifest, text, text, st.dictionaries(text, st.integers() | text | st.booleans(), max_size=4), specs, specs,
    variants, st.none() | st.just(FileRef.of("probe.safetensors", b"p")), st.none(),
    st.dictionaries(text, text, max_size=3), text,
)  # fmt: skip


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    bare = draw(bare_manifests)
    return replace(bare, engines=draw(engines_of(bare, parities)))


@given(manifests())
@settings(max_examples=25)
def test_round_trip(manifest: Manifest) -> None:
    assert Manifest.loads(manifest.dumps()) == manifest


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_named_with_its_place(value: float) -> None:
    latent, picture = networks.specs()
    parity = (networks.parity("onnxruntime"), replace(networks.parity("openvino"), max_abs=value))
    variant = Variant(FileRef.of("model.onnx", b"x"), "fp32", "plain", 20, parity, ())
    made = Manifest("dcgan", "tiny", {}, (latent,), (picture,), (variant,), None, None, {})
    with pytest.raises(
        GantkError, match=rf"variants\[0\]\.parity\[1\]\.max_abs is {value}; the manifest holds"
    ):
        made.dumps()
    with pytest.raises(GantkError, match=rf"model\.config\.rates\[1\] is {value}"):
        replace(made, variants=(), config={"rates": (1.0, value)}).dumps()


def good() -> dict[str, Any]:
    latent, picture = networks.specs()
    file = FileRef.of("model.fp32.onnx", b"x")
    parity, backends = (networks.parity("onnxruntime"),), ("onnxruntime",)
    facts = {"interface": Interface((latent,), (picture,)), "calibrated": Calibrated("minmax", 32, 5, 1, 2)}
    variant = Variant(file, "fp32", "adam", 20, parity, backends, **facts)
    probe = FileRef.of("probe.safetensors", b"p")
    made = Manifest(
        "dcgan", "tiny", {"size": 8}, (latent,), (picture,), (variant,), probe, None, {"onnx": "1"}
    )
    made = replace(made, engines=(make_engine(variant, {"latent": (1, 4)}),))
    return json.loads(made.dumps())  # type: ignore[no-any-return]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value inside a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


PLACES = [place for place in places(good()) if place]


def read(document: Any) -> Manifest | None:
    """Read a document; the only exception allowed is ours, and what it says must be printable."""
    try:
        return Manifest.loads(json.dumps(document).encode())
    except GantkError as error:
        assert str(error).replace("\n", "").isprintable()
        assert len(error.what) < 5000
        return None


@given(json_values)
@settings(max_examples=150)
def test_any_json_is_read_or_refused(document: Any) -> None:
    assert read(document) is None


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(GantkError):
        Manifest.loads(data)


@given(st.sampled_from(PLACES), nasty | json_values)
@example(("inputs", 0, "range"), "\x1b[2J")
@settings(max_examples=400)
def test_a_changed_value_is_read_or_refused(place: tuple[Any, ...], value: Any) -> None:
    document = good()
    target = document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    manifest = read(document)
    if manifest is not None:  # What is read can be written, and says the same again.
        assert Manifest.loads(manifest.dumps()) == manifest


@pytest.mark.parametrize("place", [place for place in PLACES if isinstance(place[-1], str)], ids=repr)
def test_a_missing_field_is_read_as_absent_or_refused(place: tuple[Any, ...]) -> None:
    document = good()
    target = document
    for key in place[:-1]:
        target = target[key]
    del target[place[-1]]
    optional = {
        "range",
        "layout",
        "probe",
        "checkpoint",
        "reason",
        "engines",
        "size",
        "onnx",
        "smallest",
        "sizes",
        "interface",
        "calibrated",
        "gains",
        "timing_cache",
        "workspace_bytes",
        "fp16",
    }
    assert (read(document) is not None) == (place[-1] in optional)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(GantkError, match="not JSON"):
        Manifest.loads(b"[" * 100_000)


def test_another_schema_says_what_to_do() -> None:
    with pytest.raises(GantkError, match="schema 2; this gantk reads schema 1") as caught:
        Manifest.from_json({**good(), "schema": 2})
    assert caught.value.hint == "pip install -U gantk"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "../x", "a/../../x", "..", ".", "", "a//b", "a/", "/a", "a\\b", "..\\x", "C:\\x",
        "C:x", "a\0b", "a\nb", "~/x", "a/./b", ".hidden", "a/.hidden", "\uff41.onnx", "a\u202eb", "-rf",
        "a b", "x" * 200, "a/b/c/d/e", "manifest.json", "%2e%2e/x", "file:///etc/passwd", "//host/x",
        "\\\\host\\x", "a/..", "x\t",
    ],
)  # fmt: skip
def test_paths_that_leave_the_bundle_are_refused(path: str) -> None:
    with pytest.raises(GantkError):
        FileRef(path, "0" * 64, 1)


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_a_path_that_is_accepted_stays_inside(path: str) -> None:
    from pathlib import PurePosixPath, PureWindowsPath

    try:
        FileRef(path, "0" * 64, 1)
    except GantkError:
        return
    for kind in (PurePosixPath, PureWindowsPath):
        assert not kind(path).is_absolute()
        assert not kind(path).drive
        assert ".." not in kind(path).parts


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 63 + "\n"])
def test_hashes_that_are_none(sha256: str) -> None:
    with pytest.raises(GantkError, match="64 hexadecimal digits"):
        FileRef("x", sha256, 1)


def test_a_length_below_nothing() -> None:
    with pytest.raises(GantkError, match="`x` cannot have -1 bytes"):
        FileRef("x", "0" * 64, -1)


@pytest.mark.parametrize("what", ["inputs", "outputs", "variants"])
def test_nothing_is_called_the_same_twice(what: str) -> None:
    document = good()
    twin = copy.deepcopy(document[what][0])
    if what == "variants":
        twin["file"]["path"] = "model.fp32.plain.onnx"
    document[what].append(twin)
    with pytest.raises(GantkError, match=f"two {what} are called the same"):
        Manifest.from_json(document)


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_an_interface_of_its_own_is_checked_too(what: str) -> None:
    document = good()
    interface = document["variants"][0]["interface"]
    interface[what].append(copy.deepcopy(interface[what][0]))
    with pytest.raises(GantkError, match=f"two {what} are called the same"):
        Manifest.from_json(document)
    interface[what].clear()
    with pytest.raises(GantkError, match="at least one input and one output"):
        Manifest.from_json(document)


def test_two_variants_of_one_file() -> None:
    document = good()
    document["variants"].append({**copy.deepcopy(document["variants"][0]), "precision": "fp16"})
    with pytest.raises(GantkError, match="two entries name one file"):
        Manifest.from_json(document)


def test_errors_say_where() -> None:
    document = good()
    document["variants"][0]["parity"][0]["passed"] = "yes"
    with pytest.raises(GantkError, match=r"variants\[0\]: parity\[0\]: 'passed' wants bool, not str"):
        Manifest.from_json(document)


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (1.234e-7, "1.2e-07"),
        (7.51, "7.5"),
        (99.4, "99"),
        (99.6, "100"),
        (2e9, "2e+09"),
    ],
)
def test_differences_as_people_read_them(difference: float | None, text: str) -> None:
    assert readable(difference) == text


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("precision", "fp64", "is 'fp64', 'adam'; known are fp32,"),
        ("form", "round", "is 'fp32', 'round'; known are .* plain,"),
        ("opset", 0, "has opset 0; 1 to 1000 are known"),
        ("opset", 1001, "has opset 1001; 1 to 1000 are known"),
    ],
)
def test_a_variant_that_cannot_be(field: str, value: object, text: str) -> None:
    document = good()
    document["variants"][0][field] = value
    with pytest.raises(GantkError, match=f"`model.fp32.onnx` {text}"):
        Manifest.from_json(document)


def test_opsets_at_the_ends_of_what_can_be() -> None:
    for opset in (1, 1000):
        assert Variant(FileRef.of("x", b""), "fp32", "plain", opset).opset == opset


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"batches": (), "reason": "no kernel"}, "b could not load `x` when the bundle was made: no kernel"),
        ({"reason": "7 dB"}, "b computes `x` wrong: 7 dB, off by up to 0.25, against torch float32"),
        ({"reason": "NaN", "max_abs": None}, "b computes `x` wrong: NaN, against torch float32"),
        ({}, "b computes `x` wrong: its parity check failed, off by up to 0.25, against torch float32"),
    ],
)
def test_what_a_failed_check_found_in_words(facts: dict[str, Any], text: str) -> None:
    parity = replace(networks.parity("b", passed=False), max_abs=0.25, reason=None, reference="torch float32")
    assert replace(parity, **facts).complaint("x") == text


def test_a_place_is_a_backend_with_what_is_no_cpu() -> None:
    assert [place_of("onnxruntime", device) for device in ("cpu", "cuda")] == [
        "onnxruntime",
        "onnxruntime cuda",
    ]


def test_failed_on() -> None:
    parity = (networks.parity("onnxruntime"), networks.parity("openvino", passed=False))
    variant = Variant(FileRef.of("x", b""), "fp32", "plain", 20, parity)
    assert variant.failed_on("onnxruntime", "cpu") is None
    assert variant.failed_on("openvino", "cpu") is parity[1]
    assert variant.failed_on("openvino", "cuda") is None  # A GPU's arithmetic is another.
    assert variant.failed_on("tensorrt", "cuda") is None
