// SPDX-License-Identifier: Apache-2.0
// A generator's last layer (Radford, Metz and Chintala, arXiv 1511.06434, figure 1): the bias and ReLU of its features,
// a transposed convolution of 4 x 4 with stride 2 and padding 1 to the few channels of a picture, and Tanh.
//
// A block reads a tile of features with a border of one pixel, some channels at a time, adds, rectifies and keeps it in
// shared memory. Each pixel yields four of the picture, its `phases`: those of even and odd rows and columns, each from
// a square of 2 x 2 pixels. On tensor cores pixels of a row are the rows of a product, channels of the picture its
// columns; products of a pixel beside another serve all phases that see it.
#pragma once

#include <gantk/kernels/to_picture_parameters.h>

#include "elements.cuh"

namespace gantk::kernels {

constexpr int kPictureFramed = kPictureTile + 2;       // The side of a tile with its border.
constexpr int kPictureSteps = kPictureChunk / 16;      // Products along a chunk's channels.
constexpr int kPicturePacks = kPictureChunk / 8;       // 16 bytes each.
constexpr int kPixelBytes = 2 * kPictureChunk + 16;    // Apart, so that eight pixels' packs are in different banks.
constexpr int kRowsOfWarp = kPictureTile / (kPictureThreads / 32);

// The row, or column, of the kernel through which an output of a phase (0 or 1) sees the pixel before its own, its own,
// or the one after (-1, 0, 1); none where it is not 0 to 3.
GANTK_DEVICE constexpr int tap_of(int phase, int apart) { return phase + 1 - 2 * apart; }

// To 1e-7, which is all that float16 holds of it; the library's takes as many registers as all else.
GANTK_DEVICE float tanh_of(float value) { return 1.f - __fdividef(2.f, 1.f + __expf(2.f * value)); }

// A chunk of the tile's channels, biased and rectified; zeros outside of the picture and past the last channel.
GANTK_DEVICE void load_tile(const ToPictureParameters& p, int32_t first_channel, uint32_t tile) {
    constexpr int kPixels = kPictureFramed * kPictureFramed, kPixelsAtOnce = kPictureThreads / kPicturePacks;
    constexpr int kAhead = 3;  // Loads on their way; with more of them a multiprocessor has registers for fewer blocks.
    const int32_t pack_index = int32_t(threadIdx.x) % kPicturePacks, slot = int32_t(threadIdx.x) / kPicturePacks;
    const int32_t channel = first_channel + 8 * pack_index;
    const bool has_channels = channel < p.channels;
    const int32_t top = int32_t(blockIdx.y) * kPictureTile - 1, left = int32_t(blockIdx.x) * kPictureTile - 1;
    const auto* features = static_cast<const Float16*>(p.features) +
                           int64_t(blockIdx.z) * p.height * p.width * p.channels + channel;
#pragma unroll 1
    for (int32_t first = slot; first < kPixels; first += kAhead * kPixelsAtOnce) {
        uint4 bits[kAhead];
        bool is_in[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            const int32_t pixel = first + i * kPixelsAtOnce;
            const int32_t y = top + pixel / kPictureFramed, x = left + pixel % kPictureFramed;
            is_in[i] = has_channels && pixel < kPixels && uint32_t(y) < uint32_t(p.height) &&
                       uint32_t(x) < uint32_t(p.width);
            if (is_in[i])
                bits[i] = __ldg(reinterpret_cast<const uint4*>(features + (int64_t(y) * p.width + x) * p.channels));
        }
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            const int32_t pixel = first + i * kPixelsAtOnce;
            if (pixel >= kPixels) break;
            uint4 ready = make_uint4(0, 0, 0, 0);
            if (is_in[i]) {
                float values[8];
                unpack<Float16>(bits[i], values);
#pragma unroll
                for (int c = 0; c < 8; ++c) {
                    values[c] += __ldg(p.before + channel + c);
                    if (values[c] < 0) values[c] = 0;  // NaN stays NaN.
                }
                ready = pack<Float16>(values);
            }
            const uint32_t words[4] = {ready.x, ready.y, ready.z, ready.w};
            store_shared16(tile + pixel * kPixelBytes + 16 * pack_index, words);
        }
    }
}

// A chunk of the weights, for each tap and step what the lanes of a warp have of it as the second factor of a product.
// A thread has the taps of one channel of the features and one of the picture.
GANTK_DEVICE void load_weights(const ToPictureParameters& p, int32_t first_channel, uint16_t* weights) {
    const int32_t index = int32_t(threadIdx.x) % kPictureChunk, column = int32_t(threadIdx.x) / kPictureChunk;
    const int32_t channel = first_channel + index;
    uint4 taps[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
    if (channel < p.channels && column < p.made) {
        const auto* from = static_cast<const uint4*>(p.weights) + (int64_t(channel) * p.made + column) * 2;
        taps[0] = __ldg(from);
        taps[1] = __ldg(from + 1);
    }
    const int32_t step = index / 16, within = index % 16;
    const int32_t lane = column * 4 + within % 8 / 2;
    uint16_t* to = weights + (step * 32 + lane) * 4 + within / 8 * 2 + within % 2;
    const uint32_t words[8] = {taps[0].x, taps[0].y, taps[0].z, taps[0].w, taps[1].x, taps[1].y, taps[1].z, taps[1].w};
#pragma unroll
    for (int tap = 0; tap < kPictureTaps; ++tap)
        to[tap * kPictureSteps * 32 * 4] = uint16_t(words[tap / 2] >> tap % 2 * 16);
}

// Grid: tiles of a row, rows of tiles, pictures.
GANTK_DEVICE void to_picture(const ToPictureParameters& p) {
    static_assert(kPictureThreads == kPictureChunk * kPictureChannels, "a thread has the taps of one pair of channels");
    __shared__ __align__(16) unsigned char tile[kPictureFramed * kPictureFramed * kPixelBytes];
    __shared__ __align__(16) uint16_t weights[kPictureTaps * kPictureSteps * 32 * 4];
    const int32_t lane = int32_t(threadIdx.x) % 32, first_row = int32_t(threadIdx.x) / 32 * kRowsOfWarp;
    const uint32_t pixels = shared_address(tile) + (first_row * kPictureFramed + lane % 16) * kPixelBytes + lane / 16 * 16;
    const uint32_t factors = shared_address(weights) + lane * 8;

    float sums[kRowsOfWarp][4][4] = {};  // By row of features and phase.
    for (int32_t channel = 0; channel < p.channels; channel += kPictureChunk) {
        if (channel > 0) __syncthreads();  // All have read the chunk before.
        load_weights(p, channel, weights);
        load_tile(p, channel, shared_address(tile));
        __syncthreads();
#pragma unroll
        for (int step = 0; step < kPictureSteps; ++step) {
#pragma unroll
            for (int beside = 0; beside < 9; ++beside) {
                const int down = beside / 3 - 1, right = beside % 3 - 1;
                uint32_t features[kRowsOfWarp][4];
#pragma unroll
                for (int row = 0; row < kRowsOfWarp; ++row)
                    load_matrices(features[row],
                                  pixels + ((row + down + 1) * kPictureFramed + right + 1) * kPixelBytes + step * 32);
#pragma unroll
                for (int phase = 0; phase < 4; ++phase) {
                    const int y = tap_of(phase / 2, down), x = tap_of(phase % 2, right);
                    if (y < 0 || y > 3 || x < 0 || x > 3) continue;
                    uint32_t factor[2];
                    load_shared8(factor, factors + ((y * 4 + x) * kPictureSteps + step) * 32 * 8);
#pragma unroll
                    for (int row = 0; row < kRowsOfWarp; ++row)
                        multiply_add(Float16{}, sums[row][phase], features[row], factor[0], factor[1]);
                }
            }
        }
    }

    // A lane has two channels of the pixels lane / 4 and lane / 4 + 8 of each row.
    const int64_t line = 2 * int64_t(p.width);
#pragma unroll
    for (int column = 0; column < 2; ++column) {
        const int32_t made = lane % 4 * 2 + column;
        if (made >= p.made) continue;
        const float bias = __ldg(p.bias + made);
        auto* plane = static_cast<uint16_t*>(p.picture) + (int64_t(blockIdx.z) * p.made + made) * 2 * p.height * line;
#pragma unroll
        for (int row = 0; row < kRowsOfWarp; ++row) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int32_t y = int32_t(blockIdx.y) * kPictureTile + first_row + row;
                const int32_t x = int32_t(blockIdx.x) * kPictureTile + lane / 4 + 8 * half;
                if (y >= p.height || x >= p.width) continue;
#pragma unroll
                for (int below = 0; below < 2; ++below) {
                    const float even = tanh_of(sums[row][2 * below][2 * half + column] + bias);
                    const float odd = tanh_of(sums[row][2 * below + 1][2 * half + column] + bias);
                    *reinterpret_cast<uint32_t*>(plane + (2 * int64_t(y) + below) * line + 2 * int64_t(x)) =
                        pair<Float16>(even, odd);
                }
            }
        }
    }
}

}  // namespace gantk::kernels
