// SPDX-License-Identifier: Apache-2.0
// The element types of pictures: each as float32 and back, one at a time and 16 bytes at once. Of two 16-bit
// elements in a word the first is in the lower half.
#pragma once

#include <gantk/kernels/types.h>

namespace gantk::kernels {

struct Float32 {
    using Bits = uint32_t;

    static __device__ float widen(Bits bits) { return __uint_as_float(bits); }
    static __device__ Bits narrow(float value) { return __float_as_uint(value); }
};

struct Float16 {
    using Bits = uint16_t;

    static __device__ float widen(Bits bits) {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }
    static __device__ Bits narrow(float value) {
        Bits bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
        return bits;
    }
    static __device__ uint32_t narrow(float first, float second) {
#if __CUDA_ARCH__ >= 800
        uint32_t word;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
        return word;
#else
        return narrow(first) | uint32_t(narrow(second)) << 16;
#endif
    }
};

struct BFloat16 {
    using Bits = uint16_t;

    static __device__ float widen(Bits bits) { return __uint_as_float(uint32_t(bits) << 16); }
    static __device__ uint32_t narrow(float first, float second) {
#if __CUDA_ARCH__ >= 800
        uint32_t word;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
        return word;
#else
        return narrow(first) | uint32_t(narrow(second)) << 16;
#endif
    }
    static __device__ Bits narrow(float value) {
#if __CUDA_ARCH__ >= 800
        Bits bits;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
        return bits;
#else
        // To the nearest, and to the even of two; a NaN, whose payload the sum could carry away, stays one.
        const uint32_t wide = __float_as_uint(value);
        return value == value ? Bits((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16) : Bits(0x7FFF);
#endif
    }
};

// How many elements 16 bytes hold.
template <class Element>
inline constexpr int kPack = 16 / sizeof(typename Element::Bits);

template <class Element>
__device__ void widen(const uint4& pack, float* values) {
    const uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (kPack<Element> == 4) {
            values[i] = Element::widen(words[i]);
        } else {
            values[2 * i] = Element::widen(uint16_t(words[i] & 0xFFFF));
            values[2 * i + 1] = Element::widen(uint16_t(words[i] >> 16));
        }
    }
}

template <class Element>
__device__ uint4 narrow(const float* values) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (kPack<Element> == 4) {
            words[i] = Element::narrow(values[i]);
        } else {
            words[i] = Element::narrow(values[2 * i], values[2 * i + 1]);
        }
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace gantk::kernels
