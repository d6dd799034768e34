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

#include "gram_gradient_sums.cuh"

namespace gantk::kernels {

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
    if (words_aligned || sizeof(Element) == 4) {
        copy_words(to, from, 4 / sizeof(Element), width * static_cast<int32_t>(sizeof(Element)));
        return;
    }
    if constexpr (sizeof(Element) == 2) {
        uint32_t words[4] = {};
#pragma unroll
        for (int32_t i = 0; i < 8; ++i) {
            if (i < width) words[i / 2] |= static_cast<uint32_t>(from[i].bits) << (16 * (i % 2));
        }
        store_shared16(to, words);
    }
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
        const int64_t place = begin + static_cast<int64_t>(tile) * kGradientPlaces;
        store_sums<Mma, kChannelsLast>(layer, sums, top, place, row, column);
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
        gantk::kernels::wait_for_earlier();                                                           \
        gantk::kernels::gram_gradient_mma<Mma, last>(p);                                              \
    }
#define GANTK_GRADIENT_MMA(name, Mma, blocks)                   \
    GANTK_GRADIENT_MMA_LAYOUT(name, Mma, blocks, nchw, false)   \
    GANTK_GRADIENT_MMA_LAYOUT(name, Mma, blocks, nhwc, true)
