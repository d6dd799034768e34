// SPDX-License-Identifier: Apache-2.0
// For processors without AVX512-BF16: pairs are widened and multiplied one after the other.
#include "clones.hpp"
#include "nhwc_vectors.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

#define GANTK_TARGET __attribute__((always_inline))
#define GANTK_ENTRY GANTK_CLONES

// Bits of two bfloat16 in each word.
GANTK_INLINE void add_products(const Words& both, const Words& given, Floats& sum) {
    sum += reinterpret_cast<Floats>(both << 16) * reinterpret_cast<Floats>(given << 16);
    sum += reinterpret_cast<Floats>(both & 0xffff0000u) * reinterpret_cast<Floats>(given & 0xffff0000u);
}

// Rounded to nearest, ties to even.
GANTK_INLINE void store(const Floats& values, Bfloat* to) {
    const Words bits = reinterpret_cast<Words>(values);
    const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = bits >> 16 | 0x40u;
    *reinterpret_cast<StoredHalves*>(to) =
        __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, Halves);
}

#include "nhwc_loops.inl"

}  // namespace

const Loops kPortableLoops{convolve, multiply, transform_channels, transform_sums, add_moments, scale};

}  // namespace gantk::cpu::nhwc
