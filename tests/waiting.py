# SPDX-License-Identifier: Apache-2.0
"""What a library's threads do between runs."""

from __future__ import annotations

import time
from collections.abc import Callable


def busy_s_after(run: Callable[[], object]) -> float:
    """The seconds that cores of this process are busy in the tenth of a second after some runs."""
    for _ in range(3):
        run()
    before = time.process_time()
    time.sleep(0.1)
    return time.process_time() - before
