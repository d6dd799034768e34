# SPDX-License-Identifier: Apache-2.0
"""The C++ runner and the Python one, on the same library of ONNX Runtime: the same values, to the last bit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import gantk
import networks
import style_networks
from cpp_library import DTYPES, CppRunner, Library
from gantk.bundle import Bundle, Interface, Manifest, Variant, Writer
from gantk.errors import GantkError
from gantk.runtime.arrays import random_feeds, save_outputs
from gantk.tensors import TensorSpec
from native_build import onnxruntime_library

Feeds = dict[str, np.ndarray[Any, Any]]
Sizes = dict[str, int]  # what each symbol in the shapes of a bundle stands for


def dcgan(root: Path) -> list[Sizes]:
    networks.bundle(
        root, {(precision, "plain"): networks.generator(precision) for precision in ("fp32", "fp16")}
    )
    return [{"N": count} for count in (1, 2, 5)]


def classes(root: Path) -> list[Sizes]:
    pytest.importorskip("torch", reason="a generator that knows classes is exported with PyTorch")
    from gantk import checkpoint, models
    from gantk.export import export

    config = {"size": 28, "channels": 1, "latent_size": 6, "width": 2, "classes": ["dark", "bright"]}
    source = root.with_suffix(".safetensors")
    source.write_bytes(checkpoint.generator_bytes(models.build("dcgan", config)))
    export(source, root, precisions=("fp32", "fp16"), rewrites=False)
    return [{"N": count} for count in (1, 5)]


def style(root: Path) -> list[Sizes]:
    style_networks.style_bundle(root)
    return [{"N": n, "H": h, "W": w} for n, h, w in ((1, 9, 31), (2, 33, 8), (1, 64, 65))]


def several_styles(root: Path) -> list[Sizes]:
    style_networks.style_bundle(root, 3)
    return [{"N": 2, "H": 21, "W": 13}]


def adain(root: Path) -> list[Sizes]:
    style_networks.adain_bundle(root)
    return [{"N": 2, "H": 7, "W": 12, "HS": 5, "WS": 3}]


def gatys_step(root: Path) -> list[Sizes]:
    """The one that many tests share."""
    return [{"N": 1, "M": 1, "H": 26, "W": 22, "h": 13, "w": 11}]


Case = tuple[Path, list[Sizes]]


@pytest.fixture(
    scope="module",
    params=[dcgan, classes, style, several_styles, adain, gatys_step],
    ids=lambda f: f.__name__,
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    make: Callable[[Path], list[Sizes]] = request.param
    if make is gatys_step:
        path: Path = request.getfixturevalue("exported_step")
    else:
        path = tmp_path_factory.mktemp("bundle") / "x.gantk"
    return path, make(path)


def feeds_of(inputs: Sequence[TensorSpec], sizes: Sizes) -> Feeds:
    """Random inputs; an optimiser's averages of squares and its rates are positive, as they are in life."""
    positive = ("square", "learning_rate", "epsilon", "betas", "corrections")
    feeds = {
        name: np.abs(array) % 0.9 + np.float32(0.05) if name in positive else array
        for name, array in random_feeds(inputs, sizes).items()
    }
    return {name: np.asarray(array, order="C") for name, array in feeds.items()}


def variants(bundle: Path) -> list[tuple[str, str]]:
    return [(variant.precision, variant.form) for variant in Bundle.read(bundle).manifest.variants]


def test_values_are_the_same_to_the_last_bit(library: Library, case: Case) -> None:
    path, cases = case
    for precision, form in variants(path):
        python = gantk.open(path, "onnxruntime", precision, form=form, threads=1)
        with python, library.open(path, precision=precision, form=form, threads=1) as cpp:
            for sizes in cases:
                feeds = feeds_of(python.inputs, sizes)
                wanted, found = python.run(feeds), cpp.run(feeds)
                into = {name: np.full_like(array, 3) for name, array in wanted.items()}
                cpp.run_into(feeds, into)
                assert list(found) == list(wanted)
                for name, array in wanted.items():
                    assert found[name].dtype == array.dtype
                    assert np.isfinite(array).all()
                    np.testing.assert_array_equal(found[name], array)
                    np.testing.assert_array_equal(into[name], array)


def test_a_runner_says_the_same_of_itself(library: Library, case: Case) -> None:
    path, _ = case
    for precision, form in variants(path):
        with (
            gantk.open(path, "onnxruntime", precision, form=form) as python,
            library.open(path, precision=precision, form=form) as cpp,
        ):
            for fact in ("backend", "version", "precision", "file_precision"):
                assert cpp.fact(fact) == getattr(python, fact)
            assert cpp.fact("name") == Bundle.read(path).manifest.name
            assert specs(cpp, "input") == list(python.inputs)
            assert specs(cpp, "output") == list(python.outputs)


def specs(runner: CppRunner, kind: str) -> list[TensorSpec]:
    """What the C API tells of the inputs or outputs."""
    functions, found = runner.library.c, []
    for index in range(getattr(functions, f"gantk_runner_{kind}_count")(runner.handle)):
        spec = getattr(functions, f"gantk_runner_{kind}")(runner.handle, index)
        shape = [
            symbol.decode() if symbol else size for size, symbol in zip(spec.shape, spec.symbols, strict=True)
        ]
        limits = (spec.low, spec.high) if spec.has_range else None
        layout = spec.layout.decode() or None
        found.append(
            TensorSpec(
                spec.name.decode(),
                DTYPES[spec.dtype],
                tuple(shape[: spec.rank]),
                limits,
                layout,
                spec.smallest,
            )
        )
    return found


def test_the_command_writes_the_same_files(built: Path, case: Case, tmp_path: Path) -> None:
    path, cases = case
    feeds, inputs = feeds_of(Bundle.read(path).manifest.inputs, cases[0]), []
    for name, array in feeds.items():
        np.save(tmp_path / f"{name}.npy", array)
        inputs += ["--input", f"{name}={tmp_path / name}.npy"]
    command = [built / "tools/gantk-run", path, *inputs, "--output-dir", tmp_path / "out", "--threads", "1"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with gantk.open(path, "onnxruntime", threads=1) as python:
        wanted = python.run(feeds)
    assert done.stdout.splitlines() == [str(tmp_path / "out" / f"{name}.npy") for name in wanted]
    for name, array in wanted.items():
        np.testing.assert_array_equal(np.load(tmp_path / "out" / f"{name}.npy"), array)


def test_outputs_whose_names_are_alike_have_files_of_their_own(built: Path, tmp_path: Path) -> None:
    x, *outputs = (TensorSpec(name, "float32", (2,)) for name in ("x", "a/b", "a_b", "a:b", "ä", ".."))
    info = {
        spec.name: helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, [2]) for spec in (x, *outputs)
    }
    nodes = [helper.make_node("Identity", ["x"], [spec.name]) for spec in outputs]
    graph = helper.make_graph(nodes, "g", [info["x"]], [info[spec.name] for spec in outputs])
    with Writer(tmp_path / "x.gantk") as writer:
        file = writer.add("model.fp32.onnx", networks.model_bytes(graph))
        variants = (Variant(file, "fp32", "plain", 20),)
        writer.commit(Manifest("any", "many", {}, (x,), tuple(outputs), variants))
    given = np.float32([1, 2])
    np.save(tmp_path / "x.npy", given)
    words = (tmp_path / "x.gantk", "--input", f"x={tmp_path}/x.npy", "--output-dir", tmp_path / "out")
    command = [str(word) for word in (built / "tools/gantk-run", *words)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wanted = save_outputs(tmp_path / "out", {spec.name: given for spec in outputs})
    assert said.splitlines() == [str(path) for path in wanted]
    assert sorted((tmp_path / "out").iterdir()) == sorted(wanted)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "bfloat16"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 4), (2, 3, 1, 5)])
def test_every_dtype_and_rank_passes_through(
    library: Library, tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    sizes = tuple(f"S{axis}" for axis in range(len(shape)))
    x, y = TensorSpec("x", dtype, sizes), TensorSpec("y", dtype, sizes)
    with Writer(tmp_path / "x.gantk") as writer:
        file = writer.add("model.fp32.onnx", networks.simple("Identity", [x], y))
        writer.commit(Manifest("any", "identity", {}, (x,), (y,), (Variant(file, "fp32", "plain", 20),)))
    given = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2, dtype)
    with library.open(tmp_path / "x.gantk") as cpp, gantk.open(tmp_path / "x.gantk", "onnxruntime") as python:
        if 0 in shape:
            assert_same_error(lambda: cpp.run({"x": given}), lambda: python.run({"x": given}))
            return
        found = cpp.run({"x": given})["y"]
    assert (found.dtype, found.shape) == (given.dtype, given.shape)
    np.testing.assert_array_equal(found, given)


def test_labels_outside_their_range_are_refused_in_the_same_words(library: Library, tmp_path: Path) -> None:
    x, y = TensorSpec("x", "int64", ("N",), (0.0, 9.0)), TensorSpec("y", "int64", ("N",))
    with Writer(tmp_path / "x.gantk") as writer:
        file = writer.add("model.fp32.onnx", networks.simple("Identity", [x], y))
        writer.commit(Manifest("any", "identity", {}, (x,), (y,), (Variant(file, "fp32", "plain", 20),)))
    with library.open(tmp_path / "x.gantk") as cpp, gantk.open(tmp_path / "x.gantk", "onnxruntime") as python:
        for labels in ([10], [0, -1, 9, 2**62]):
            feeds = {"x": np.array(labels)}
            assert_same_error(lambda feeds=feeds: cpp.run(feeds), lambda feeds=feeds: python.run(feeds))
        floats = {"x": np.array([0.5])}
        assert_same_error(lambda: cpp.run(floats), lambda: python.run(floats))
        with pytest.raises(GantkError) as caught:
            python.run(floats)
        # A picture from 0 to 1 would be black.
        assert caught.value.hint == "array.astype('int64'), with values from 0 to 9"
        np.testing.assert_array_equal(cpp.run({"x": np.array([0, 9])})["y"], [0, 9])


WRONG_FEEDS: dict[str, Feeds] = {
    "none": {},
    "another name": {"noise": networks.latents(1)},
    "one too many": {"latent": networks.latents(1), "noise": networks.latents(1)},
    "dtype": {"latent": networks.latents(1).astype(np.float64)},
    "rank": {"latent": networks.latents(1)[0]},
    "size": {"latent": np.zeros((3, 5), np.float32)},
    "empty": {"latent": np.zeros((0, 4), np.float32)},
    "not finite": {"latent": np.array([[np.nan, 1, np.inf, -np.inf]], np.float32)},
}


@pytest.mark.parametrize("feeds", WRONG_FEEDS.values(), ids=WRONG_FEEDS)
def test_wrong_inputs_are_refused_in_the_same_words(library: Library, tmp_path: Path, feeds: Feeds) -> None:
    networks.bundle(tmp_path / "x.gantk")
    with library.open(tmp_path / "x.gantk") as cpp, gantk.open(tmp_path / "x.gantk", "onnxruntime") as python:
        assert_same_error(lambda: cpp.run(feeds), lambda: python.run(feeds))
        wanted = python.run({"latent": networks.latents(1)})["picture"]
        np.testing.assert_array_equal(cpp.run({"latent": networks.latents(1)})["picture"], wanted)


def test_small_pictures_and_unequal_batches(library: Library, tmp_path: Path) -> None:
    inputs = style_networks.style_bundle(tmp_path / "x.gantk", 3).manifest.inputs
    small = random_feeds(inputs, {"N": 1, "H": 7, "W": 30})
    unequal = {
        **random_feeds(inputs, {"N": 2, "H": 9, "W": 9}),
        "style_weights": np.full((1, 3), 1 / 3, np.float32),
    }
    with library.open(tmp_path / "x.gantk") as cpp, gantk.open(tmp_path / "x.gantk", "onnxruntime") as python:
        for feeds in (small, unequal):
            assert_same_error(lambda feeds=feeds: cpp.run(feeds), lambda feeds=feeds: python.run(feeds))


def test_memory_that_does_not_fit_is_refused_and_left_alone(library: Library, tmp_path: Path) -> None:
    networks.bundle(tmp_path / "x.gantk")
    latent, out = networks.latents(1), np.full((4, 3, networks.SIDE, networks.SIDE), 9, np.float32)
    with library.open(tmp_path / "x.gantk") as cpp:
        with pytest.raises(GantkError, match=r"shape \[4, 3, 8, 8\]; the output has \[1, 3, 8, 8\]"):
            cpp.run_into({"latent": latent}, {"picture": out})
        assert (out == 9).all()
        with pytest.raises(GantkError, match="no output 'image'; it has picture"):
            cpp.run_into({"latent": latent}, {"image": out})
        with pytest.raises(GantkError, match="has dtype float64; the output has float32"):
            cpp.run_into({"latent": latent}, {"picture": out[:1].astype(np.float64)})


def test_a_failure_while_running_has_the_same_words(library: Library, tmp_path: Path) -> None:
    a, b = TensorSpec("a", "float32", ("N", 2)), TensorSpec("b", "float32", ("M", 2))
    total = TensorSpec("sum", "float32", ("K", 2))
    with Writer(tmp_path / "x.gantk") as writer:
        file = writer.add("model.fp32.onnx", networks.simple("Add", [a, b], total))
        writer.commit(Manifest("any", "sum", {}, (a, b), (total,), (Variant(file, "fp32", "plain", 20),)))
    ones = np.ones((3, 2), np.float32)
    with library.open(tmp_path / "x.gantk") as cpp, gantk.open(tmp_path / "x.gantk", "onnxruntime") as python:
        feeds = {"a": ones, "b": ones[:2].copy()}
        # `where` names the class of the runner, which is the language's own.
        assert_same_error(lambda: cpp.run(feeds), lambda: python.run(feeds), where=False)
        np.testing.assert_array_equal(cpp.run({"a": ones, "b": ones})["sum"], 2 * ones)


def test_another_interface(library: Library, tmp_path: Path) -> None:
    """A form that takes and gives something else is run when it is asked for, and never otherwise."""
    x, y = TensorSpec("x", "float32", ("N",)), TensorSpec("y", "float32", ("N",))
    latent, picture = networks.specs()
    with Writer(tmp_path / "x.gantk") as writer:
        plain = Variant(writer.add("model.fp32.plain.onnx", networks.generator()), "fp32", "plain", 20)
        data = networks.simple("Neg", [x], y)
        file = writer.add("model.fp32.targets.onnx", data)
        other = Variant(file, "fp32", "targets", 20, interface=Interface((x,), (y,)))
        writer.commit(Manifest("dcgan", "tiny", {}, (latent,), (picture,), (other, plain)))
    with library.open(tmp_path / "x.gantk") as cpp:
        assert [spec.name for spec in specs(cpp, "input")] == ["latent"]
    with library.open(tmp_path / "x.gantk", form="targets") as cpp:
        np.testing.assert_array_equal(cpp.run({"x": np.float32([1, 2])})["y"], [-1, -2])


def assert_same_error(
    cpp: Callable[[], object], python: Callable[[], object], *, where: bool = True, hint: bool = True
) -> None:
    """Both refuse, in the same words."""
    with pytest.raises(GantkError) as wanted:
        python()
    with pytest.raises(GantkError) as found:
        cpp()
    assert found.value.what == wanted.value.what
    assert not where or found.value.where == wanted.value.where
    assert not hint or found.value.hint == wanted.value.hint
    assert type(found.value) is type(wanted.value)


@pytest.mark.parametrize("case", [gatys_step], indirect=True, ids=["gatys_step"])
def test_native_operators_take_the_place_of_the_bodies_in_the_file(
    library: Library, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (sizes,) = case
    feeds = feeds_of(Bundle.read(path).manifest.inputs, sizes)
    with library.open(path, threads=1) as cpp:
        portable = cpp.run(feeds)["gradient"]
    monkeypatch.setenv("GANTK_ONNXRUNTIME_OPS", str(onnxruntime_library()))
    with library.open(path, threads=1) as cpp, gantk.open(path, "onnxruntime", threads=1) as python:
        native = cpp.run(feeds)["gradient"]
        np.testing.assert_array_equal(native, python.run(feeds)["gradient"])
    # The sums are taken in another order, which shows that another kernel took them.
    assert not np.array_equal(native, portable)
    np.testing.assert_allclose(native, portable, rtol=0, atol=1e-5 * float(np.abs(portable).max()))
    monkeypatch.delenv("GANTK_ONNXRUNTIME_OPS")
    named_in_code = {"operators": str(onnxruntime_library()), "threads": 1}
    with library.open(path, **named_in_code) as cpp:
        np.testing.assert_array_equal(cpp.run(feeds)["gradient"], native)
    # The environment comes before what the application says, also with nothing in it.
    monkeypatch.setenv("GANTK_ONNXRUNTIME_OPS", "")
    with library.open(path, **named_in_code) as cpp:
        np.testing.assert_array_equal(cpp.run(feeds)["gradient"], portable)
    monkeypatch.setenv("GANTK_ONNXRUNTIME_OPS", str(tmp_path / "none.so"))
    assert_same_error(
        lambda: library.open(path, backend="onnxruntime"), lambda: gantk.open(path, "onnxruntime")
    )


def test_operators_that_are_not_there_are_named_as_the_option(
    library: Library, unprivileged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the folder may not be looked into."""
    monkeypatch.delenv("GANTK_ONNXRUNTIME_OPS", raising=False)
    bundle = networks.bundle(unprivileged / "x.gantk").root
    (unprivileged / "closed").mkdir(0)
    for name in ("none.so", "closed/operators.so"):
        with pytest.raises(GantkError, match="the library of native operators, does not exist") as caught:
            library.open(bundle, backend="onnxruntime", operators=str(unprivileged / name))
        assert caught.value.where == "operators"
        assert "leave the option empty" in (caught.value.hint or "")


def test_what_is_no_library_of_operators_is_refused_in_the_same_words(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks.bundle(tmp_path / "x.gantk")
    (tmp_path / "ops.so").write_bytes(b"no library")
    monkeypatch.setenv("GANTK_ONNXRUNTIME_OPS", str(tmp_path / "ops.so"))
    path = tmp_path / "x.gantk"
    assert_same_error(
        lambda: library.open(path, backend="onnxruntime"), lambda: gantk.open(path, "onnxruntime"), hint=False
    )


def test_fp8_files_are_computed_as_python_does(library: Library, tmp_path: Path) -> None:
    x, y = TensorSpec("x", "float32", ("N",)), TensorSpec("y", "float32", ("N",))
    with Writer(tmp_path / "x.gantk") as writer:
        file = writer.add("model.fp8.onnx", networks.rounded_to_fp8(x, y))
        writer.commit(Manifest("any", "rounded", {}, (x,), (y,), (Variant(file, "fp8", "plain", 20),)))
    feeds = {"x": np.linspace(-3, 3, 64, dtype=np.float32)}
    with library.open(tmp_path / "x.gantk") as cpp, gantk.open(tmp_path / "x.gantk", "onnxruntime") as python:
        wanted = python.run(feeds)["y"]
        assert (cpp.fact("precision"), cpp.fact("file_precision")) == (python.precision, "fp8")
        np.testing.assert_array_equal(cpp.run(feeds)["y"], wanted)
    assert (wanted >= 0).all()  # The ReLU before the rounding is computed.
