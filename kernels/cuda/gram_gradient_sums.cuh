// SPDX-License-Identifier: Apache-2.0
// What a warp of the gradient on tensor cores holds: sums of a part of a tile, how they grow and how they are stored.
#pragma once

#include "gram_gradient_work.cuh"
#include "gram_mma.cuh"

namespace gantk::kernels {

constexpr int32_t kGradientPlaces = 128;  // Of a tile.

// Words of fp32 become TF32 numbers, in exact arithmetic two.
template <class Mma>
GANTK_DEVICE void ready(uint32_t (&words)[4], uint32_t (&small)[4]) {
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

// Exact sums leave the tensor cores, which cut off, after every product, and are rounded by the fp32 units.
template <class Mma>
GANTK_DEVICE void add_product(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&a_small)[4],
                              const uint32_t (&b)[4], const uint32_t (&b_small)[4], int32_t at) {
    const typename Mma::Element type{};
    if constexpr (Mma::kExact) {
        float step[4] = {};
        multiply_add(type, step, a_small, b[at], b[at + 1]);
        multiply_add(type, step, a, b_small[at], b_small[at + 1]);
        multiply_add(type, step, a, b[at], b[at + 1]);
#pragma unroll
        for (int32_t i = 0; i < 4; ++i) sums[i] += step[i];
    } else {
        multiply_add(type, sums, a, b[at], b[at + 1]);
    }
}

// One warp's sums of kRows x 32, in fragments of 16 x 8.
template <class Mma, int32_t kRows>
struct GradientSums {
    static constexpr int32_t kDown = kRows / 16, kAcross = 4;
    float sums[kDown][kAcross][4];

    GANTK_DEVICE void clear() {
#pragma unroll
        for (int32_t m = 0; m < kDown; ++m) {
#pragma unroll
            for (int32_t n = 0; n < kAcross; ++n) {
#pragma unroll
                for (int32_t i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;
            }
        }
    }

    template <class Left, class Right>
    GANTK_DEVICE void add(const Left& read_left, const Right& read_right, uint32_t left, uint32_t right) {
#pragma unroll (Mma::kExact ? 1 : 2)  // More would want more than 128 registers.
        for (int32_t depth = 0; depth < kStepBytes / 32; ++depth) {
            uint32_t b[kAcross / 2][4], b_small[kAcross / 2][4];
#pragma unroll
            for (int32_t n = 0; n < kAcross / 2; ++n) {
                read_right(b[n], right, n, depth);
                ready<Mma>(b[n], b_small[n]);
            }
#pragma unroll
            for (int32_t m = 0; m < kDown; ++m) {
                uint32_t a[4], a_small[4];
                read_left(a, left, m, depth);
                ready<Mma>(a, a_small);
#pragma unroll
                for (int32_t n = 0; n < kAcross; ++n) {
                    add_product<Mma>(sums[m][n], a, a_small, b[n / 2], b_small[n / 2], n % 2 * 2);
                }
            }
        }
    }

    // Four neighbours in a row, of two fragments; which sixteen columns' quarter they are, `quarter` says.
    template <bool kShuffled>
    GANTK_DEVICE float4 four(int32_t m, int32_t pair, int32_t half) const {
        const float *first = &sums[m][2 * pair][2 * half], *second = &sums[m][2 * pair + 1][2 * half];
        if constexpr (kShuffled) return make_float4(first[0], first[1], second[0], second[1]);
        const bool odd = threadIdx.x % 2;  // Even lanes end with four columns of the first, odd ones of the second.
        const float x = __shfl_xor_sync(0xffffffffu, odd ? first[0] : second[0], 1);
        const float y = __shfl_xor_sync(0xffffffffu, odd ? first[1] : second[1], 1);
        return odd ? make_float4(x, y, second[0], second[1]) : make_float4(first[0], first[1], x, y);
    }

    template <bool kShuffled>
    static GANTK_DEVICE int32_t quarter() {
        const int32_t t = threadIdx.x % 4;
        return kShuffled ? t : t % 2 * 2 + t / 2;
    }
};

// Multiplies results by the units of their channels: one for NCHW, four with channels last.
template <bool kChannelsLast>
GANTK_DEVICE void scale(float4& values, const float* units) {
    values.x *= units[0];
    values.y *= units[kChannelsLast ? 1 : 0];
    values.z *= units[kChannelsLast ? 2 : 0];
    values.w *= units[kChannelsLast ? 3 : 0];
}

// Stores four results, `stride` elements apart, of which `left` are there; at once where they are neighbours.
template <class Element>
GANTK_DEVICE void store_four(Element* to, int64_t stride, int32_t left, bool at_once, const float4& values) {
    Element four[4];
    from_float(four[0], values.x);
    from_float(four[1], values.y);
    from_float(four[2], values.z);
    from_float(four[3], values.w);
    if (at_once && left >= 4) {
        if constexpr (sizeof(Element) == 4) {
            *reinterpret_cast<float4*>(to) = values;
        } else {
            const uint32_t low = four[0].bits | static_cast<uint32_t>(four[1].bits) << 16;
            *reinterpret_cast<uint2*>(to) = make_uint2(low, four[2].bits | static_cast<uint32_t>(four[3].bits) << 16);
        }
        return;
    }
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
        if (i < left) to[i * stride] = four[i];
    }
}

// Stores a warp's sums, from `row` and `column` of the tile on whose first result is at `channel` and `place`.
template <class Mma, bool kChannelsLast, int32_t kRows>
GANTK_DEVICE void store_sums(const GramGradientLayer& layer, const GradientSums<Mma, kRows>& sums, int32_t channel,
                             int64_t place, int32_t row, int32_t column) {
    using Element = typename Mma::Element;
    const int64_t picture = blockIdx.y;
    row += threadIdx.x % 32 / 4;
    column += sums.template quarter<kChannelsLast>() * 4;
    channel += kChannelsLast ? column : row;
    place += kChannelsLast ? row : column;
    const int64_t row_stride = kChannelsLast ? layer.result_place_stride : layer.result_channel_stride;
    const int64_t stride = kChannelsLast ? layer.result_channel_stride : layer.result_place_stride;
    const int64_t rest = layer.places - place;
    const int32_t places = rest < kGradientPlaces ? static_cast<int32_t>(rest) : kGradientPlaces;
    const int32_t channels = layer.channels - channel;
    const int32_t rows = kChannelsLast ? places : channels, columns = kChannelsLast ? channels : places;
    const float* units = layer.units + picture * layer.rows + channel;
    Element* to = static_cast<Element*>(layer.result) + picture * layer.result_batch_stride +
                  channel * layer.result_channel_stride + place * layer.result_place_stride;
#pragma unroll
    for (int32_t i = 0; i < kRows / 8; ++i) {  // Row by row of eight, `to` going along, lest addresses fill registers.
#pragma unroll
        for (int32_t pair = 0; pair < 2; ++pair) {
            float4 values = sums.template four<kChannelsLast>(i / 2, pair, i % 2);
            if constexpr (kHasUnits<Element>) scale<kChannelsLast>(values, units + (kChannelsLast ? pair * 16 : i * 8));
            if (i * 8 >= rows) continue;
            store_four(to + pair * 16 * stride, stride, columns - pair * 16, layer.vectorised != 0, values);
        }
        to += 8 * row_stride;
    }
}

}  // namespace gantk::kernels
