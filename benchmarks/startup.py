# SPDX-License-Identifier: Apache-2.0
"""What `import gantk`, `gantk --help` and opening a backend cost in time, in fresh processes. Prints JSON.

    python benchmarks/startup.py [--rounds 20]

Every round starts each contender once, in turns; `over_bare_ms` is the difference of the medians from a bare
`python -c pass`. Run it twice on a new checkout: the first run compiles the byte code.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

CONTENDERS = {
    "bare python": ["-c", "pass"],
    "import gantk": ["-c", "import gantk"],
    "gantk --help": ["-m", "gantk", "--help"],
    "gantk info -h": ["-m", "gantk", "info", "-h"],
    "gantk generate -h": ["-m", "gantk", "generate", "-h"],
    "import gantk; gantk.open": ["-c", "import gantk; gantk.open"],
}
LIMITS_MS = {"import gantk": ("over_bare_ms", 60.0), "gantk --help": ("p50_ms", 250.0)}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, arguments in CONTENDERS.items():
            times[name].append(1e3 * seconds(arguments))
    bare = statistics.median(times["bare python"])
    rows: list[dict[str, Any]] = []
    for name, values in times.items():
        p50 = statistics.median(values)
        row = {"what": name, "p50_ms": p50, "min_ms": min(values), "over_bare_ms": p50 - bare}
        if name in LIMITS_MS:
            field, limit = LIMITS_MS[name]
            row |= {"limit_ms": limit, "holds": row[field] < limit}
        rows.append(row)
    about = {"benchmark": "start-up", "python": platform.python_version(), "machine": platform.processor()}
    print(json.dumps({**about, "rounds": rounds, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
