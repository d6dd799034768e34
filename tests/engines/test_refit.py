# SPDX-License-Identifier: Apache-2.0
"""One engine, many styles: what a refit writes, what it refuses, and that it writes nothing by halves."""

from __future__ import annotations

import gc
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import gantk
import networks
from bundle_engines import make_engine
from fake_cuda import FakeCuda
from fake_refitter import MAGIC, built, digests, weights_of
from fake_tensorrt import FakeTensorRT
from gantk import checkpoint, models
from gantk.bundle import Bundle, Engine, ShapeRange, Variant, Writer
from gantk.errors import BackendMissingError, GantkError
from gantk.export import export
from gantk.export.engines.graphs import difference
from gantk.export.engines.maker import Sources
from gantk.export.engines.refit import Refit, refit
from gantk.runtime import driver
from gantk.runtime.probe import probe_of

SAID = {
    "deserialize_cuda_engine": "cannot be loaded: deserialize_cuda_engine: Error Code 1: as told",
    "refit_from_bytes": "cannot be refitted: Failed to find weights: as told",
    "get_missing_weights": "cannot be refitted: no new weights were found for `w9` and 1 more",
    "refit_cuda_engine": "cannot be refitted: refit_cuda_engine: Error Code 1: as told",
    "serialize_with_config": "cannot be refitted: serialize_with_config: Error Code 1: as told",
}
"""Of each of the library's calls, what is told where it fails."""


def write_checkpoint(path: Path, seed: int, width: int = 8) -> Path:
    torch.manual_seed(seed)
    generator = models.build("dcgan", {"size": 28, "channels": 1, "latent_size": 16, "width": width})
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(4.0).add_(0.05 * torch.randn_like(parameter))
    path.write_bytes(checkpoint.generator_bytes(generator.eval()))
    return path


@pytest.fixture(scope="module")
def sources(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints ``one``, ``two`` and the wider ``wide``, and bundles of the first two, without engines."""
    folder = tmp_path_factory.mktemp("refit")
    one = write_checkpoint(folder / "one.safetensors", 1)
    two = write_checkpoint(folder / "two.safetensors", 2)
    write_checkpoint(folder / "wide.safetensors", 1, width=12)
    for source in (one, two):
        export(source, folder / f"{source.stem}.gantk", precisions=("fp32", "fp16"), rewrites=False)
    return folder


@pytest.fixture
def trt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    made = FakeTensorRT(FakeCuda(), (), (), ())
    monkeypatch.setattr("gantk.export.engines.refit.load", lambda product: made)
    monkeypatch.setattr("gantk.export.engines.weights.load", lambda product: made)
    monkeypatch.setattr("gantk.runtime.products.Product.version", "1.7.1.116")
    found = driver.Driver(True, "13.0", ("RTX 4090",), targets=("sm_89",))
    monkeypatch.setattr(driver, "probe", lambda: found)
    return made


def write_bundle(sources: Path, root: Path, stripped: bool = False, **changes: Any) -> Path:
    """A bundle of the first checkpoint, each file with an engine."""
    shutil.copytree(sources / "one.gantk", root)
    bundle = Bundle.read(root)
    facts = {"targets": ("sm_89",), "rewrites": (), "plugins": (), **changes}
    with Writer(root, force=True) as writer:

        def engine_of(variant: Variant) -> Engine:
            data = built(bundle.read_file(variant.file), stripped=stripped)
            file = writer.add(f"engines/tensorrt-rtx-{variant.precision}.engine", data)
            return make_engine(variant, {"latent": (1, 16)}, file=file, **facts)

        engines = tuple(engine_of(variant) for variant in bundle.manifest.variants)
        writer.commit(replace(bundle.manifest, engines=engines))
    return root


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def check(bundle: Bundle, like: Bundle) -> None:
    """Every engine has the weights of the bundle's own file, and the other facts of `like`'s engine."""
    for new, old in zip(bundle.manifest.engines, like.manifest.engines, strict=True):
        variant = bundle.manifest.source(new)
        assert weights_of(bundle.read_file(new.file)) == digests(bundle.read_file(variant.file))
        assert new.file != old.file
        assert (new.parity, new.verified, new.options) == ((), False, ("refit",))
        kept = {"file": old.file, "source": old.source, "parity": old.parity, "options": old.options}
        assert replace(new, **kept) == old
    assert all(parity.passed for variant in bundle.manifest.variants for parity in variant.parity)


def test_another_bundle_has_the_engines_with_new_weights(
    sources: Path, trt: FakeTensorRT, tmp_path: Path
) -> None:
    old = Bundle.read(write_bundle(sources, tmp_path / "one.gantk"))
    before, lines = tree(old.root), []
    made = refit(old.root, sources / "two.safetensors", tmp_path / "two.gantk", report=lines.append)
    assert made == Bundle.read(tmp_path / "two.gantk")
    assert made.manifest.name == "two"
    check(made, old)
    assert next(line for line in lines if "refitted" in line).startswith(
        "  refitted tensorrt-rtx 1.7.1.116 fp32"
    )
    assert tree(old.root) == before
    new = weights_of(made.read_file(made.manifest.engines[0].file))
    assert new != weights_of(old.read_file(old.manifest.engines[0].file))
    gc.collect()
    assert trt.alive == 0
    back = refit(made.root, sources / "one.safetensors", tmp_path / "back.gantk")  # Still refittable.
    assert [back.read_file(engine.file) for engine in back.manifest.engines] == [
        old.read_file(engine.file) for engine in old.manifest.engines
    ]


def test_a_probe_of_its_own_is_of_the_new_weights(sources: Path, trt: FakeTensorRT, tmp_path: Path) -> None:
    batch = ShapeRange((9, 16), (9, 16), (9, 16))  # Of more samples than the bundle's probe has.
    root = write_bundle(sources, tmp_path / "x.gantk", profiles=({"latent": batch},))
    made = refit(root, sources / "two.safetensors")
    for engine in made.manifest.engines:
        probe = probe_of(made, engine)
        assert probe is not None
        with gantk.open(made.root, precision="fp32") as runner:
            wanted = runner.run(probe.inputs)["picture"]
        np.testing.assert_allclose(probe.outputs["picture"], wanted, atol=1e-5)


def test_in_place_and_of_an_engine_without_weights(sources: Path, trt: FakeTensorRT, tmp_path: Path) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk", stripped=True, options=("refit", "strip"))
    old = Bundle.read(root)
    files = {engine.file.path for engine in old.manifest.engines}
    made = refit(root, sources / "two.safetensors")
    check(made, old)
    # Somebody may be reading these.
    assert files.isdisjoint(engine.file.path for engine in made.manifest.engines)


def test_engines_that_become_one_are_told_apart_in_words(
    sources: Path, trt: FakeTensorRT, tmp_path: Path
) -> None:
    """One without weights for larger batches, beside one with them: `gantk.open` could not choose afterwards."""
    nine = ({"latent": ShapeRange((9, 16), (9, 16), (9, 16))},)
    root = write_bundle(
        sources, tmp_path / "x.gantk", stripped=True, options=("refit", "strip"), profiles=nine
    )
    whole = Bundle.read(write_bundle(sources, tmp_path / "whole.gantk"))
    with Writer(root, force=True) as writer:
        bundle, lines = Bundle.read(root), []
        added = [
            replace(
                engine,
                file=writer.add(f"engines/whole-{engine.precision}.engine", whole.read_file(engine.file)),
            )
            for engine in whole.manifest.engines
        ]
        bundle = writer.commit(replace(bundle.manifest, engines=(*bundle.manifest.engines, *added)))
    made = refit(root, sources / "two.safetensors", tmp_path / "y.gantk", report=lines.append)
    check(made, whole)
    told = [line for line in lines if "left out" in line]
    assert len(told) == 2
    assert "left out tensorrt-rtx 1.7.1.116 fp32 (plain, refit, strip) for sm_89 for latent 9x16" in told[0]
    assert "but for the shapes" in told[0]
    assert len(list((made.root / "engines").iterdir())) == 2


def test_what_was_for_many_gpus_is_for_the_one_at_hand(
    sources: Path, trt: FakeTensorRT, tmp_path: Path
) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk", targets=("sm_86", "sm_89"))
    made = refit(root, sources / "two.safetensors", tmp_path / "y.gantk")
    assert [engine.targets for engine in made.manifest.engines] == [("sm_89",), ("sm_89",)]
    assert made.manifest.engines[0].file.path == "engines/tensorrt-rtx-fp32-sm_89.engine"
    wide = write_bundle(
        sources, tmp_path / "w.gantk", targets=("sm_90",), options=("refit", "hardware-compatible")
    )
    assert {e.targets for e in refit(wide, sources / "two.safetensors").manifest.engines} == {("sm_90",)}


def test_an_engine_in_tf32_is_called_so_still(sources: Path, trt: FakeTensorRT, tmp_path: Path) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk", tf32=True)
    made = refit(root, sources / "two.safetensors")
    assert made.manifest.engines[0].file.path == "engines/tensorrt-rtx-fp32-tf32-sm_89.engine"


@pytest.mark.parametrize("time", [1, 2])
@pytest.mark.parametrize("call", SAID)
def test_a_failure_leaves_no_file(
    sources: Path, trt: FakeTensorRT, tmp_path: Path, call: str, time: int
) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk")
    before, two = tree(root), Bundle.read(sources / "two.gantk")
    assert two.manifest.probe is not None
    trt.fail = {call: time}
    with (
        pytest.raises(GantkError, match=f"{SAID[call]}\n") as caught,
        Writer(root, force=True) as writer,
    ):
        probe = writer.add("probe.safetensors", two.read_file(two.manifest.probe))
        Refit(Bundle.read(root)).make(
            writer, replace(two.manifest, probe=probe), Sources.of(two), lambda line: None, lambda *_: None
        )
    assert caught.value.where == f"{root}/engines/tensorrt-rtx-{('fp32', 'fp16')[time - 1]}.engine"
    assert trt.calls.count(call) == time
    assert tree(root) == before
    del caught
    gc.collect()
    assert trt.alive == 0


@pytest.mark.parametrize("output", [None, "y.gantk"])
def test_a_failure_writes_no_bundle(
    sources: Path, trt: FakeTensorRT, tmp_path: Path, output: str | None
) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk")
    before = tree(tmp_path)
    trt.fail = {"refit_cuda_engine": 2}
    with pytest.raises(GantkError, match="cannot be refitted: refit_cuda_engine: Error Code 1: as told"):
        refit(root, sources / "two.safetensors", None if output is None else tmp_path / output)
    assert tree(tmp_path) == before


def test_an_interruption_writes_nothing(sources: Path, trt: FakeTensorRT, tmp_path: Path) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk")
    before = tree(tmp_path)

    def interrupt(phase: str, done: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refit(root, sources / "two.safetensors", progress=interrupt)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"options": ()}, "tensorrt-rtx-fp32.engine` was not built refittable, but with no option"),
        ({"options": ("strip",)}, "was not built refittable, but with strip"),
        ({"targets": ("sm_86", "sm_120")}, "is for sm_86, sm_120; the GPU here is sm_89"),
        ({"version": "1.6.0"}, "was built with tensorrt-rtx 1.6.0; 1.7.1.116 is installed"),
        (
            {"rewrites": ("transposed-to-subpixel",)},
            "was built through transposed-to-subpixel; this gantk has none",
        ),
    ],
)
def test_engines_that_are_not_refitted(
    sources: Path, trt: FakeTensorRT, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk", **changes)
    with pytest.raises(GantkError, match=text):
        refit(root, sources / "two.safetensors")
    assert trt.calls == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"options": ()}, "tensorrt-rtx-fp32.engine` was not built refittable, but with no option"),
        ({"targets": ("sm_86",)}, "tensorrt-rtx-fp32.engine` is for sm_86; the GPU here is sm_89"),
        ({"backend": "tensorrt", "options": ()}, "was not built refittable"),
    ],
)
def test_engines_with_the_old_weights_are_left_out_in_words(
    sources: Path, trt: FakeTensorRT, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk")
    bundle, lines = Bundle.read(root), list[str]()
    with Writer(root, force=True) as writer:
        first, other = bundle.manifest.engines
        writer.commit(replace(bundle.manifest, engines=(replace(first, **changes), other)))
    made = refit(root, sources / "two.safetensors", tmp_path / "y.gantk", report=lines.append)
    assert [engine.precision for engine in made.manifest.engines] == ["fp16"]
    (line,) = (line for line in lines if "left out" in line)
    assert line.startswith(f"  left out {replace(first, **changes).label}, which has the old weights: ")
    assert text in line
    assert len(Bundle.read(root).manifest.engines) == 2


def test_what_is_refused_is_what_another_machine_can_do(
    sources: Path, trt: FakeTensorRT, tmp_path: Path
) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk", targets=("sm_86",))
    bundle = Bundle.read(root)
    with Writer(root, force=True) as writer:
        first, other = bundle.manifest.engines
        writer.commit(replace(bundle.manifest, engines=(replace(first, options=()), other)))
    with pytest.raises(GantkError, match="tensorrt-rtx-fp16.engine` is for sm_86; the GPU here is sm_89"):
        refit(root, sources / "two.safetensors")


def test_the_library_has_the_last_word(sources: Path, trt: FakeTensorRT, tmp_path: Path) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk")
    bundle = Bundle.read(root)
    with Writer(root, force=True) as writer:
        first, *others = bundle.manifest.engines
        data = built(bundle.read_file(bundle.manifest.source(first).file), refittable=False)
        first = replace(first, file=writer.add(first.file.path, data))
        writer.commit(replace(bundle.manifest, engines=(first, *others)))
    with pytest.raises(GantkError, match="the library finds that it was not built refittable") as caught:
        refit(root, sources / "two.safetensors")
    assert "--engine-options refit" in (caught.value.hint or "")


def test_bundles_that_are_not_refitted(sources: Path, trt: FakeTensorRT, tmp_path: Path) -> None:
    with pytest.raises(GantkError, match="has no engine to refit"):
        refit(sources / "one.gantk", sources / "two.safetensors")
    quantised = networks.bundle(tmp_path / "q.gantk", {("int8", "plain"): networks.generator()})
    with Writer(quantised.root, force=True) as writer:
        variant = quantised.manifest.variants[0]
        engine = make_engine(variant, {"latent": (1, 4)}, file=writer.add("engines/q.engine", MAGIC))
        writer.commit(replace(quantised.manifest, engines=(engine,)))
    with pytest.raises(GantkError, match="is int8, whose scales were measured with the old weights"):
        refit(quantised.root, sources / "two.safetensors")


def test_a_bundle_without_a_checkpoint_is_not_refitted(
    sources: Path, trt: FakeTensorRT, tmp_path: Path
) -> None:
    """Whatever engines it has: who is told to build others for it would do so for nothing."""
    for options in ((), ("refit",)):
        root = write_bundle(sources, tmp_path / f"{len(options)}.gantk", options=options)
        with Writer(root, force=True) as writer:
            writer.commit(replace(Bundle.read(root).manifest, checkpoint=None))
        with pytest.raises(GantkError, match="holds no checkpoint") as caught:
            refit(root, sources / "two.safetensors")
        assert "--engine-options" not in (caught.value.hint or "")


def test_without_a_gpu(
    sources: Path, trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk")
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(False, reason="no NVIDIA driver"))
    with pytest.raises(BackendMissingError, match="tensorrt-rtx cannot refit engines here: no NVIDIA driver"):
        refit(root, sources / "two.safetensors")
    h100 = driver.Driver(True, "13.0", ("H100",), targets=("sm_90",))
    monkeypatch.setattr(driver, "probe", lambda: h100)
    with pytest.raises(
        BackendMissingError, match=r"cannot refit engines here: .* no engine on H100 \(sm_90\)"
    ):
        refit(root, sources / "two.safetensors")


def test_another_architecture_is_refused_by_its_first_tensor(
    sources: Path, trt: FakeTensorRT, tmp_path: Path
) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk")
    before = tree(tmp_path)
    with pytest.raises(
        GantkError, match=r"of another architecture .*: it \S+weight is \[1176, 16\], not \[784, 16\],"
    ) as caught:
        refit(root, sources / "wide.safetensors")
    assert caught.value.where == str(sources / "wide.safetensors")
    mlp = tmp_path / "mlp.safetensors"
    config = {"size": 28, "channels": 1, "latent_size": 16}
    mlp.write_bytes(checkpoint.generator_bytes(models.build("mlp", config).eval()))
    with pytest.raises(GantkError, match="of another architecture .*: it is mlp, not dcgan"):
        refit(root, mlp)
    mlp.unlink()
    assert tree(tmp_path) == before
    assert trt.calls == []


def test_the_same_tensors_in_another_graph_are_refused(
    sources: Path, trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_bundle(sources, tmp_path / "x.gantk")
    monkeypatch.setattr("gantk.export.engines.refit.difference", lambda before, after: "has another node")
    with pytest.raises(
        GantkError, match=r"another architecture .*: its fp32.* file has another node"
    ) as caught:
        refit(root, sources / "two.safetensors")
    assert caught.value.where == f"{root}/model.fp32.onnx"


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    proto = onnx.load_from_string(networks.generator())
    change(proto)
    return bytes(proto.SerializeToString())


def named(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda proto: named(proto, "w1").dims.__setitem__(1, 4),
            "has `w1` as float [16, 4, 4, 4], not float [16, 3, 4, 4]",
        ),
        (lambda proto: proto.graph.initializer.remove(named(proto, "w0")), "lacks the weight `w0`"),
        (
            lambda proto: (proto.graph.initializer.add(name="w2"), proto.graph.node[4].input.append("w2")),
            "has the weight `w2` too",
        ),
        (
            lambda proto: named(proto, "axes").CopyFrom(
                onnx.numpy_helper.from_array(networks.np.array([1, 3]), "axes")
            ),
            "has other values in the constant `axes`",
        ),
        (
            lambda proto: proto.graph.node[4].attribute[0].ints.__setitem__(0, 3),
            "has another node where `` (ConvTranspose) is",
        ),
        (lambda proto: proto.graph.node.pop(), "has another node where `` (Cast) is"),
        (
            lambda proto: proto.graph.node.add(op_type="Relu", name="more", input=["picture"], output=["y"]),
            "has another node where `more` (Relu) is",
        ),
    ],
)  # fmt: skip
def test_what_makes_another_graph(change: Callable[[onnx.ModelProto], object], text: str) -> None:
    assert difference(networks.generator(), changed(change)) == text


def test_what_makes_none() -> None:
    assert difference(networks.generator(), networks.generator(seed=1)) is None
    told = changed(lambda proto: proto.graph.node[0].metadata_props.add(key="a", value="b"))
    assert difference(networks.generator(), told) is None
    unread = changed(lambda proto: proto.graph.initializer.add(name="w2"))
    assert difference(networks.generator(), unread) is None
