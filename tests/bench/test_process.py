# SPDX-License-Identifier: Apache-2.0
"""Worker processes: the protocol, every way to fail, and that none is left behind."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import bench_fakes as fakes
import numpy as np
import pytest

from gantk.bench import load as interference
from gantk.bench.process import Worker, WorkerError
from gantk.bench.protocol import decode, encode
from gantk.bench.worker import Session, serve, time_calls

TIMEOUT_S = 20.0


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker("fake", tmp_path, threads=1) as started:
        yield started


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    path = tmp_path / "feeds.npz"
    np.savez(path, latent=np.arange(8, dtype=np.float32).reshape(2, 4))
    return path


def load(worker: Worker, feeds: Path, **options: object) -> dict[str, object]:
    answer = worker.ask(TIMEOUT_S, do="load", factory="bench_fakes:make", options=options, imports=["json"])
    worker.ask(TIMEOUT_S, do="feed", path=str(feeds))
    return answer


def test_a_whole_conversation(worker: Worker, feeds: Path, tmp_path: Path) -> None:
    loaded = load(worker, feeds, nap_s=0.002)
    assert (loaded["backend"], loaded["precision"]) == ("fake", "fp32")
    target = tmp_path / "out.npz"
    worker.ask(TIMEOUT_S, do="output", path=str(target))
    with np.load(target) as arrays:
        np.testing.assert_allclose(arrays["picture"], np.tanh([[0.0, 1.0], [4.0, 5.0]]), rtol=1e-6)
    durations = worker.ask(TIMEOUT_S, do="run", warmup_s=0.0, block_s=10.0, most=5)["ns"]
    assert len(durations) == 5
    assert min(durations) >= 2e6
    held = worker.ask(TIMEOUT_S, do="memory")
    assert 2**20 < held["rss_bytes"] <= held["peak_rss_bytes"]


def test_blocks_do_not_go_through_what_was_there_before_them(feeds: Path) -> None:
    session = Session()
    session.load("bench_fakes:make", {}, [])
    session.feed(str(feeds))
    before = gc.get_freeze_count()
    here: list[list[int]] = [[] for _ in range(1000)]
    session.run(0.0, 0.0, 1)
    assert gc.get_freeze_count() >= before + len(here)
    assert gc.isenabled()


def test_errors_are_answers_and_the_worker_lives_on(worker: Worker, feeds: Path) -> None:
    with pytest.raises(WorkerError, match="wants `load` and `feed` first"):
        worker.ask(TIMEOUT_S, do="run", warmup_s=0.0, block_s=0.0, most=1)
    with pytest.raises(
        WorkerError, match="cannot read `none`: No such file or directory; check the path"
    ) as caught:
        options = {
            "path": "none",
            "precision": "fp32",
            "form": "plain",
            "backend": "x",
            "device": "cpu",
            "threads": 1,
        }
        worker.ask(TIMEOUT_S, do="load", factory="gantk.bench.subject:open_file", options=options, imports=[])
    assert "\n" not in str(caught.value)
    with pytest.raises(WorkerError, match="'dance' is not a request; known are load, feed"):
        worker.ask(TIMEOUT_S, do="dance")
    with pytest.raises(WorkerError, match="ValueError: no such kernel"):
        worker.ask(
            TIMEOUT_S,
            do="load",
            factory="bench_fakes:make",
            options={"trouble": "raise", "when": "open"},
            imports=[],
        )
    with pytest.raises(WorkerError, match="ModuleNotFoundError"):
        worker.ask(TIMEOUT_S, do="load", factory="no_such_module:make", options={}, imports=[])
    assert load(worker, feeds)["backend"] == "fake"


def test_an_error_is_told_where_its_log_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=write, flush=lambda: None))
    request = {"do": "load", "factory": "no_such_module:make", "options": {}, "imports": []}
    answers = io.BytesIO()
    serve(io.BytesIO(encode(request)), answers)
    assert "ModuleNotFoundError" in decode(answers.getvalue())["error"]


def test_a_place_without_room_for_outputs_is_named(worker: Worker, feeds: Path, tmp_path: Path) -> None:
    load(worker, feeds)
    target = tmp_path / "out.npz"
    target.symlink_to("/dev/full")
    with pytest.raises(
        WorkerError, match=r"out\.npz`: No space left on device; .*; TMPDIR=FOLDER names a place"
    ):
        worker.ask(TIMEOUT_S, do="output", path=str(target))


def test_a_worker_that_aborts_says_how_it_died(worker: Worker) -> None:
    options = {"trouble": "abort", "when": "open"}
    with pytest.raises(WorkerError, match=r"killed by SIGABRT: .*the vendor's last words"):
        worker.ask(TIMEOUT_S, do="load", factory="bench_fakes:make", options=options, imports=[])
    with pytest.raises(WorkerError):
        worker.ask(TIMEOUT_S, do="memory")


def test_a_worker_that_leaves_says_its_status(worker: Worker) -> None:
    options = {"trouble": "exit", "when": "open"}
    with pytest.raises(WorkerError, match="ended with status 7"):
        worker.ask(TIMEOUT_S, do="load", factory="bench_fakes:make", options=options, imports=[])


def test_a_worker_that_hangs_is_killed_with_what_it_started(worker: Worker, tmp_path: Path) -> None:
    note = tmp_path / "child"
    options = {"note": str(note), "trouble": "hang", "when": "open"}
    with pytest.raises(WorkerError, match="no answer to `load` within 2 s"):
        worker.ask(2.0, do="load", factory="bench_fakes:make_with_child", options=options, imports=[])
    assert fakes.wait_dead([worker.pid, int(note.read_text())])


@pytest.mark.parametrize("trouble", ["abort", "exit"])
def test_what_a_worker_started_ends_with_it_when_it_dies_by_itself(
    worker: Worker, tmp_path: Path, trouble: str
) -> None:
    note = tmp_path / "child"
    options = {"note": str(note), "trouble": trouble, "when": "open"}
    with pytest.raises(WorkerError):
        worker.ask(TIMEOUT_S, do="load", factory="bench_fakes:make_with_child", options=options, imports=[])
    assert fakes.wait_dead([int(note.read_text())])


@pytest.mark.parametrize("asked", [True, False])
def test_what_a_worker_started_ends_with_it_when_it_is_closed(tmp_path: Path, asked: bool) -> None:
    note = tmp_path / "child"
    with Worker("fake", tmp_path, threads=1) as worker:
        options = {"note": str(note)}
        worker.ask(TIMEOUT_S, do="load", factory="bench_fakes:make_with_child", options=options, imports=[])
        if not asked:  # It is gone before anybody asks.
            os.kill(worker.pid, signal.SIGKILL)
            worker.pause()
    assert fakes.wait_dead([int(note.read_text())])


def test_a_paused_worker_stands_still_and_goes_on(worker: Worker) -> None:
    worker.ask(TIMEOUT_S, do="memory")
    worker.pause()
    state = ""
    for _ in range(100):
        state = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T":
            break
        time.sleep(0.01)
    assert state == "T"
    assert worker.ask(TIMEOUT_S, do="memory")["rss_bytes"] > 0


def test_close_ends_a_paused_worker(tmp_path: Path) -> None:
    worker = Worker("fake", tmp_path, threads=1)
    worker.ask(TIMEOUT_S, do="memory")
    worker.pause()
    worker.close()
    assert not fakes.is_alive(worker.pid)
    worker.close()


def test_something_that_does_not_speak_the_protocol(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "print('hello', flush=True); input()")
    worker = Worker("stranger", tmp_path, threads=1, command=command)
    with worker, pytest.raises(WorkerError, match="does not speak the protocol"):
        worker.ask(TIMEOUT_S, do="memory")
    assert not fakes.is_alive(worker.pid)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_die_with_their_parent_even_while_stopped(tmp_path: Path, how: signal.Signals) -> None:
    program = f"""
import signal
import time
from pathlib import Path
from gantk.bench.process import Worker
signal.signal(signal.SIGINT, signal.default_int_handler)  # Shells let what they start in the background ignore it.
with Worker("a", Path({str(tmp_path)!r}), 1) as a, Worker("b", Path({str(tmp_path)!r}), 1) as b:
    a.ask(20, do="memory"); b.ask(20, do="memory"); b.pause()
    print(a.pid, b.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(parent.pid, how)
    assert fakes.wait_dead(pids)


def test_the_timing_loop_costs_less_than_a_microsecond() -> None:
    calls = 20_000
    best_s = min(_loop_s(calls) for _ in range(7))
    assert best_s / calls < 1e-6 * _slowness()
    measured = min(np.median(time_calls(lambda: None, 10.0, calls)) for _ in range(7))
    assert measured < 1000 * _slowness(), "what is measured of an empty call, in ns"


def _loop_s(calls: int) -> float:
    start = time.perf_counter()
    time_calls(lambda: None, 10.0, calls)
    return time.perf_counter() - start


def _slowness() -> float:
    """How much slower than usual this machine is now, at least 1: other work must not fail the test."""
    start = time.perf_counter()
    sum(range(1_000_000))
    return max(1.0, (time.perf_counter() - start) / 0.02)


class Graph:
    """A call on a GPU that computes something else than the runner does without a graph."""

    is_graph = False

    def __call__(self, stream: int) -> None:
        assert stream == -1

    def fetch(self) -> dict[str, np.ndarray]:
        return {"y": np.full(3, 7.0)}


def test_what_is_judged_is_what_is_timed(tmp_path: Path) -> None:
    session = Session()
    session._runner = SimpleNamespace(
        launch=None,
        bind=lambda feeds: Graph(),
        run=lambda feeds: {"y": np.ones(3)},
        memory_bytes={"a": 1, "b": 2},
    )
    np.savez(tmp_path / "feeds.npz", x=np.ones(3))
    session.feed(str(tmp_path / "feeds.npz"))
    assert session.output(str(tmp_path / "y.npz"))["graph"] is False
    with np.load(tmp_path / "y.npz") as made:
        assert made["y"].tolist() == [7.0] * 3
    assert session.memory()["gpu_bytes"] == 3


def test_what_a_process_spent_that_is_gone_is_not_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """At first it had spent 500 ticks; of the 100 since then of this machine 40 were ours."""
    machine, ticks = iter([(1000, 600), (1100, 650)]), {os.getpid(): 10, 7: 500}
    monkeypatch.setattr(interference, "_machine_ticks", lambda cores: next(machine))
    monkeypatch.setattr(interference, "_process_ticks", lambda pid: ticks.get(pid, 0))
    watch = interference.Interference([7])
    ticks[os.getpid()] += 40
    del ticks[7]
    assert watch.share() == pytest.approx(0.1)


def test_memory_sees_an_allocation() -> None:
    # In a process of its own: this one may give back what other tests left behind at that very moment.
    code = (
        "import numpy as np\nfrom gantk.bench.worker import memory\nbefore = memory()['rss_bytes']\n"
        "block = np.ones(2**23)\nprint((memory()['rss_bytes'] - before) / block.nbytes)"
    )
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(grown) > 0.9
