# SPDX-License-Identifier: Apache-2.0
"""The instructions that kernels are written for, and those that none may have."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Kernels, by their whole name; the architecture from which on a rule holds, and up to which; opcodes, each of which is
# wanted somewhere in the kernel.
RULES = (
    (r"gantk_variation_\w+_packed_\w+", "sm_75", "sm_120", (r"LDG\.E\.128",)),
    (r"gantk_variation_\w+_packed_\w+_gradient", "sm_75", "sm_120", (r"STG\.E\.128",)),
    (r"gantk_variation_isotropic_\w+", "sm_75", "sm_120", (r"MUFU\.RSQ",)),
    (r"gantk_gram_f16_n(chw|hwc)_\w+", "sm_75", "sm_120", (r"HMMA\.", r"LDSM\.")),
    (r"gantk_gram_bf16_n(chw|hwc)_\w+", "sm_80", "sm_120", (r"HMMA\.", r"LDSM\.")),
    (
        r"gantk_gram_(f16|bf16|tf32|exact)_n(chw|hwc)_\w+",
        "sm_80",
        "sm_120",
        (r"HMMA\.", r"LDGSTS\.E\.BYPASS\.128"),
    ),
    (r"gantk_gram_gradient_f16_n(chw|hwc)", "sm_75", "sm_120", (r"HMMA\.",)),
    (r"gantk_gram_gradient_(f16|bf16|tf32|exact)_n(chw|hwc)", "sm_80", "sm_120", (r"HMMA\.", r"LDGSTS\.E\.")),
    (
        r"gantk_to_picture_float16",
        "sm_75",
        "sm_120",
        (r"HMMA\.", r"LDSM\.16\.M88\.4", r"LDG\.E\.128", r"LDS\.(U\.)?64", r"MUFU\.EX2"),
    ),
    (r"gantk_gram_sm90_\w+", "sm_90a", "sm_90a", (r"HGMMA\.", r"UTMALDG\.")),
)
NEVER = {
    r"(RED|ATOM|ATOMG|ATOMS)\.\S*(F16|F32|F64|BF16)\S*": "adds floats in an order that depends on timing",
    r"(LDL|STL)\S*": "keeps something in local memory",
}

# A dependent launch waits (griddepcontrol.wait, which is ACQBULK) before it touches memory. PTX says so, and the
# interpreter sees to it; what the assembler makes of that is looked at here. Some kernels read their inputs before.
EARLY = {r"gantk_instance_norm_apply_\w+": r"LDG\.\S+"}
_WAIT = "ACQBULK"
_BEFORE = " before " + _WAIT
_MEMORY = r"(LDG|STG|LDGSTS|ATOM|ATOMG|RED|REDG|UTMA\w*|UBLK\w*)(\..*)?"


def before_waiting(opcodes: Sequence[str]) -> set[str]:
    """Of the opcodes of a kernel, in their order, those that touch global memory before it waits, marked as such."""
    end = opcodes.index(_WAIT) if _WAIT in opcodes else 0
    return {f"{opcode}{_BEFORE}" for opcode in opcodes[:end] if re.fullmatch(_MEMORY, opcode)}


def number(arch: str) -> int:
    return int(re.sub(r"\D", "", arch))


def faults(kernel: str, arch: str, opcodes: Sequence[str]) -> list[str]:
    """In words, what a kernel's machine code has and may not have, and what it lacks."""
    found = [
        f"{kernel} {why}" for bad, why in NEVER.items() if any(re.fullmatch(bad, each) for each in opcodes)
    ]
    allowed = [opcode for name, opcode in EARLY.items() if re.fullmatch(name, kernel)]
    for each in opcodes:
        early = each.removesuffix(_BEFORE)
        if early != each and not any(re.fullmatch(one, early) for one in allowed):
            found.append(f"{kernel} has {each}, before what an earlier launch does is done")
    for name, first, last, wanted in RULES:
        if re.fullmatch(name, kernel) and number(first) <= number(arch) <= number(last):
            lacking = (each for each in wanted if not any(re.match(each, opcode) for opcode in opcodes))
            found += [f"{kernel} has no {each}" for each in lacking]
    return found
