# SPDX-License-Identifier: Apache-2.0
"""A command that was told to end ends, also where a library does not return, and not while files are put away."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BEGIN = """
import hashlib, os, signal, sys, time
import gantk.cli.watchdog as w, gantk.runtime.describe as d
from gantk.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
w.PATIENCE_S = 0.3
"""
# Some minutes in OpenSSL, which Python's handlers wait for.
STUCK = """
d.describe = lambda _: (print("on", flush=True), hashlib.pbkdf2_hmac("sha512", b"x", b"x", 2**31 - 1))
sys.exit(main(["info", "x"]))
"""


def ran(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BEGIN + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("terminal", ["there", "gone"])
def test_a_library_that_does_not_return_keeps_no_command_from_ending(
    tmp_path: Path, number: int, terminal: str
) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN + STUCK],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        time.sleep(0.5)  # Then it is in there.
        if terminal == "gone":
            os.close(ours)
        process.send_signal(number)
        assert process.wait(10) == 128 + number
    if terminal == "there":
        assert os.read(ours, 100).decode().strip() == "interrupted, while a library was computing"
        os.close(ours)


def test_who_takes_a_signal_over_is_left_to_it() -> None:
    """As a training, that ends after its step; the signal is then nobody's any more."""
    done = ran("""
from gantk.train.interrupt import Interruption

def work(_):
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        assert interruption.requested
    time.sleep(1)
    print("saved")
    sys.exit(7)

d.describe = work
sys.exit(main(["info", "x"]))
""")
    assert "saved" in done.stdout
    assert "interrupted" not in done.stderr


def test_of_two_signals_and_one_call_of_their_handler_the_second_ends_nothing() -> None:
    """Python calls a handler once for all that came while a library computed; files are put away then."""
    done = ran("""
watchdog = w.Watchdog(lambda number: True)
os.write(watchdog._told, bytes([signal.SIGINT]))
time.sleep(0.1)
os.write(watchdog._told, bytes([signal.SIGINT]))
watchdog.hear()
time.sleep(1)
print("put away")
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "put away\n", "")


def test_a_forked_childs_signals_end_no_parent() -> None:
    done = ran("""
watchdog = w.Watchdog(lambda number: True)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
os.wait()
time.sleep(1)
print("on")
""")
    assert (done.returncode, done.stdout) == (0, "on\n"), done.stderr


def test_a_watchdog_that_is_closed_leaves_nothing() -> None:
    done = ran("""
import threading
before = len(os.listdir("/proc/self/fd")), threading.active_count()
for _ in range(20):
    w.Watchdog(lambda number: True).close()
time.sleep(0.3)
assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
assert signal.set_wakeup_fd(-1) == -1
""")
    assert done.returncode == 0, done.stderr
