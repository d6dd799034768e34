// SPDX-License-Identifier: Apache-2.0
// The loops of both elements for processors that have no instruction for products of bfloat16. The file that includes
// this defines GANTK_ENTRY, GANTK_TARGET and the numbers that nhwc_loops.inl asks for.

namespace floats {

using Element = float;

GANTK_TARGET inline void add_products(const Words& one, const Words& given, Floats& sum) {
    sum += reinterpret_cast<Floats>(one) * reinterpret_cast<Floats>(given);
}
GANTK_TARGET inline void load(const float* from, Floats& values) {
    values = *reinterpret_cast<const StoredFloats*>(from);
}
GANTK_TARGET inline void store(const Floats& values, float* to) { *reinterpret_cast<StoredFloats*>(to) = values; }

#include "nhwc_loops.inl"

}  // namespace floats

namespace bfloats {

using Element = Bfloat;

// The two of a word are widened and multiplied one after the other.
GANTK_TARGET inline void add_products(const Words& one, const Words& given, Floats& sum) {
    sum += reinterpret_cast<Floats>(one << 16) * reinterpret_cast<Floats>(given << 16);
    sum += reinterpret_cast<Floats>(one & 0xffff0000u) * reinterpret_cast<Floats>(given & 0xffff0000u);
}
GANTK_TARGET inline void load(const Bfloat* from, Floats& values) {
    values =
        reinterpret_cast<Floats>(__builtin_convertvector(*reinterpret_cast<const StoredHalves*>(from), Words) << 16);
}
// Rounded to nearest, ties to even.
GANTK_TARGET inline void store(const Floats& values, Bfloat* to) {
    const Words bits = reinterpret_cast<Words>(values);
    const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = bits >> 16 | 0x40u;
    *reinterpret_cast<StoredHalves*>(to) =
        __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, Halves);
}

#include "nhwc_loops.inl"

}  // namespace bfloats
