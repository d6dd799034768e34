// SPDX-License-Identifier: Apache-2.0
// For processors with AVX2, which have 16 registers of 8 lanes.
#include "clones.hpp"
#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

#define GANTK_ENTRY __attribute__((target("avx2,fma")))
#define GANTK_TARGET GANTK_ENTRY __attribute__((always_inline))

constexpr int kLanes = 8, kMostAtOnce = 2, kMostSums = 12;
#include "nhwc_vectors.inl"
#include "nhwc_loops_widened.inl"

}  // namespace

const Processor kAvx2{"AVX2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
                      floats::kLoops, bfloats::kLoops};

}  // namespace gantk::cpu::nhwc
