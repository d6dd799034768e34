// SPDX-License-Identifier: Apache-2.0
// Elements of pictures, read through the cache for what nobody writes, and written; one at a time or 16 bytes at once.
#pragma once

#include "primitives.cuh"

namespace gantk::kernels {

GANTK_DEVICE float read(const float* from) { return __ldg(from); }
GANTK_DEVICE Float16 read(const Float16* from) { return {__ldg(&from->bits)}; }
GANTK_DEVICE BFloat16 read(const BFloat16* from) { return {__ldg(&from->bits)}; }

GANTK_DEVICE void write(float* to, float value) { *to = value; }
GANTK_DEVICE void write(Float16* to, float value) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
}
GANTK_DEVICE void write(BFloat16* to, float value) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
#else
    // To the nearest, and to the even of two; a NaN, whose payload the sum could carry away, stays one.
    const uint32_t wide = __float_as_uint(value);
    to->bits = value == value ? static_cast<uint16_t>((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16) : uint16_t{0x7FFF};
#endif
}

// How many elements 16 bytes hold.
template <class Element>
inline constexpr int kPack = 16 / sizeof(Element);

template <class Element>
GANTK_DEVICE void unpack(const uint4& pack, float (&values)[kPack<Element>]) {
    const uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(Element) == 4) {
            values[i] = __uint_as_float(words[i]);
        } else {  // The first of two is in the lower half.
            values[2 * i] = to_float(Element{static_cast<uint16_t>(words[i] & 0xFFFF)});
            values[2 * i + 1] = to_float(Element{static_cast<uint16_t>(words[i] >> 16)});
        }
    }
}

// To a multiple of 16 bytes. A plain assignment is taken apart into four stores before sm_100.
GANTK_DEVICE void store16(void* to, const uint4& words) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.x), "r"(words.y), "r"(words.z),
                 "r"(words.w)
                 : "memory");
}

// Two values in a word. Before sm_80 there is no instruction for both at once.
template <class Element>
GANTK_DEVICE uint32_t pair(float first, float second) {
    Element low, high;
    write(&low, first);
    write(&high, second);
    return low.bits | static_cast<uint32_t>(high.bits) << 16;
}

#if __CUDA_ARCH__ >= 800
template <>
GANTK_DEVICE uint32_t pair<Float16>(float first, float second) {
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
}
template <>
GANTK_DEVICE uint32_t pair<BFloat16>(float first, float second) {
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
    return word;
}
#endif

template <class Element>
GANTK_DEVICE uint4 pack(const float (&values)[kPack<Element>]) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(Element) == 4) {
            words[i] = __float_as_uint(values[i]);
        } else {
            words[i] = pair<Element>(values[2 * i], values[2 * i + 1]);
        }
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace gantk::kernels
