// SPDX-License-Identifier: Apache-2.0
// The gradient on tensor cores, by mma.sync. A block makes a tile of 64 or 128 channels x 128 places of dF = S F and
// with `span` goes on to the next places, so that its slopes come once. Sums run over channels, 128 bytes a step.
//
// Bound by memory up to C = 128 (features in, result out), by the tensor cores above (2 C operations an element).
// Features come through a ring of stages that runs on across tiles: while a tile is stored the next one's arrive.
//
// The left operand, whose rows are the result's, is the slopes for NCHW and the features for NHWC: either way the
// result's columns are neighbours in memory, and lanes that share a row store whole sectors of it.
#pragma once

#include "gram_gradient_work.cuh"
#include "gram_mma.cuh"

namespace gantk::kernels {

constexpr int32_t kGradientPlaces = 128;  // Of a tile.
constexpr int32_t kGradientThreads = 256;
#if __CUDA_ARCH__ >= 800
constexpr int32_t kGradientStages = 3, kGradientBlocks = 2;  // A multiprocessor's.
#else
constexpr int32_t kGradientStages = 2, kGradientBlocks = 1;  // 64 KiB of shared memory, and no cp.async.
#endif

// Brings 16 bytes to shared memory, the first `width` elements and zeros. For rows that are not made of whole, aligned
// chunks: in words of 4 bytes where they are aligned to that (an even number of places), else one by one.
template <class Element>
GANTK_DEVICE void gather(uint32_t to, const Element* from, int32_t width, bool words_aligned) {
    constexpr int32_t kBytes = sizeof(Element);
#if __CUDA_ARCH__ >= 800
    if (words_aligned) {
#pragma unroll
        for (int32_t i = 0; i < 4; ++i) {
            const int32_t left = width * kBytes - i * 4, bytes = left < 0 ? 0 : left < 4 ? left : 4;
            const void* source = bytes > 0 ? from + i * (4 / kBytes) : from;
            asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to + i * 4), "l"(source), "r"(bytes)
                         : "memory");
        }
        return;
    }
#endif
    uint32_t words[4] = {};
#pragma unroll
    for (int32_t i = 0; i < 16 / kBytes; ++i) {
        if (i >= width) continue;
        if constexpr (kBytes == 2) {
            words[i / 2] |= static_cast<uint32_t>(from[i].bits) << (16 * (i % 2));
        } else {
            words[i] = __float_as_uint(from[i]);
        }
    }
    store_shared16(to, words);
}

// Where a lane's row of slopes comes from when they are the right operand: rows change places within sixteen, so that
// a lane's columns of two neighbouring fragments, 2 t and 2 t + 1 of each, are the channels 4 t to 4 t + 3.
GANTK_DEVICE int32_t shuffled(int32_t row) { return (row & ~14) | (row & 6) << 1 | (row & 8) >> 2; }

// Copies a thread's share of a strip, one column of chunks. kSumDense: a row is 128 bytes along the sum; else it is
// kTile elements along the tile, one row for each term of the sum. `first` is the strip's first element, `rows` and
// `elements` count what there is of it.
template <class Element, bool kSumDense, int32_t kTile, bool kShuffled = false>
GANTK_DEVICE void copy_operand(uint32_t strip, const Element* first, int64_t stride, int32_t rows, int32_t elements,
                               int32_t load_bytes) {
    using Strip = Strip<Element, kSumDense, kTile>;
    constexpr int32_t kCopies = Strip::kBytes / kChunkBytes / kGradientThreads;
    constexpr int32_t kApart = kGradientThreads / Strip::kRowChunks;  // Rows.
    static_assert(kApart % 8 == 0 && (!kShuffled || kApart % 16 == 0), "rows so far apart are treated alike");
    const int32_t row = threadIdx.x / Strip::kRowChunks, chunk = threadIdx.x % Strip::kRowChunks;
    const int32_t left = elements - chunk * Strip::kWidth;
    // Where there is one row its pitch may be anything, and even what is not read must have an aligned address.
    const int32_t from_row = kShuffled ? shuffled(row) : row < rows ? row : 0;
    const Element* from = first + from_row * stride + chunk * Strip::kWidth;
    strip += row * Strip::kRowBytes + (chunk ^ Strip::twist(row)) * kChunkBytes;
    rows = left > 0 ? rows - row : 0;
    if (load_bytes == 16 && (left <= 0 || left >= Strip::kWidth)) {
        copy_chunks<kCopies>(strip, kApart * Strip::kRowBytes, from, kApart * stride, (rows + kApart - 1) / kApart);
        return;
    }
#pragma unroll 1
    for (int32_t i = 0; i < kCopies; ++i) {
        gather(strip + i * kApart * Strip::kRowBytes, from + i * kApart * stride, i * kApart < rows ? left : 0,
               load_bytes >= 4);
    }
}

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

template <class Mma, bool kChannelsLast, int32_t kChannels>
GANTK_DEVICE void gram_gradient_tiles(const GramGradientLayer& layer, uint32_t shared) {
    using Element = typename Mma::Element;
    using Slopes = Strip<Element, true, kChannels>;
    constexpr int32_t kStep = kStepBytes / sizeof(Element);                         // Channels.
    constexpr int32_t kFeatureBytes = kGradientPlaces * kStepBytes;
    constexpr int32_t kWarpsDown = kChannelsLast && kChannels == 64 ? 4 : 2;        // Of eight.
    constexpr int32_t kWarpRows = (kChannelsLast ? kGradientPlaces : kChannels) / kWarpsDown;
    const int64_t picture = blockIdx.y;
    const int32_t block = static_cast<int32_t>(blockIdx.x) - layer.first_block;
    const int32_t tops = layer.rows / kChannels, top = block % tops * kChannels;  // Neighbours share L2's features.
    const int64_t begin = static_cast<int64_t>(block / tops) * layer.span * kGradientPlaces;
    const int64_t left = (layer.places - begin + kGradientPlaces - 1) / kGradientPlaces;
    const int32_t tiles = left < layer.span ? static_cast<int32_t>(left) : layer.span;

    const Element* features =
        static_cast<const Element*>(layer.features) + picture * layer.batch_stride + begin * layer.place_stride;
    const Element* slopes = static_cast<const Element*>(layer.slopes) + (picture * layer.rows + top) * layer.columns;
    const uint32_t slots = shared + kGradientStages * kFeatureBytes;

    int32_t next_tile = 0, next_channel = 0, next_stage = 0;  // What is copied next, and where to.
    const auto copy = [&] {
        if (next_tile < tiles) {
            const int64_t gone = static_cast<int64_t>(next_tile) * kGradientPlaces, rest = layer.places - begin - gone;
            const int32_t places = rest < kGradientPlaces ? static_cast<int32_t>(rest) : kGradientPlaces;
            const int32_t channels = layer.channels - next_channel;
            copy_operand<Element, kChannelsLast, kGradientPlaces>(
                shared + next_stage * kFeatureBytes,
                features + gone * layer.place_stride + next_channel * layer.channel_stride,
                kChannelsLast ? layer.place_stride : layer.channel_stride, kChannelsLast ? places : channels,
                kChannelsLast ? channels : places, layer.load_bytes);
            if (!layer.resident || next_tile == 0) {
                const int32_t slot = layer.resident ? next_channel / kStep : next_stage;
                copy_operand<Element, true, kChannels, kChannelsLast>(
                    slots + slot * Slopes::kBytes, slopes + next_channel, layer.columns, kChannels, kStep, 16);
            }
            next_stage = next_stage + 1 == kGradientStages ? 0 : next_stage + 1;
            next_channel += kStep;
            if (next_channel >= layer.columns) {
                next_channel = 0;
                ++next_tile;
            }
        }
        copy_commit();  // Also where there is nothing left, so that `copy_wait` counts the same to the end.
    };

    const int32_t warp = threadIdx.x / 32;
    const int32_t row = warp % kWarpsDown * kWarpRows, column = warp / kWarpsDown * 32;
    const FragmentReader<Element, true, kChannels> read_slopes(kChannelsLast ? column : row, !kChannelsLast);
    const FragmentReader<Element, kChannelsLast, kGradientPlaces> read_features(kChannelsLast ? row : column,
                                                                                kChannelsLast);
    GradientSums<Mma, kWarpRows> sums;
    sums.clear();
#pragma unroll 1
    for (int32_t stage = 0; stage + 1 < kGradientStages; ++stage) copy();
    int32_t stage = 0;
#pragma unroll 1
    for (int32_t tile = 0; tile < tiles; ++tile) {
#pragma unroll 1
        for (int32_t channel = 0; channel < layer.columns; channel += kStep) {
            copy_wait<kGradientStages - 2>();
            __syncthreads();  // This step's stage is there, and nobody reads that of the last any more.
            copy();
            const uint32_t strip = shared + stage * kFeatureBytes;
            const uint32_t slot = slots + (layer.resident ? channel / kStep : stage) * Slopes::kBytes;
            if constexpr (kChannelsLast) {
                sums.add(read_features, read_slopes, strip, slot);
            } else {
                sums.add(read_slopes, read_features, slot, strip);
            }
            stage = stage + 1 == kGradientStages ? 0 : stage + 1;
        }
        store_sums<Mma, kChannelsLast>(layer, sums, top, begin + static_cast<int64_t>(tile) * kGradientPlaces, row, column);
        sums.clear();
    }
    copy_wait<0>();
}

template <class Mma, bool kChannelsLast>
GANTK_DEVICE void gram_gradient_mma(const GramGradientParameters& p) {
    extern __shared__ __align__(128) unsigned char shared[];
    const GramGradientLayer& layer = layer_of(p, &GramGradientLayer::first_block);
    if (layer.rows == 64) {
        gram_gradient_tiles<Mma, kChannelsLast, 64>(layer, shared_address(shared));
    } else {
        gram_gradient_tiles<Mma, kChannelsLast, 128>(layer, shared_address(shared));
    }
}

}  // namespace gantk::kernels

#define GANTK_GRADIENT_MMA_LAYOUT(name, Mma, blocks, layout, last)                                    \
    extern "C" __global__ void __launch_bounds__(gantk::kernels::kGradientThreads, blocks)            \
        gantk_gram_gradient_##name##_##layout(                                                        \
            const __grid_constant__ gantk::kernels::GramGradientParameters p) {                       \
        gantk::kernels::gram_gradient_mma<Mma, last>(p);                                              \
    }
#define GANTK_GRADIENT_MMA(name, Mma, blocks)                   \
    GANTK_GRADIENT_MMA_LAYOUT(name, Mma, blocks, nchw, false)   \
    GANTK_GRADIENT_MMA_LAYOUT(name, Mma, blocks, nhwc, true)
