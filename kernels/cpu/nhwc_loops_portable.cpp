// SPDX-License-Identifier: Apache-2.0
// For any processor, and for those with AVX2, which have 16 registers of 8 lanes.
#include "clones.hpp"
#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

#define GANTK_TARGET __attribute__((always_inline))
#define GANTK_ENTRY GANTK_CLONES

constexpr int kLanes = 8, kMostAtOnce = 2;
#include "nhwc_vectors.inl"

namespace floats {

using Element = float;

GANTK_INLINE void add_products(const Words& one, const Words& given, Floats& sum) {
    sum += reinterpret_cast<Floats>(one) * reinterpret_cast<Floats>(given);
}
GANTK_INLINE void load(const float* from, Floats& values) { values = *reinterpret_cast<const StoredFloats*>(from); }
GANTK_INLINE void store(const Floats& values, float* to) { *reinterpret_cast<StoredFloats*>(to) = values; }

#include "nhwc_loops.inl"

}  // namespace floats

namespace bfloats {

using Element = Bfloat;

// The two of a word are widened and multiplied one after the other.
GANTK_INLINE void add_products(const Words& one, const Words& given, Floats& sum) {
    sum += reinterpret_cast<Floats>(one << 16) * reinterpret_cast<Floats>(given << 16);
    sum += reinterpret_cast<Floats>(one & 0xffff0000u) * reinterpret_cast<Floats>(given & 0xffff0000u);
}
GANTK_INLINE void load(const Bfloat* from, Floats& values) {
    values =
        reinterpret_cast<Floats>(__builtin_convertvector(*reinterpret_cast<const StoredHalves*>(from), Words) << 16);
}
// Rounded to nearest, ties to even.
GANTK_INLINE void store(const Floats& values, Bfloat* to) {
    const Words bits = reinterpret_cast<Words>(values);
    const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = bits >> 16 | 0x40u;
    *reinterpret_cast<StoredHalves*>(to) =
        __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, Halves);
}

#include "nhwc_loops.inl"

}  // namespace bfloats
}  // namespace

const Processor kPortable{"portable", [] { return true; }, floats::kLoops, bfloats::kLoops};

}  // namespace gantk::cpu::nhwc
