# SPDX-License-Identifier: Apache-2.0
"""What every kernel takes on every architecture, and the budget that holds it: `kernels/budget.json`.

    python tests/kernels/budget.py             # what differs from the budget
    python tests/kernels/budget.py --write     # make what is compiled now the budget

A unit is compiled to machine code by NVRTC, whose assembler reports registers, spills and shared memory, and
disassembled by cuobjdump. What was found is kept in a folder of this machine, by a hash of its sources. The budget
itself says what was judged when it was written: a hash of all that decides, so that only what has changed since has
to be compiled again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instructions import EARLY, NEVER, RULES, before_waiting, faults
from mutation import closure

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels"
INCLUDES = (KERNELS / "include", KERNELS / "cuda")
BUDGET = KERNELS / "budget.json"
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120")
OPTIONS = ("-std=c++17", "--ptxas-options=-v")
FACTS = 2  # Counts what `facts` keeps, so that an older kind is not taken for it.
Facts = dict[str, Any]

_USAGE = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)'.*?(?P<spills>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_FUNCTION = re.compile(r"\n\s*Function : (?P<kernel>\w+)\n(?P<code>.*?)(?=\n\s*Function : |\Z)", re.DOTALL)
_OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][\w.]*)")


def units() -> list[str]:
    """The names of the translation units."""
    return sorted(path.stem for path in (KERNELS / "cuda").glob("*.cu"))


def facts(unit: str, arch: str) -> dict[str, Facts]:
    """By kernel: `registers`, `spill_bytes`, `shared_bytes` (static) and `opcodes`, each of these once."""
    source = KERNELS / "cuda" / f"{unit}.cu"
    file = cache() / f"{unit}-{arch}-{digest(source)}.json"
    if file.exists():
        kept: dict[str, Facts] = json.loads(file.read_text())
        return kept
    cubin, log = compile_cubin(source.read_text(), arch, INCLUDES, source.name)
    found = usage(log)
    for kernel, opcodes in disassemble(cubin).items():
        found[kernel]["opcodes"] = opcodes
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as part:
        json.dump(found, part)
    Path(part.name).replace(file)
    return found


def cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"gantk-budget-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def digest(source: Path) -> str:
    """A hash of a unit, all that it includes, and what it is compiled with."""
    state = hashlib.sha256(f"{nvrtc_version()} {FACTS}".encode())
    for file in closure(source, INCLUDES):
        state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()[:24]


def compile_cubin(text: str, arch: str, includes: Sequence[Path], name: str) -> tuple[bytes, str]:
    """Machine code, and what the assembler says of it."""
    from cuda.bindings import nvrtc

    def checked(result: tuple[Any, ...]) -> Any:
        assert result[0] == nvrtc.nvrtcResult.NVRTC_SUCCESS, f"NVRTC: {result[0]}\n{log()}"
        return result[1] if len(result) > 1 else None

    def log() -> str:
        said = bytearray(nvrtc.nvrtcGetProgramLogSize(program)[1])
        nvrtc.nvrtcGetProgramLog(program, said)
        return said.decode(errors="replace").rstrip("\0")

    _, program = nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), 0, [], [])
    options = [f"--gpu-architecture={arch}", *OPTIONS]
    encoded = [option.encode() for option in (*options, *(f"-I{folder}" for folder in includes))]
    try:
        checked(nvrtc.nvrtcCompileProgram(program, len(encoded), encoded))
        cubin = bytearray(checked(nvrtc.nvrtcGetCUBINSize(program)))
        checked(nvrtc.nvrtcGetCUBIN(program, cubin))
        return bytes(cubin), log()
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def usage(log: str) -> dict[str, Facts]:
    """The resources of each kernel in the assembler's report."""
    found = {}
    for match in _USAGE.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found[match["kernel"]] = {
            "registers": int(match["registers"]),
            "spill_bytes": int(match["spills"]) + int(match["loads"]),
            "shared_bytes": int(shared[1]) if shared else 0,
        }
    return found


def disassemble(cubin: bytes) -> dict[str, list[str]]:
    """By kernel, the opcodes that it has, in alphabetic order, and what `before_waiting` says of them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool(), "-sass", file.name], capture_output=True, text=True, check=True)
    found = {}
    for match in _FUNCTION.finditer(done.stdout):
        opcodes = _OPCODE.findall(match["code"])
        found[match["kernel"]] = sorted({*opcodes, *before_waiting(opcodes)})
    return found


def tool() -> Path | None:
    """cuobjdump, wherever pip put it; `None` where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*/bin/cuobjdump")):
            return path
    return None


def nvrtc_version() -> str:
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    return f"{major}.{minor}"


def tool_version() -> str:
    return importlib.metadata.version("nvidia-cuda-cuobjdump")


def judgement(unit: str, budget: dict[str, Any]) -> str:
    """A hash of all that decides whether a unit keeps to its budget and to the rules for instructions."""
    numbers = (budget["nvrtc"], budget["units"].get(unit))
    rules = (OPTIONS, ARCHITECTURES, tool_version(), RULES, NEVER, EARLY)
    decisive = json.dumps((*rules, numbers), sort_keys=True)
    return hashlib.sha256((digest(KERNELS / "cuda" / f"{unit}.cu") + decisive).encode()).hexdigest()[:24]


def is_judged(unit: str, budget: dict[str, Any]) -> bool:
    """Whether just this unit was found to keep to just this budget when that was written."""
    return budget.get("judged", {}).get(unit) == judgement(unit, budget)


def measured(architectures: Sequence[str] = ARCHITECTURES) -> dict[str, dict[str, dict[str, list[int]]]]:
    """By unit, kernel and architecture: registers and bytes of static shared memory."""
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    for unit in units():
        kernels = found.setdefault(unit, {})
        for arch in architectures:
            for kernel, each in sorted(facts(unit, arch).items()):
                kernels.setdefault(kernel, {})[arch] = [each["registers"], each["shared_bytes"]]
    return found


def read() -> dict[str, Any]:
    """The budget: `nvrtc`, its version, and `units` as `measured` has them."""
    found: dict[str, Any] = json.loads(BUDGET.read_text())
    return found


def broken(architectures: Sequence[str] = ARCHITECTURES) -> list[str]:
    """In words, what no budget allows: spills, and faults of the instructions."""
    lines = []
    for unit, arch in itertools.product(units(), architectures):
        for kernel, each in facts(unit, arch).items():
            spills = [f"{kernel} spills {each['spill_bytes']} bytes"] if each["spill_bytes"] else []
            lines += [
                f"{unit} on {arch}: {line}" for line in (*spills, *faults(kernel, arch, each["opcodes"]))
            ]
    return lines


def write(found: dict[str, dict[str, dict[str, list[int]]]]) -> None:
    """Replace the budget; one line a kernel."""
    whole = {"nvrtc": nvrtc_version(), "units": found}
    judged = json.dumps({unit: judgement(unit, whole) for unit in sorted(found)})
    blocks = [
        f"  {json.dumps(unit)}: {{\n"
        + ",\n".join(
            f"   {json.dumps(kernel)}: {json.dumps(each)}" for kernel, each in sorted(kernels.items())
        )
        + "\n  }"
        for unit, kernels in sorted(found.items())
    ]
    text = ",\n".join(blocks)
    BUDGET.write_text(
        f'{{\n "nvrtc": "{nvrtc_version()}",\n "judged": {judged},\n "units": {{\n{text}\n }}\n}}\n'
    )


def differences(
    found: dict[str, dict[str, dict[str, list[int]]]], budget: dict[str, Any], architectures: Sequence[str]
) -> list[str]:
    """In words, what was found and is not in the budget, and the other way round."""
    lines = []
    for unit in sorted({*found, *budget["units"]}):
        one, other = found.get(unit, {}), budget["units"].get(unit, {})
        for kernel in sorted({*one, *other}):
            for arch in architectures:
                now, held = one.get(kernel, {}).get(arch), other.get(kernel, {}).get(arch)
                if now != held:
                    lines.append(f"{unit}: {kernel} on {arch}: {told(now)}; the budget has {told(held)}")
    return lines


def told(entry: list[int] | None) -> str:
    return "no such kernel" if entry is None else f"{entry[0]} registers, {entry[1]} bytes shared"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found, lines = measured(), broken()
    if options.write and not lines:
        write(found)
        return 0
    lines += differences(found, read(), ARCHITECTURES)
    print("\n".join(lines) or "as in the budget")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
