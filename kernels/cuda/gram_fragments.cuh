// SPDX-License-Identifier: Apache-2.0
// What tensor cores multiply: how fragments are read from strips, rounded, split and multiplied.
#pragma once

#include "gram_strips.cuh"

namespace gantk::kernels {

// What tensor cores are given. They cut off what fp32 does not hold, an error that grows with the number of sums in a
// row; after kPromote steps sums go to memory, by additions that round, and begin at zero.
template <class Type>
struct MmaHalf {
    using Element = Type;
    static constexpr int32_t kPromote = 64;
    static constexpr bool kExact = false;
};
struct MmaTf32 {
    using Element = float;
    static constexpr int32_t kPromote = 64;
    static constexpr bool kExact = false;
};
// 3xTF32 (Ootomo and Yokota, arXiv 2203.03341): x = big + small, both TF32; small * small is left out. The tensor
// cores sum eight places only, fp32 additions that round do the rest.
struct MmaExact {
    using Element = float;
    static constexpr int32_t kPromote = 32;
    static constexpr bool kExact = true;
};

// Reads fragments of 16 channels, 32 bytes deep: `a` of mma.sync or `b` of two neighbouring blocks of 8 channels,
// whose second and third words change places.
template <class Element, bool kPlacesDense, int32_t kTile>
struct FragmentReader {
    using Strip = Strip<Element, kPlacesDense, kTile>;
    static constexpr bool kMatrices = kPlacesDense || sizeof(Element) == 2;

    uint32_t from;  // What this lane reads of the first fragment, in the strip.
    bool is_a;

    GANTK_DEVICE FragmentReader(int32_t channel, bool a) : is_a(a) {
        const int32_t lane = threadIdx.x % 32, second = lane / 8 % 2, third = lane / 16;
        const int32_t upper = a ? second : third, later = a ? third : second, eighth = lane % 8;
        if constexpr (kPlacesDense) {
            from = (channel + upper * 8 + eighth) * Strip::kRowBytes + (later ^ Strip::twist(eighth)) * kChunkBytes;
        } else if constexpr (kMatrices) {
            const int32_t chunk = channel / Strip::kWidth + upper;
            from = (later * 8 + eighth) * Strip::kRowBytes + (chunk ^ Strip::twist(eighth)) * kChunkBytes;
        } else {
            const int32_t place = lane % 4, chunk = (channel + lane / 4) / Strip::kWidth;
            from = place * Strip::kRowBytes + (chunk ^ Strip::twist(place)) * kChunkBytes + lane / 4 % 4 * 4;
        }
    }

    // The `block`th fragment of the warp's channels, the `depth`th of the step. A chunk's number and its twist have
    // no carry between them, so that going on by a power of two is an XOR too.
    GANTK_DEVICE void operator()(uint32_t (&to)[4], uint32_t strip, int32_t block, int32_t depth) const {
        if constexpr (kPlacesDense) {
            load_matrices(to, strip + (from ^ depth * 32) + block * 16 * Strip::kRowBytes);
        } else if constexpr (kMatrices) {
            load_matrices_transposed(to, strip + (from ^ block * 32) + depth * 16 * Strip::kRowBytes);
        } else {
#pragma unroll
            for (int32_t i = 0; i < 4; ++i) {
                const int32_t upper = is_a ? i % 2 : i / 2, later = is_a ? i / 2 : i % 2;
                to[i] = load_shared(strip + (from ^ (block % 2 * 64 + upper * 32)) + block / 2 * 128 +
                                    (depth * 8 + later * 4) * Strip::kRowBytes);
            }
        }
    }
};

// A TF32 number and the TF32 number nearest to what it leaves of a float32. Adding half of the last place rounds it
// as cvt.rna does, with the integer units, which have less to do; hardware ignores the bits below.
GANTK_DEVICE void split_tf32(uint32_t& big, uint32_t& small, uint32_t bits) {
    big = round_to_tf32(bits);
    small = __float_as_uint(__uint_as_float(bits) - __uint_as_float(big)) + 0x1000u;
}

// Makes what was read into what tensor cores multiply; `small` is for exact products alone.
template <class Mma>
GANTK_DEVICE void narrow(uint32_t (&words)[4], uint32_t (&small)[4]) {
    if constexpr (sizeof(typename Mma::Element) == 4) {
#pragma unroll
        for (int32_t i = 0; i < 4; ++i) {
            if constexpr (Mma::kExact) {
                split_tf32(words[i], small[i], words[i]);
            } else {
                words[i] = round_to_tf32(words[i]);
            }
        }
    }
}

// sums += a b^T, 16 x 8 sums, for 32 bytes of the step.
template <class Mma>
GANTK_DEVICE void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&a_small)[4], uint32_t b0,
                           uint32_t b1, uint32_t b0_small, uint32_t b1_small) {
    const typename Mma::Element type{};
    if constexpr (Mma::kExact) {
        float step[4] = {};  // The small products first: cutting off costs them nothing.
        multiply_add(type, step, a_small, b0, b1);
        multiply_add(type, step, a, b0_small, b1_small);
        multiply_add(type, step, a, b0, b1);
#pragma unroll
        for (int32_t i = 0; i < 4; ++i) sums[i] += step[i];
    } else {
        multiply_add(type, sums, a, b0, b1);
    }
}

// Writes 16 x 8 sums to the tile, or adds them to what this thread wrote there before; no other thread touches them.
GANTK_DEVICE void promote(float* tile, int32_t pitch, const float (&sums)[4], bool first) {
    float* to = tile + threadIdx.x % 32 / 4 * pitch + threadIdx.x % 4 * 2;
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
        float2* pair = reinterpret_cast<float2*>(to + half * 8 * pitch);
        const float2 before = first ? make_float2(0.0f, 0.0f) : *pair;
        *pair = make_float2(before.x + sums[half * 2], before.y + sums[half * 2 + 1]);
    }
}

}  // namespace gantk::kernels
