# SPDX-License-Identifier: Apache-2.0
"""Bundles that are damaged or forged: both runners refuse them, in the same words, before a backend sees a byte."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gantk
import networks
from bundle_engines import make_engine
from cpp_library import SOURCE, Library
from gantk.bundle import WHOLLY_NATIVE, Bundle, Calibrated, FileRef, Interface, Manifest, Variant
from gantk.errors import GantkError
from gantk.runtime.backends import onnxruntime
from gantk.runtime.operators import OPERATORS
from native_build import onnxruntime_library
from tampering import FAULTS, tamper

NOT_JSON = "the manifest is not JSON: "

Refusal = tuple[type[GantkError], str, str | None, str | None]


def refusal(opened: Callable[[], Any]) -> Refusal | None:
    """How opening was refused, or nothing where it was not."""
    try:
        opened().close()
    except GantkError as error:
        what = error.what
        # After the colon come the words of each language's own parser.
        if what.startswith(NOT_JSON):
            what = NOT_JSON
        return type(error), what, error.where, error.hint
    return None


def assert_both_refuse(library: Library, path: Path | str, **options: Any) -> str:
    """Both refuse in the same words, which are returned."""
    wanted = refusal(lambda: gantk.open(path, "onnxruntime", **options))
    found = refusal(lambda: library.open(path, backend="onnxruntime", **options))
    assert found == wanted
    assert wanted is not None, "neither refuses it"
    return wanted[1]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return networks.bundle(tmp_path / "x.gantk")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_the_one_exported(
    library: Library, bundle: Bundle, fault: str, tmp_path: Path
) -> None:
    ref = bundle.manifest.variants[0].file
    tamper(bundle.root / ref.path, fault, tmp_path / "outside")
    assert ref.path in assert_both_refuse(library, bundle.root)


def test_a_link_that_stays_inside_is_followed(library: Library, bundle: Bundle) -> None:
    path = bundle.root / bundle.manifest.variants[0].file.path
    path.rename(bundle.root / "elsewhere")
    path.symlink_to("elsewhere")
    (bundle.root.parent / "link.gantk").symlink_to(bundle.root)
    library.open(bundle.root.parent / "link.gantk").close()


@pytest.mark.parametrize("fault", ["missing", "file", "empty folder", "manifest folder", "large manifest"])
def test_what_is_no_bundle(library: Library, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "x.gantk"
    if fault == "file":
        path.write_bytes(b"onnx")
    elif fault != "missing":
        path.mkdir()
    if fault == "manifest folder":
        (path / "manifest.json").mkdir()
    elif fault == "large manifest":
        with (path / "manifest.json").open("wb") as stream:
            stream.truncate(16 * 2**20 + 1)
    # Python's `open` also takes lone ONNX files, and so has other words for what is no folder.
    wanted = refusal(lambda: Bundle.read(path))  # type: ignore[arg-type]
    assert wanted is not None
    assert refusal(lambda: library.open(path)) == wanted


def test_paths_are_named_as_python_names_them(library: Library, bundle: Bundle) -> None:
    (bundle.root / "manifest.json").write_text("{}")
    for path in (
        f"{bundle.root}/",
        f"{bundle.root.parent}//./{bundle.root.name}/.",
        f"{bundle.root}/../x.gantk",
    ):
        assert_both_refuse(library, path)


def test_a_folder_that_may_not_be_read(library: Library, unprivileged: Path) -> None:
    networks.bundle(unprivileged / "x.gantk")
    for place in ("x.gantk/model.fp32.plain.onnx", "x.gantk/manifest.json", "x.gantk"):
        (unprivileged / place).chmod(0)
        assert "Permission denied" in assert_both_refuse(library, unprivileged / "x.gantk")
    (unprivileged / "x.gantk").chmod(0o700)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp16"},
        {"precision": "fp64"},
        {"precision": "tf32"},
        {"form": "rewritten"},
        {"form": "fancy"},
        {"device": "tpu"},
        {"device": "cuda"},
        {"precision": "it's \\ \u00e9 \u200b"},
    ],
    ids=str,
)
def test_what_the_bundle_does_not_have(library: Library, bundle: Bundle, options: dict[str, str]) -> None:
    assert_both_refuse(library, bundle.root, **options)


def test_options_that_only_one_language_has(library: Library, bundle: Bundle) -> None:
    with pytest.raises(GantkError, match="'openvino' is not a backend; known are onnxruntime"):
        library.open(bundle.root, backend="openvino")
    with pytest.raises(GantkError, match="-1 threads; at least 1 is wanted"):
        library.open(bundle.root, threads=-1)


def test_a_precision_that_a_cpu_does_not_compute(library: Library, tmp_path: Path) -> None:
    networks.bundle(tmp_path / "x.gantk", {("bf16", "plain"): networks.generator("bf16")})
    with pytest.raises(GantkError, match="onnxruntime cannot compute bf16 on this machine's cpu"):
        library.open(tmp_path / "x.gantk")


def test_what_was_computed_wrong_is_never_chosen(library: Library, tmp_path: Path) -> None:
    failed = {("fp32", "plain"): [networks.parity("onnxruntime", passed=False)]}
    networks.bundle(tmp_path / "x.gantk", parities=failed)
    assert "computes `model.fp32.plain.onnx` wrong" in assert_both_refuse(library, tmp_path / "x.gantk")
    with pytest.raises(GantkError, match="no backend runs .* computes `model.fp32.plain.onnx` wrong"):
        library.open(tmp_path / "x.gantk")


def test_what_could_not_be_loaded_is_said_to_be_so(library: Library, tmp_path: Path) -> None:
    unable = replace(
        networks.parity("onnxruntime", passed=False), batches=(), samples=0, reason="no such kernel"
    )
    networks.bundle(tmp_path / "x.gantk", parities={("fp32", "plain"): [unable]})
    said = assert_both_refuse(library, tmp_path / "x.gantk")
    assert (
        said == "onnxruntime could not load `model.fp32.plain.onnx` when the bundle was made: no such kernel"
    )


@pytest.mark.parametrize("fastest", ["plain", "rewritten", "rewritten, on a GPU", None])
@pytest.mark.parametrize("wrong", ["plain", "rewritten", None])
def test_both_choose_the_same_form(
    library: Library, tmp_path: Path, fastest: str | None, wrong: str | None
) -> None:
    files = {
        ("fp32", form): networks.generator(seed=seed) for seed, form in enumerate(("plain", "rewritten"))
    }
    networks.bundle(
        tmp_path / "x.gantk",
        files,
        parities={("fp32", wrong): [networks.parity("onnxruntime", passed=False)]} if wrong else {},
        fastest_on={
            ("fp32", fastest.split(",")[0]): ["onnxruntime cuda" if "GPU" in fastest else "onnxruntime"]
        }
        if fastest
        else {},
    )
    feeds = {"latent": networks.latents(1)}
    with library.open(tmp_path / "x.gantk") as cpp, gantk.open(tmp_path / "x.gantk", "onnxruntime") as python:
        assert (cpp.run(feeds)["picture"] == python.run(feeds)["picture"]).all()


@pytest.mark.parametrize("operators", [False, True])
def test_both_take_a_native_form_where_the_operators_are(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operators: bool
) -> None:
    monkeypatch.setenv(OPERATORS, str(onnxruntime_library()) if operators else "")
    forms = ("plain", "rewritten")
    files = {("fp32", form): networks.generator(seed=seed) for seed, form in enumerate(forms)}
    path = tmp_path / "x.gantk"
    networks.bundle(path, files, fastest_on={("fp32", "rewritten"): ["onnxruntime"]})
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["variants"][1]["rewrites"] = ["transposed-to-native"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    feeds = {"latent": networks.latents(1)}
    with gantk.open(path, "onnxruntime", form=forms[operators]) as runner:
        wanted = runner.run(feeds)["picture"]
    with library.open(path) as cpp, gantk.open(path, "onnxruntime") as python:
        assert (cpp.run(feeds)["picture"] == wanted).all()
        assert (python.run(feeds)["picture"] == wanted).all()


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("backend", ["onnxruntime", "auto"])
def test_both_run_bf16_for_native_operators_alone(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operators: bool, backend: str
) -> None:
    monkeypatch.setenv(OPERATORS, str(onnxruntime_library()) if operators else "")
    path = tmp_path / "x.gantk"
    # ONNX Runtime loads the second without the operators too.
    files = {("bf16", "plain"): networks.generator("bf16"), ("bf16", "rewritten"): networks.generator(seed=1)}
    networks.bundle(path, files, fastest_on={("bf16", "rewritten"): ["onnxruntime"]})
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["variants"][1]["rewrites"] = [WHOLLY_NATIVE]
    (path / "manifest.json").write_text(json.dumps(manifest))
    if not operators:
        hint = "it can with gantk's native operators"
        for open_bundle in (library.open, gantk.open):
            with pytest.raises(
                GantkError, match="onnxruntime cannot compute bf16 on this machine's cpu"
            ) as caught:
                open_bundle(path, backend="onnxruntime", precision="bf16", device="cpu")
            assert hint in (caught.value.hint or "")
        return
    feeds = {"latent": networks.latents(1)}
    with (
        library.open(path, backend=backend, precision="bf16", device="cpu") as cpp,
        gantk.open(path, "onnxruntime", "bf16", "cpu") as python,
    ):
        assert (cpp.run(feeds)["picture"] == python.run(feeds)["picture"]).all()


def test_a_manifest_that_belongs_to_another_file(library: Library, tmp_path: Path) -> None:
    from gantk.tensors import TensorSpec

    other = networks.simple("Identity", [TensorSpec("x", "float32", (1,))], TensorSpec("y", "float32", (1,)))
    networks.bundle(tmp_path / "x.gantk", {("fp32", "plain"): other})
    assert "declared are latent: float32" in assert_both_refuse(library, tmp_path / "x.gantk")


def test_printable_is_what_unicode_says() -> None:
    """The table in C++ holds every assigned code point that Python does not print, and no other."""
    source = (SOURCE / "src/text.cpp").read_text()
    table = source[source.index("not_printable = ") : source.index("}};")]
    ranges = [(int(low, 16), int(high, 16)) for low, high in re.findall(r"\{0x(\w+), 0x(\w+)\}", table)]
    listed = {point for low, high in ranges for point in range(low, high + 1)}
    assigned = {point for point in range(0x110000) if unicodedata.category(chr(point)) != "Cn"}
    wanted = {point for point in assigned if not chr(point).isprintable()}
    assert listed & assigned == wanted


def test_a_network_that_the_backend_refuses(library: Library, tmp_path: Path) -> None:
    networks.bundle(tmp_path / "x.gantk", {("fp32", "plain"): networks.generator().replace(b"Tanh", b"Tann")})
    assert "Tann" in assert_both_refuse(library, tmp_path / "x.gantk")


# --- the manifest -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def packages_looked_for_once() -> Iterator[None]:
    """Nobody installs one meanwhile, and those that are missing are looked for at every opening."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "installed", cache(onnxruntime.installed))
        yield


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose manifest the tests replace."""
    path = tmp_path_factory.mktemp("forged") / "x.gantk"
    networks.bundle(path)
    return path


def document() -> dict[str, Any]:
    """A manifest that has everything."""
    latent, picture = networks.specs()
    parity = replace(networks.parity("onnxruntime"), sizes=((8, 8),))
    facts: dict[str, Any] = {
        "gains": {"onnxruntime": {"fold": 1.5}},
        "fastest_on": ("onnxruntime",),
        "calibrated": Calibrated("minmax", 32, 5, 1, 2),
    }
    variant = Variant(
        FileRef.of("model.fp32.onnx", b"x"), "fp32", "plain", 20, (parity,), rewrites=("fold",), **facts
    )
    other = Variant(
        FileRef.of("model.fp32.targets.onnx", b"y"),
        "fp32",
        "targets",
        20,
        interface=Interface((latent,), (picture,)),
    )
    made = Manifest(
        "dcgan", "tiny", {"size": 8}, (latent,), (picture,), (variant, other), tools={"onnx": "1"}
    )
    probe = FileRef.of("probe.safetensors", b"p")
    engines = (
        make_engine(variant, {"latent": (1, 4)}, probe=FileRef.of("probe-01234567.safetensors", b"q")),
    )
    written: dict[str, Any] = json.loads(replace(made, probe=probe, engines=engines).dumps())
    return written


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from places(item, (*place, key))


def kind(place: tuple[Any, ...]) -> tuple[Any, ...]:
    """Fields of one name in objects of one name are of one kind, for one function reads them; items of a list too."""
    holder = ["inputs" if step == "outputs" else step for step in place[-3:-1]]
    return tuple("item" if isinstance(step, int) else step for step in (*holder, place[-1]))


WHOLE = json.dumps(document())
PLACES = list(places(json.loads(WHOLE)))
FIRST = list({kind(place): place for place in reversed(PLACES)}.values())
KEYS = sorted({place[0] for place in PLACES})
MISSING = object()
STRANGE: list[Any] = [
    MISSING, None, True, False, 0, -1, 7, 2**31, 2**40, 1.5, 1e300, -0.0, 5e-324, 1e16, 123456789.25, "", "x", "N",
    "é", "../x", "a/../b", "/etc/passwd", "manifest.json", "a/b/c/d/e", "\x1b[31m", "\u202e", "it's", "\"'",
    "x" * 2001,
    "0" * 64, "fp16", "uint8", "NCHW", "sm_90", "1.2.3", [], [1], [1, 2], [2, 1], [1, "x", None, [True, {}]],
    ["N", "N"],
    {}, {"a": 1}, {"x": {"y": "z"}},
]  # fmt: skip


def refusals(library: Library, path: Path, manifest: bytes) -> tuple[Refusal | None, Refusal | None]:
    """What Python and C++ say of a manifest: of a good one that its file is another one, or missing."""
    (path / "manifest.json").write_bytes(manifest)
    python = refusal(lambda: gantk.open(path, "onnxruntime", threads=1))
    return python, refusal(lambda: library.open(path, backend="onnxruntime", threads=1))


@pytest.mark.parametrize("key", KEYS)
def test_every_strange_value_at_a_place_of_every_kind(library: Library, forged: Path, key: str) -> None:
    refused = try_strange_values(library, forged, [place for place in FIRST if place[0] == key])
    assert refused > 0 or key == "tools"


@pytest.mark.slow
@pytest.mark.parametrize("key", ["inputs", "outputs", "variants", "engines"])
def test_every_strange_value_at_every_other_place(library: Library, forged: Path, key: str) -> None:
    others = [place for place in PLACES if place[0] == key and place not in FIRST]
    assert try_strange_values(library, forged, others) > 0


def try_strange_values(library: Library, forged: Path, chosen: list[tuple[Any, ...]]) -> int:
    """Both say the same of each; how many they refused."""
    refused = 0
    for place in chosen:
        for value in STRANGE:
            made = json.loads(WHOLE)
            holder = made
            for step in place[:-1]:
                holder = holder[step]
            if value is MISSING:
                del holder[place[-1]]
            else:
                holder[place[-1]] = value
            python, cpp = refusals(library, forged, json.dumps(made).encode())
            assert cpp == python, f"{value!r} at {place}"
            refused += python is not None and "manifest" in str(python[2])
    return refused


# Code points that are not assigned yet are printable to C++, for it does not know which they are.
texts = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=30)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(place=st.sampled_from(PLACES), value=values)
@settings(max_examples=80)
def test_any_value_anywhere(library: Library, forged: Path, place: tuple[Any, ...], value: Any) -> None:
    made = json.loads(WHOLE)
    holder = made
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    # C++ shows the keys of an object in order, for it keeps no other.
    text = json.dumps(made, ensure_ascii=False, sort_keys=True)
    python, cpp = refusals(library, forged, text.encode())
    assert cpp == python


@given(data=st.binary(max_size=60))
@example(b"")
@example(b"[" * 100_000)
@example(b'{"schema": NaN}')
@example(b'{"schema": 1, "schema": 2}')
@example(b"[]")
@example(b"1")
@example(b"null")
@example(b'\xef\xbb\xbf{"schema": 2}')
@example(b'{"schema": 1e400}')
@settings(max_examples=60)
def test_bytes_that_are_no_manifest(library: Library, forged: Path, data: bytes) -> None:
    python, cpp = refusals(library, forged, data)
    assert python is not None
    assert cpp is not None
    if not (python[1].startswith(NOT_JSON) and b"e400" in data):
        assert cpp[2:] == python[2:]
