// SPDX-License-Identifier: Apache-2.0
// For processors with AVX-512, which have 32 registers of 16 lanes, and for those that have AVX512-BF16 too.
#include <immintrin.h>

#include "clones.hpp"
#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

constexpr int kLanes = 16, kMostAtOnce = 4, kMostSums = 24;
#include "nhwc_vectors.inl"

#define GANTK_TARGET GANTK_ENTRY __attribute__((always_inline))

namespace floats {

#define GANTK_ENTRY __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

using Element = float;

GANTK_TARGET inline void add_products(const Words& one, const Words& given, Floats& sum) {
    sum += reinterpret_cast<Floats>(one) * reinterpret_cast<Floats>(given);
}
GANTK_TARGET inline void load(const float* from, Floats& values) {
    values = *reinterpret_cast<const StoredFloats*>(from);
}
GANTK_TARGET inline void store(const Floats& values, float* to) { *reinterpret_cast<StoredFloats*>(to) = values; }

#include "nhwc_loops.inl"

#undef GANTK_ENTRY

}  // namespace floats

namespace bfloats {

#define GANTK_ENTRY __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

using Element = Bfloat;

GANTK_TARGET inline void add_products(const Words& one, const Words& given, Floats& sum) {
    sum = reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(one),
                                                    reinterpret_cast<__m512bh>(given)));
}
#include "bfloats_avx512.inl"

#include "nhwc_loops.inl"

}  // namespace bfloats

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace

const Processor kAvx512{"AVX-512", has_avx512, floats::kLoops, kAvx2.bfloats};
const Processor kAvx512Bf16{"AVX512-BF16", [] { return has_avx512() && __builtin_cpu_supports("avx512bf16"); },
                            floats::kLoops, bfloats::kLoops};

}  // namespace gantk::cpu::nhwc
