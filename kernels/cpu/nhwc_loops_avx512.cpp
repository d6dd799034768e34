// SPDX-License-Identifier: Apache-2.0
// For processors with AVX512-BF16.
#include <immintrin.h>

#include "clones.hpp"
#include "nhwc_vectors.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

#define GANTK_ENTRY __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#define GANTK_TARGET GANTK_ENTRY __attribute__((always_inline))

GANTK_TARGET inline void add_products(const Words& both, const Words& given, Floats& sum) {
    sum = reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(both),
                                                    reinterpret_cast<__m512bh>(given)));
}

GANTK_TARGET inline void store(const Floats& values, Bfloat* to) {
    *reinterpret_cast<StoredHalves*>(to) =
        reinterpret_cast<Halves>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(values)));
}

#include "nhwc_loops.inl"

}  // namespace

const Loops kAvx512Loops{convolve, multiply, transform_channels, transform_sums, add_moments, scale};

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bf16");
}

}  // namespace gantk::cpu::nhwc
