// SPDX-License-Identifier: Apache-2.0
// How features come into shared memory for tensor cores: strips of channels by steps of places, in chunks of 16 bytes
// that lie where an XOR with their row puts them, so that neither copies nor reads of fragments meet in a bank.
#pragma once

#include "gram_work.cuh"

namespace gantk::kernels {

constexpr int32_t kStepBytes = 128;  // Of a channel, in one step.
constexpr int32_t kChunkBytes = 16;
#if defined(GANTK_GRAM_STAGES)
constexpr int32_t kStages = GANTK_GRAM_STAGES;
#elif __CUDA_ARCH__ >= 800
constexpr int32_t kStages = 3;
#else
constexpr int32_t kStages = 2;  // 64 KiB of shared memory, and no cp.async that would use more.
#endif

// How a strip, kTile channels of one step, lies in shared memory. kPlacesDense: rows are channels of 128 bytes;
// otherwise rows are places of kTile channels. Chunk c of row r lies where chunk c ^ twist(r) would.
template <class Element, bool kPlacesDense, int32_t kTile>
struct Strip {
    static constexpr int32_t kWidth = kChunkBytes / sizeof(Element);  // Elements of a chunk.
    static constexpr int32_t kPlaces = kStepBytes / sizeof(Element);  // Of a step.
    static constexpr int32_t kBytes = kTile * kStepBytes;
    static constexpr int32_t kRowChunks = kPlacesDense ? kStepBytes / kChunkBytes : kTile / kWidth;
    static constexpr int32_t kRowBytes = kRowChunks * kChunkBytes;

    // ldmatrix reads a chunk of each of eight neighbouring rows, load_shared two chunks of each of four.
    static GANTK_DEVICE int32_t twist(int32_t row) {
        return kPlacesDense || sizeof(Element) == 2 ? row & 7 : (row & 3) << 1;
    }
};

// Copies a thread's share of strip after strip: kCopies chunks a strip, one column of them, kApart rows apart.
template <class Element, bool kPlacesDense, int32_t kTile>
struct StripCopy {
    using Strip = Strip<Element, kPlacesDense, kTile>;
    static constexpr int32_t kThreads = 2 * kTile;
    static constexpr int32_t kCopies = Strip::kBytes / kChunkBytes / kThreads;
    static constexpr int32_t kApart = kThreads / Strip::kRowChunks, kApartBytes = kApart * Strip::kRowBytes;
    static_assert(kApart % 8 == 0, "rows so far apart are twisted alike");

    const GramLayer& layer;
    const Element* from;  // This thread's first chunk, in the first strip of the slice.
    uint32_t to;

    GANTK_DEVICE explicit StripCopy(const GramWork& work) : layer(work.layer) {
        const int32_t row = threadIdx.x / Strip::kRowChunks, chunk = threadIdx.x % Strip::kRowChunks;
        const int32_t channel = kPlacesDense ? row : chunk * Strip::kWidth;
        const int64_t place = work.first_place + (kPlacesDense ? chunk * Strip::kWidth : row);
        from = static_cast<const Element*>(work.picture(sizeof(Element))) + channel * layer.channel_stride +
               place * layer.place_stride;
        to = row * Strip::kRowBytes + (chunk ^ Strip::twist(row)) * kChunkBytes;
    }

    // Copies the strip from channel `first` on, of which there are `places`; what there is not becomes zeros.
    GANTK_DEVICE void operator()(uint32_t strip, int32_t first, int32_t places) const {
        const int32_t row = threadIdx.x / Strip::kRowChunks, chunk = threadIdx.x % Strip::kRowChunks;
        const int32_t channels = layer.channels - first;
        const int32_t rows = (kPlacesDense ? channels : places) - row;
        const int32_t left = (kPlacesDense ? places : channels) - chunk * Strip::kWidth;
        const int64_t apart = kApart * (kPlacesDense ? layer.channel_stride : layer.place_stride);
        const Element* source = from + first * layer.channel_stride;
        strip += to;
        if (layer.vectorised == 1 && (left <= 0 || left >= Strip::kWidth)) {
            copy_chunks<kCopies>(strip, kApartBytes, source, apart, left > 0 ? (rows + kApart - 1) / kApart : 0);
            return;
        }
#pragma unroll 1
        for (int32_t i = 0; i < kCopies; ++i) {
            gather(strip + i * kApartBytes, source + i * apart, i * kApart < rows ? left : 0);
        }
    }

private:
    // The slow path for chunks that are not whole, dense and aligned: word by word, or in elements through registers.
    GANTK_DEVICE void gather(uint32_t into, const Element* source, int32_t left) const {
        const int64_t stride = kPlacesDense ? layer.place_stride : layer.channel_stride;
        if constexpr (sizeof(Element) == 4) {
            copy_words(into, source, stride, left * 4);
        } else if (layer.vectorised == 2) {
            copy_words(into, source, 2, left * 2);
        } else {
            uint32_t words[4] = {};
#pragma unroll
            for (int32_t i = 0; i < Strip::kWidth; ++i) {
                if (i < left) words[i / 2] |= static_cast<uint32_t>(source->bits) << (16 * (i % 2));
                source += stride;
            }
            store_shared16(into, words);
        }
    }
};

}  // namespace gantk::kernels
