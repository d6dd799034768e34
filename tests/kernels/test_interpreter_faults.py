# SPDX-License-Identifier: Apache-2.0
"""Each check of the interpreter: a sound kernel passes, the same kernel with one fault seeded does not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import snippets_hopper
from judged import TRIALS
from ptx import BudgetExceeded, Fault, Unsupported
from snippets import Array, Snippet, interpret, ptx_of

pytestmark = TRIALS
WORDS = np.arange(256, dtype=np.uint32)
ANYTHING = np.zeros(256, np.uint32)


@dataclass(frozen=True)
class Seeded:
    """A sound kernel, what is replaced in it, and what the fault must say."""

    name: str
    body: str
    before: str
    after: str
    says: str
    grid: int = 1
    block: int = 128
    shared: int = 0
    arch: str = "sm_80"
    outside: str = ""
    inputs: tuple[Array, ...] = (WORDS,)
    fault: type[Fault] = Fault
    initial: bool = False

    def snippet(self) -> Snippet:
        return Snippet(
            self.name, "const u32* in = (const u32*)p.in[0]; u32* out = (u32*)p.out[0];" + self.body, self.inputs,
            (ANYTHING,), self.arch, self.grid, self.block, self.shared, self.outside,
            initial={0: ANYTHING} if self.initial else {},
        )  # fmt: skip


COPY = """
  __shared__ __align__(16) u32 tile[512];
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared_address(tile + 4 * t)), "l"(in + 4 * (t & 63)));
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.wait_group 0;" ::: "memory");
  __syncthreads();
  out[t] = tile[t];
  __syncthreads();
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared_address(tile + 4 * t)), "l"(in + 4 * (t & 63)));
  asm volatile("cp.async.wait_all;" ::: "memory");
  out[t + 128] = tile[4 * t];
"""

SEEDED = [
    Seeded("load_past_the_end", "out[t] = in[t + 128];", "t + 128", "t + 129", "global load of 4 bytes out of bounds"),
    Seeded("load_before_the_start", "out[t] = in[int(t) + 0];", "int(t) + 0", "int(t) - 1", "global load.*out of bounds"),
    Seeded("store_past_the_end", "out[2 * t + 1] = 0;", "t + 1", "t + 2", "global store.*out of bounds"),
    Seeded("address_cut_to_32_bits", "out[t] = *(const u32*)((u64)(in + t) & ~0ull);", "~0ull", "0xFFFFFFFFull",
           "out of bounds"),
    Seeded("misaligned_load", "const uint2 v = *(const uint2*)(in + t / 2 * 2); out[t] = v.x + v.y;", "t / 2 * 2", "t / 2 * 2 + 1",
           "misaligned global load of 8"),
    Seeded("misaligned_store", "((uint4*)(out + 4 * (t / 4)))[0] = make_uint4(1, 1, 1, 1);", "(t / 4)", "(t / 4) + 2",
           "misaligned global store of 16"),
    Seeded("never_written", "out[t] = t; __syncthreads(); out[t + 128] = out[t ^ 1];", "= out[t ^ 1]", "= out[(t ^ 1) + 128]",
           "uninitialised global memory"),
    Seeded("block_race_write", "if (blockIdx.x == 0 || t > 0) out[t + 128 * blockIdx.x] = t;", "128 * blockIdx.x", "0",
           "race between blocks", grid=2),
    Seeded("block_race_read", "out[t + 128 * blockIdx.x] = t; if (t == 0) out[128 * blockIdx.x] = out[1 + 128 * blockIdx.x];",
           "out[1 + 128 * blockIdx.x]", "out[1]", "another block", grid=2),
    Seeded("stale_read_only_cache", "out[t] = t; u32 v = 0; asm volatile(\"ld.global.nc.u32 %0, [%1];\" : \"=r\"(v) :"
           " \"l\"(in + t)); out[t + 128] = v;", '"l"(in + t)', '"l"(out + t)', "read-only cache"),
    Seeded("two_values_in_one_place", "out[t] = t;", "out[t]", "out[t / 2]", "different values to one place"),
    Seeded("warps_meet_in_global_memory", "out[t] = t; __syncthreads(); out[t + 128] = out[t ^ 64];", "__syncthreads();", "",
           "race of warps in global memory: warp . reads what warp . wrote"),
    Seeded("warps_overwrite_in_global_memory", "if (t < 32) out[t] = 1; __syncthreads(); if (t >= 96) out[t - 96] = 1;",
           "__syncthreads();", "", "warp 3 overwrites what warp 0 wrote"),
    Seeded("warps_overwrite_what_others_read", "const u32 v = out[t ^ 64]; __syncthreads(); out[t] = v;",
           "__syncthreads();", "", "may still read", initial=True),
    Seeded("shared_past_the_end", "__shared__ u32 s[128]; s[t] = t; __syncthreads(); out[t] = s[t ^ 127];", "s[t ^ 127]",
           "s[(t ^ 127) + 1]", "shared load of 4 bytes out of bounds"),
    Seeded("shared_store_past_the_end", "__shared__ u32 s[128]; s[t] = t; __syncthreads(); out[t] = s[t ^ 127];",
           "s[t] = t", "s[t + 1] = t", "shared store.*out of bounds"),
    Seeded("shared_misaligned", "__shared__ __align__(16) u32 s[132]; s[t] = t; __syncthreads();"
           "const uint2 v = *(uint2*)(s + t / 2 * 2); out[t] = v.x + v.y;", "t / 2 * 2)", "t / 2 * 2 + 1)", "misaligned shared load"),
    Seeded("no_barrier", "__shared__ u32 s[128]; s[t] = t; __syncthreads(); out[t] = s[t ^ 64];", "__syncthreads();", "",
           "shared-memory race: warp . reads"),
    Seeded("no_barrier_before_overwriting", "__shared__ u32 s[128]; s[t] = t; __syncthreads(); out[t] = s[t ^ 64];"
           "__syncthreads(); /**/ s[t] = 1;", "__syncthreads(); /**/", "", "may still read"),
    Seeded("two_warps_write", "__shared__ u32 s[128]; s[t] = t; __syncthreads(); out[t] = s[t];", "s[t] = t",
           "s[t % 64] = 5", "two warps write"),
    Seeded("no_warp_barrier", "__shared__ u32 s[128]; s[t] = t; __syncwarp(); out[t] = s[t ^ 1];", "__syncwarp();", "",
           "race within warp"),
    Seeded("barrier_in_a_branch", "__shared__ u32 s[128]; s[t] = t; if (t < 128) { __syncthreads(); } out[t] = s[t ^ 64];",
           "t < 128", "t < 100", "deadlock|race"),
    Seeded("half_a_block_skips_the_barrier", "if (t < 128) { __syncthreads(); } out[t] = 1;", "t < 128", "t < 64",
           "deadlock.*64 thread.s. have exited"),
    Seeded("two_different_barriers", "if (in[t] < 128) { __syncthreads(); out[t] = 1; } else { __syncthreads(); out[t] = 2; }",
           "in[t] < 128", "in[t] < 64", "divergent barrier"),
    Seeded("exited_before_the_barrier", "if (in[t] > 200) return; __syncthreads(); out[t] = 1;", "> 200", "> 100",
           "have exited"),
    Seeded("barrier_count", "if (t < 64) asm volatile(\"bar.arrive 1, 128;\"); else asm volatile(\"bar.sync 1, 128;\");"
           " out[t] = 1;", "bar.sync 1, 128", "bar.sync 1, 160", "128 and for 160|160 and for 128"),
    Seeded("shuffle_in_a_branch", "u32 v = t; if (in[t] % 32 < 32) v = __shfl_xor_sync(~0u, v, 1); out[t] = v;", "< 32",
           "< 16", "deadlock|have exited"),
    Seeded("shuffle_of_a_lane_not_named", "u32 v = t; if (t % 32 < 16) v = __shfl_xor_sync(0xFFFF, v, 1); out[t] = v;",
           "v, 1", "v, 16", "does not name"),
    Seeded("member_mask_without_the_caller", "u32 v = t; if (in[t] % 32 < 16) v = __shfl_xor_sync(0xFFFF, v, 1); out[t] = v;",
           "0xFFFF", "0xFFFE", "does not name"),
    Seeded("endless", "u32 v = t; while (v < 100) v += 1 + (in[0] & 1); out[t] = v;", "v += 1 + (in[0] & 1)",
           "v += in[0] & 1", "more than", fault=BudgetExceeded),
    Seeded("copy_not_waited_for", COPY, "cp.async.wait_group 0;", "cp.async.wait_group 1;", "cp.async of warp . wrote"),
    Seeded("copy_without_its_barrier", COPY, "__syncthreads();\n  out[t] = tile[t];", "out[t] = tile[t];",
           "cp.async of warp . wrote"),
    Seeded("copy_over_what_is_read", COPY, "__syncthreads();\n  asm", "asm", "may still read"),
    Seeded("second_copy_not_waited_for", COPY, 'asm volatile("cp.async.wait_all;" ::: "memory");', "", "cp.async of warp"),
    Seeded("copy_misaligned", COPY, "in + 4 * (t & 63)", "in + 4 * (t & 31) + 1", "misaligned global source"),
    Seeded("copy_past_the_end", COPY, "in + 4 * (t & 63)", "in + 4 * (t & 127)", "out of bounds"),
    Seeded("atomic_on_floats", "out[t] = atomicAdd((u32*)out + 128 + t, 1u);", "(u32*)out + 128 + t, 1u",
           "(float*)out + 128 + t, 1.f", "depends on the order", fault=Unsupported, initial=True),
    Seeded("last_block_without_a_fence",
           "__shared__ bool last; if (t == 0) { out[blockIdx.x] = 7; __threadfence(); last = atomicInc(out + 9, 1) == 1;"
           "__threadfence(); } __syncthreads(); if (last) out[32 + t] = out[t & 1];",
           "= 7; __threadfence();", "= 7;", "reads what another block wrote", grid=2, initial=True),
]  # fmt: skip


@pytest.mark.parametrize("seeded", SEEDED, ids=[s.name for s in SEEDED])
def test_a_seeded_fault_is_seen(seeded: Seeded) -> None:
    sound = seeded.snippet()
    interpret(sound)
    assert seeded.body.count(seeded.before) >= 1
    with pytest.raises(seeded.fault, match=seeded.says):
        interpret(replace(sound, body=sound.body.replace(seeded.before, seeded.after, 1)))


@dataclass(frozen=True)
class SeededHopper:
    """A change to the PTX or the source of one of the snippets of sm_90a."""

    name: str
    snippet: str
    before: str
    after: str
    says: str
    in_ptx: bool = False


HOPPER = [
    SeededHopper("no_wait_for_full", "pipeline", "wait(full + i % 2, i / 2 & 1);", "", "bulk copy .mbarrier 0. wrote"),
    SeededHopper("no_wait_for_empty", "pipeline", "wait(empty + i % 2, (i / 2 & 1) ^ 1);", "", "may still read|writes byte"),
    SeededHopper("wrong_parity", "pipeline", "wait(full + i % 2, i / 2 & 1)", "wait(full + i % 2, (i / 2 & 1) ^ 1)",
                 "wrote|read"),
    SeededHopper("too_few_arrivals", "pipeline", "make(empty + i, 4)", "make(empty + i, 5)", "deadlock.*lacks 1 arrival"),
    SeededHopper("too_many_arrivals", "pipeline", "make(empty + i, 4)", "make(empty + i, 3)", "more arrivals|still read"),
    SeededHopper("too_many_bytes_expected", "pipeline", "expect(full + i % 2, 512)", "expect(full + i % 2, 528)",
                 "deadlock.*16 byte"),
    SeededHopper("early_arrival", "pipeline", "wait(full + i % 2, i / 2 & 1);\n      sum",
                 "if (t % 32 == 0) arrive(empty + i % 2); wait(full + i % 2, i / 2 & 1);\n      sum", "more arrivals|read|writes byte"),
    SeededHopper("init_not_published", "pipeline", "ready(); }\n  __syncthreads();", "ready(); }", "before its initial|no mbarrier"),
    SeededHopper("init_not_fenced", "pipeline", "ready(); }", "}", "no fence.mbarrier_init"),
    SeededHopper("copy_nobody_waits_for", "pipeline", "i < 5; ++i) {\n      wait(full", "i < 4; ++i) {\n      wait(full",
                 "before anyone has waited for its last copy"),
    SeededHopper("odd_number_of_registers", "pipeline", "aligned.u32 40", "aligned.u32 44", "a multiple of 8 from 24"),
    SeededHopper("bulk_not_in_units", "pipeline", "512, full", "500, full", "not in 16-byte units"),
    SeededHopper("tile_not_waited_for", "tile_128_0_0_0", "wait(bar, 0);", "", "bulk copy"),
    SeededHopper("tile_misaligned", "tile_128_0_0_0", "tile3(memory,", "tile3(memory + 64,", "misaligned shared tile"),
    *(SeededHopper(f"tile_between_units_{name}_{x}", snippet, "bar, 0, 0, 0)", f"bar, {x}, 0, 0)",
                   f"a tile at element {x} of 2 bytes: not at a multiple of 16")
      for name, snippet in (("swizzled", "tile_128_0_0_0"), ("plain", "tile_0_0_0_0")) for x in (4, -4, 100)),
    SeededHopper("tile_of_another_rank", "tile_128_0_0_0", "tile3(memory, p.map, bar, 0, 0, 0)",
                 "tile2(memory, p.map, bar, 0, 0)", "tensor map of rank 3"),
    SeededHopper("tile_of_another_map", "tile_128_0_0_0", "p.map, bar", "p.in, bar", "no tensor map"),
    SeededHopper("no_proxy_fence", "wgmma_bf16_64_nn_128", "proxy(); ", "", "without fence.proxy.async"),
    SeededHopper("no_barrier_before_wgmma", "wgmma_bf16_64_nn_128", "__syncthreads();", "", "race: warp . lets an engine read"),
    SeededHopper("no_wgmma_fence", "wgmma_bf16_64_nn_128", "fence();", "", "without wgmma.fence"),
    SeededHopper("odd_number_of_columns", "wgmma_bf16_64_nn_128", "m64n64k16", "m64n65k16", "a multiple of 8 up to 256"),
    SeededHopper("no_wait_group", "wgmma_bf16_64_nn_128", "settle<0>();\n", "", "before wgmma.wait_group"),
    SeededHopper("no_commit_group", "wgmma_bf16_64_nn_128", "commit();", "", "before wgmma.wait_group"),
    SeededHopper("wait_group_too_weak", "wgmma_bf16_256_nn_128_pending1", "settle<0>();", "settle<1>();",
                 "before wgmma.wait_group"),
    SeededHopper("operand_overwritten_in_flight", "wgmma_bf16_256_nn_128_pending1", "commit(); settle<1>();",
                 "commit(); settle<1>(); ((u32*)memory)[t] = 1;", "wgmma of warp group 0 may still read"),
    SeededHopper("accumulator_written_in_flight", "wgmma_bf16_256_nn_128_pending1", "commit(); settle<1>();",
                 "commit(); d[3] += 1.f; settle<1>();", "accumulator of wgmma is touched"),
    SeededHopper("descriptor_past_the_end", "wgmma_bf16_64_nn_128", "matrix(memory + 8192 +", "matrix(memory + 9216 +",
                 "wgmma reads shared memory out of bounds"),
    SeededHopper("descriptors_differ", "wgmma_bf16_64_nn_128", "matrix(memory + 0 +", "matrix(memory + t * 16 +",
                 "different descriptors"),
    SeededHopper("part_of_a_warp_group", "wgmma_bf16_64_nn_128", "fence();\n", "if (p.in[2] == nullptr && t > 64) return; fence();\n",
                 "have exited|collective"),
]  # fmt: skip


@pytest.mark.parametrize("seeded", HOPPER, ids=[s.name for s in HOPPER])
def test_a_seeded_fault_of_hopper_is_seen(seeded: SeededHopper) -> None:
    sound = next(s for s in snippets_hopper.SNIPPETS if s.name == seeded.snippet)
    assert seeded.before in sound.body
    faulty = replace(sound, body=sound.body.replace(seeded.before, seeded.after))
    with pytest.raises(Fault, match=seeded.says):
        interpret(faulty)


def test_registers_that_nobody_gave_back_are_not_there_to_claim() -> None:
    """384 threads have 168 each; two of three warp groups may have 232 once the third has come down to 40."""
    body = """
      if (t < 128) { %s } else { asm volatile("setmaxnreg.inc.sync.aligned.u32 232;"); }
      ((u32*)p.out[0])[t] = t;
    """
    release = 'asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");'
    sound = Snippet("registers", body % release, (), (np.arange(384, dtype=np.uint32),), "sm_90a", block=384)
    np.testing.assert_array_equal(interpret(sound)[0], sound.expected[0])
    with pytest.raises(Fault, match="claims 80896 of 65536 registers"):
        interpret(replace(sound, body=body % ""))


def test_an_unknown_instruction_raises_with_its_text() -> None:
    snippet = Snippet("unknown", "((u32*)p.out[0])[t] = t * 3;", (), (np.zeros(32, np.uint32),))
    ptx = (
        ptx_of(snippet.source, snippet.arch).replace("mul.lo.s32", "sad.s32").replace("mul.lo.u32", "sad.u32")
    )
    assert "sad." in ptx
    with pytest.raises(Unsupported, match=r"`sad\."):
        interpret(snippet, ptx)


def test_parameters_of_another_size_are_refused() -> None:
    snippet = Snippet("short", "((u32*)p.out[0])[t] = 1;", (), (np.zeros(32, np.uint32),))
    ptx = ptx_of(snippet.source, snippet.arch).replace("_param_0[192]", "_param_0[200]")
    with pytest.raises(Fault, match="takes 200 bytes of parameters, 192 were given"):
        interpret(snippet, ptx)


def test_blocks_of_more_threads_than_a_kernel_takes_are_refused() -> None:
    snippet = Snippet("crowded", "((u32*)p.out[0])[t] = 1;", (), (np.zeros(32, np.uint32),))
    ptx = ptx_of(snippet.source, snippet.arch)
    interpret(snippet, ptx)
    assert ".maxntid 32" in ptx
    with pytest.raises(Fault, match="31 threads a block at most, not 32"):
        interpret(snippet, ptx.replace(".maxntid 32", ".maxntid 31"))
