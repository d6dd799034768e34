# SPDX-License-Identifier: Apache-2.0
"""Engines as contenders, on fakes of the product and of CUDA: who takes part, and where the time of a call goes."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_helpers import make_document, make_row

from engine_lab import LARGE, SMALL, Lab, X, check, engine_of, make_lab, picture, write_bundle
from gantk.bench import contenders, engines, gpu, regression, report, run
from gantk.bench.contender import Skipped
from gantk.bench.subject import describe
from gantk.bench.vendor_tool import VendorTool
from gantk.bundle import FileRef, ShapeRange
from gantk.cli.main import main
from gantk.errors import BackendMissingError, GantkError
from gantk.runtime import driver
from gantk.runtime.products import PRODUCTS
from gantk.tensors import TensorSpec

NAME = "tensorrt-rtx"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    # Workers find the fakes by the environment, and import no product.
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ["PYTHONPATH"]])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(engines, "_FACTORY", "engine_fakes:open_on_fakes")
    monkeypatch.setitem(PRODUCTS, NAME, replace(PRODUCTS[NAME], module="json"))
    return make_lab(tmp_path, monkeypatch)


def find(lab: Lab, *precisions: str, device: str = "cuda") -> tuple[list[str], list[Skipped]]:
    """The labels of the engines that take part, and what was skipped."""
    found, skipped = engines.engine_contenders(NAME, describe(lab.root), precisions, device, asked=False)
    return [contender.label for contender in found], skipped


def test_an_engine_takes_part(lab: Lab) -> None:
    assert find(lab) == ([f"{NAME} fp32"], [])
    assert find(lab, "fp32", "fp16") == ([f"{NAME} fp32"], [])
    assert find(lab, "fp16") == ([], [])
    assert find(lab, device="cpu") == ([], [Skipped(NAME, "its engines run on a GPU: --device cuda", True)])


def test_it_is_named_by_what_it_computes_in(lab: Lab) -> None:
    write_bundle(lab.root, engine_of(tf32=True))
    assert find(lab)[0] == [f"{NAME} tf32 (fp32 file)"]
    reason = "here it computes that in tf32, which was not asked for"
    assert find(lab, "fp32") == ([], [Skipped(f"{NAME} fp32", reason)])


def test_an_engine_of_tf32_takes_part_beside_an_exact_one(lab: Lab) -> None:
    other = FileRef.of("engines/other.engine", b"engine")
    exact, rounding = f"{NAME} fp32", f"{NAME} tf32 (fp32 file)"
    write_bundle(lab.root, engine_of(), engine_of(tf32=True, file=other))
    assert find(lab) == ([exact, rounding], [])
    assert find(lab, "tf32") == ([rounding], [])
    assert find(lab, "fp32")[0] == [exact]
    rows = run.compare(
        lab.root, backends=[NAME], precisions=["tf32"], shapes=[("x", (1, 2, 6, 5))], threads=1, budget_s=0.3
    )["rows"]
    assert [(row["label"], row["status"]) for row in rows] == [(rounding, "ok")]
    write_bundle(lab.root, engine_of(targets=("sm_120",)), engine_of(tf32=True, file=other))
    assert find(lab)[0] == [rounding]  # Once, though `gantk.open` takes it for fp32 too.


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"targets": ("sm_120",)}, f"has no {NAME} fp32 engine for sm_89; it has fp32 (plain) for sm_120"),
        ({"version": "1.6.0"}, "for sm_89 were built with 1.6.0; 1.7.1.116 is installed"),
    ],
)
def test_engines_that_do_not_run_here_are_skipped_in_words(
    lab: Lab, facts: dict[str, Any], reason: str
) -> None:
    write_bundle(lab.root, engine_of(**facts))
    labels, [skip] = find(lab)
    assert labels == []
    assert skip.name == f"{NAME} fp32"
    assert reason in skip.reason
    assert find(lab, "fp16") == ([], [])


def test_without_a_driver_or_an_engine_the_benchmark_says_so(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(False, reason="no NVIDIA driver"))
    _, skipped = contenders.find(describe(lab.root), None, ["fp32"], "cpu", 1)
    reasons = {skip.name: skip.reason for skip in skipped}
    assert reasons[NAME].startswith("no NVIDIA driver")
    assert "tensorrt" not in reasons  # There is no engine of it, and nobody asked.
    with pytest.raises(BackendMissingError, match=f"{NAME} was asked for and does not work here: no NVIDIA"):
        contenders.find(describe(lab.root), [NAME], None, "cuda", 1)
    _, [skip] = contenders.find(describe(lab.root), ["tensorrt"], None, "cuda", 1)
    assert skip.reason == f"there is no engine of it (gantk export {lab.root} --to tensorrt)"


def test_a_product_that_runs_nothing_on_this_gpu_is_skipped_in_words(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(True, "13.0", ("H100",), targets=("sm_90",)))
    labels, [skip] = find(lab)
    assert labels == []
    assert skip.reason == f"{NAME} runs no engine on H100 (sm_90); it builds engines for other GPUs"


def test_the_gpu_is_the_default_where_it_runs_something(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert contenders.best_device(describe(lab.root), [NAME]) == "cuda"
    assert contenders.best_device(describe(lab.root), ["torch"]) == "cpu"
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(False, reason="no NVIDIA driver"))
    assert contenders.best_device(describe(lab.root), [NAME]) == "cpu"
    write_bundle(lab.root)
    assert contenders.best_device(describe(lab.root), [NAME]) == "cpu"


@pytest.mark.parametrize(
    ("facts", "shape", "command"),
    [
        (
            {},
            (1, 2, 8, 8),
            "tensorrt_rtx --loadEngine=x.engine --shapes=x:1x2x8x8 --allocationStrategy=runtime "
            "--specializeStrategyDS=eager",
        ),
        (
            {},
            (1, 2, 64, 17),
            "tensorrt_rtx --loadEngine=x.engine --shapes=x:1x2x64x17 --useProfile=1 --allocationStrategy=runtime "
            "--specializeStrategyDS=eager",
        ),
        (
            {
                "backend": "tensorrt",
                "version": "11.4.0.106",
                "plugins": ("libgantk.so",),
                "options": ("version-compatible",),
            },
            (1, 2, 8, 8),
            "trtexec --loadEngine=x.engine --shapes=x:1x2x8x8 --versionCompatible --dynamicPlugins=libgantk.so "
            "--noDataTransfers --useCudaGraph --useSpinWait",
        ),
        (
            {"backend": "tensorrt", "version": "10.16.1.11"},
            (1, 2, 8, 8),
            "trtexec --loadEngine=x.engine --shapes=x:1x2x8x8 --noDataTransfers --useCudaGraph --useSpinWait",
        ),
        ({}, (9, 2, 8, 8), None),
    ],
)
def test_the_vendors_command_does_the_same_work(
    lab: Lab, facts: dict[str, Any], shape: tuple[int, ...], command: str | None
) -> None:
    subject = describe(lab.root)
    assert subject.bundle is not None
    engine = replace(subject.bundle.manifest.engines[0], **facts)
    assert engine.profiles == (SMALL, LARGE)
    assert VendorTool(Path("x.engine"), engine, (X,)).command({"x": shape}) == command


def test_no_command_feeds_classes_that_do_not_exist(lab: Lab) -> None:
    subject = describe(lab.root)
    assert subject.bundle is not None
    engine = replace(
        subject.bundle.manifest.engines[0], profiles=({**SMALL, "label": ShapeRange((1,), (1,), (4,))},)
    )
    shapes = {"x": (1, 2, 8, 8), "label": (1,)}
    label = TensorSpec("label", "int64", ("N",))
    assert VendorTool(Path("x.engine"), engine, (X, label)).command(shapes) is None


def test_shapes_are_only_given_for_inputs_that_have_several(lab: Lab) -> None:
    subject = describe(lab.root)
    assert subject.bundle is not None
    profile = {**SMALL, "a:0": SMALL["x"]}
    engine = replace(subject.bundle.manifest.engines[0], profiles=(profile,))
    fixed, free = TensorSpec("x", "float32", (1, 2, 8, 8)), TensorSpec("a:0", "float32", ("N", 2, 8, 8))
    shapes = {"x": (1, 2, 8, 8), "a:0": (3, 2, 8, 8)}
    command = VendorTool(Path("my x.engine"), engine, (fixed, free)).command(shapes)
    assert command is not None
    assert command.startswith("tensorrt_rtx '--loadEngine=my x.engine' ")
    assert ":3x2x8x8" in command
    assert "x:1x2x8x8" not in command


def test_the_parts_of_a_call_are_timed_apart(lab: Lab) -> None:
    """Every piece of work on the fake GPU takes one tick: a copy in, the network, two copies out."""
    with lab.open() as runner:
        held = len(lab.cuda.device)
        lab.forget()
        times = gpu.time_parts(runner, {"x": picture(1, 2, 8, 8)}, 10.0, 5)
        assert (times["copy_in"], times["device"], times["copy_out"]) == ([1.0] * 5, [1.0] * 5, [2.0] * 5)
        assert len(times["enqueue"]) == 5
        assert min(times["enqueue"]) > 0.0
        call = ["cudaEventRecord", "cudaMemcpyAsync", "cudaEventRecord"]
        call += ["cudaEventRecord"]  # Of the launch, for those who wait for it.
        call += ["cudaEventRecord", "cudaMemcpyAsync", "cudaMemcpyAsync", "cudaEventRecord"]
        call += ["cudaStreamSynchronize", *["cudaEventElapsedTime"] * 3]
        calls = [name for name in lab.cuda.calls if name != "cudaEventCreate"]  # Once.
        # The inputs are there before the first launch, which what is there by chance might lead astray.
        assert calls.index("cudaMemcpyAsync") < calls.index("cudaEventRecord")
        first = calls.index("cudaMemcpyAsync", calls.index("cudaMemcpyAsync") + 1) - 1
        assert calls[first : first + 8 * len(call)] == call * 8
        assert lab.trt.calls.count("execute_async_v3") == 1 + 8
        assert len(lab.cuda.device) == held + 1  # What the context of launches works with.
        assert len(gpu.time_parts(runner, {"x": picture(1, 2, 8, 8)}, 1e-9, 5)["device"]) == 1
    assert lab.cuda.leaks == {}


@pytest.mark.parametrize(
    ("call", "time"),
    [
        *(
            (call, time)
            for call in ("cudaEventCreate", "cudaMallocHost", "cudaMemcpyAsync")
            for time in (1, 2)
        ),
        *(("cudaEventRecord", time) for time in (1, 2, 6)),  # The sixth comes after the copies out.
    ],
)
def test_what_fails_while_the_parts_are_timed_leaves_nothing(lab: Lab, call: str, time: int) -> None:
    with lab.open() as runner:
        held = len(lab.cuda.host)
        lab.forget()
        lab.cuda.fail[call] = time
        with pytest.raises(GantkError, match=call):
            gpu.time_parts(runner, {"x": picture(1, 2, 8, 8)}, 1.0, 5)
        assert len(lab.cuda.host) == held
        started = max(
            (place for place, name in enumerate(lab.cuda.calls) if name == "cudaMemcpyAsync"), default=0
        )
        after = lab.cuda.calls[started:]
        if started and "cudaFreeHost" in after:  # Copies may be under way.
            assert after.index("cudaStreamSynchronize") < after.index("cudaFreeHost")
        assert not any(event.timed for event in lab.cuda.events.values())  # The runner has others.
        lab.cuda.fail.clear()
        check(runner, picture(1, 2, 8, 8))
    assert lab.cuda.leaks == {}


def measured(lab: Lab) -> dict[str, Any]:
    shapes = [("x", (1, 2, 6, 5))]
    return run.compare(lab.root, backends=[NAME], shapes=shapes, threads=1, budget_s=0.3)


def test_a_row_of_an_engine_is_whole_and_survives_json(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    arguments = ["--backend", NAME, "--shape", "x=1x2x6x5", "--threads", "1", "--budget", "300ms"]
    assert main(["bench", str(lab.root), *arguments, "--json", str(path)]) == 0
    document = regression.read_document(path)
    assert (document["schema"], document["settings"]["device"]) == (2, "cuda")
    assert document["machine"]["gpu"] == {"names": ["RTX 4090"], "targets": ["sm_89"], "cuda": "13.0"}
    [row] = document["rows"]
    assert (row["label"], row["status"], row["device"]) == (f"{NAME} fp32", "ok", "cuda")
    assert row["parity"]["passed"]
    assert row["graph"] is True
    assert row["memory_bytes"]["gpu"] > 0
    parts = row["gpu_ms"]
    assert (parts["copy_in"], parts["device"], parts["copy_out"]) == (1.0, 1.0, 2.0)
    assert parts["enqueue"] > 0.0
    assert parts["calls"] >= 1
    file = lab.root / "engines" / "tensorrt-rtx-sm_89.engine"
    assert row["reproduce"] == (
        f"tensorrt_rtx --loadEngine={file} --shapes=x:1x2x6x5 --allocationStrategy=runtime --specializeStrategyDS=eager"
    )
    shown = "".join(capsys.readouterr().out.split())
    assert "".join(row["reproduce"].split()) in shown
    assert "ontheGPU" in shown
    text = report.markdown(document)
    assert f"| 1 | {NAME} fp32 | {parts_text(row)} |" in text
    assert f"    {row['reproduce']}" in text
    assert "1 threads on RTX 4090" in text
    page = report.html(document)
    assert "<h3>On the GPU</h3>" in page
    assert row["reproduce"] in page


def parts_text(row: dict[str, Any]) -> str:
    wall, enqueue = row["latency_ms"]["p50"], row["gpu_ms"]["enqueue"]
    return " | ".join(["yes", f"{wall:.3g}", "1", f"{enqueue:.3g}", "1", "2", "0"])


def test_a_row_stands_where_its_parts_cannot_be_timed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_FACTORY", "engine_fakes:open_without_events")
    document = measured(lab)
    [row] = document["rows"]
    assert (row["status"], row["gpu_ms"]) == ("ok", None)
    assert "cudaEventCreate failed" in row["gpu_reason"]
    text = report.markdown(document)
    assert "has no time on the GPU: CUDA's cudaEventCreate failed" in text
    assert "enqueue ms" not in text


def test_what_cannot_be_bound_is_timed_with_its_copies(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_FACTORY", "engine_fakes:open_unbindable")
    document = measured(lab)
    [row] = document["rows"]
    assert (row["status"], row["graph"], row["gpu_ms"]) == ("ok", None, None)
    assert row["parity"]["passed"]
    assert row["reproduce"] is None  # The vendor's tool would leave the copies out.
    assert "the size of 'y' depends on the data; what is timed is a run with its copies" in report.markdown(
        document
    )


def test_older_documents_are_still_read_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(make_document([make_row("onnxruntime fp32", 1.0)])))
    old = regression.read_document(path)
    assert old["schema"] == 1
    now = {"gpu_ms": {"device": 1.0}, "gpu_reason": None, "reproduce": "trtexec"}
    new = make_document([make_row("onnxruntime fp32", 2.0, **now)]) | {"schema": 2}
    [change], _ = regression.changes(old, new)
    assert (change.old_ms, change.new_ms) == (1.0, 2.0)
    for text in (report.markdown(old), report.html(old)):
        assert "GPU</h3>" not in text
        assert "device ms" not in text
        assert "vendor" not in text
