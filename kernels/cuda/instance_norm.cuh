// SPDX-License-Identifier: Apache-2.0
// Instance normalisation of pictures with channels last (Ulyanov, Vedaldi and Lempitsky, arXiv 1607.08022), and what
// stands between it and the next convolution in the same pass: ReLU, the sum of a residual block, the border, blocks.
//
// A thread owns a pack of neighbouring channels and goes from pixel to pixel. Three launches: `moments` sums chunks of
// pixels, `finish` joins their sums, `apply` reads each pixel once more, from the second-level cache where it fits.
// From sm_90 on the blocks of `apply` for which there is room read theirs while `moments` is at work.
#pragma once

#include <gantk/kernels/instance_norm_parameters.h>

#include "elements.cuh"

namespace gantk::kernels {

// Mean and sum of squared deviations of so many values; two are joined without loss of digits where their means differ
// little (Chan, Golub and LeVeque 1979, Updating formulae and a pairwise algorithm, equation 1.5).
struct Moments {
    float count, mean, squares;

    GANTK_DEVICE void join(const Moments& other) {
        const float total = count + other.count;
        const float share = total > 0 ? other.count / total : 0.f;
        const float apart = other.mean - mean;
        mean += apart * share;
        squares += other.squares + apart * apart * share * count;
        count = total;
    }
};

// Which pack of channels a thread has, and which of the pixels that its block looks at side by side.
template <int kChannels>
struct Place {
    int32_t channel;  // The first of the pack.
    int32_t packs;    // Of the block.
    int32_t slots;    // Pixels side by side.
    int32_t slot;     // The thread's; `slots` where it has none.

    GANTK_DEVICE Place(int32_t channels, int32_t channel_block) {
        const int32_t first = channel_block * kNormThreads, thread = int32_t(threadIdx.x);
        packs = min(channels / kChannels - first, kNormThreads);
        slots = kNormThreads / packs;
        slot = min(thread / packs, slots);
        channel = (first + thread % packs) * kChannels;
    }
};

// The channels of a pack of one pixel, as they lie in memory.
template <class Element, int kChannels>
struct Channels {
    uint4 bits;

    GANTK_DEVICE void load(const Element* from) { bits = __ldg(reinterpret_cast<const uint4*>(from)); }
    GANTK_DEVICE void get(float (&values)[kChannels]) const { unpack<Element>(bits, values); }
    GANTK_DEVICE static void store(Element* to, const float (&values)[kChannels]) {
        store16(to, pack<Element>(values));
    }
};

template <class Element>
struct Channels<Element, 1> {
    Element value;

    GANTK_DEVICE void load(const Element* from) { value = read(from); }
    GANTK_DEVICE void get(float (&values)[1]) const { values[0] = to_float(value); }
    GANTK_DEVICE static void store(Element* to, const float (&values)[1]) { write(to, values[0]); }
};

// Whether a pixel of the larger picture, in block order, is one of the picture.
GANTK_DEVICE bool belongs(const InstanceNormParameters& p, int32_t pixel) {
    if (!p.is_cut) return true;
    const int32_t cell = pixel >> 2 * p.from_shift, mask = (1 << p.from_shift) - 1;
    const int32_t block_row = cell / p.columns, block_column = cell - block_row * p.columns;
    const int32_t y = (block_row << p.from_shift) + (pixel >> p.from_shift & mask) - p.top;
    const int32_t x = (block_column << p.from_shift) + (pixel & mask) - p.left;
    return uint32_t(y) < uint32_t(p.height) && uint32_t(x) < uint32_t(p.width);
}

// Moments of a chunk of pixels. Grid: chunks, blocks of channels, pictures.
template <class Element, int kChannels>
GANTK_DEVICE void moments(const InstanceNormParameters& p) {
    __shared__ float counts[kNormThreads];
    __shared__ float means[kChannels][kNormThreads], squares[kChannels][kNormThreads];
    const Place<kChannels> place(p.channels, int32_t(blockIdx.y));
    const int64_t picture = blockIdx.z;
    const auto* features =
        static_cast<const Element*>(p.features) + picture * p.picture_pixels * p.channels + place.channel;
    const int32_t first = int32_t(blockIdx.x) * p.chunk;
    const int32_t last = int32_t(min(int64_t(first) + p.chunk, p.picture_pixels));

    // Deviations from the thread's first pixel, which is near the mean as such things go.
    float origin[kChannels] = {}, sums[kChannels] = {}, powers[kChannels] = {};
    int32_t count = 0;
    if (place.slot < place.slots) {
        for (int32_t pixel = first + place.slot; pixel < last; pixel += kNormPixelsAtOnce * place.slots) {
            Channels<Element, kChannels> read_ahead[kNormPixelsAtOnce];
            bool is_in[kNormPixelsAtOnce];
#pragma unroll
            for (int i = 0; i < kNormPixelsAtOnce; ++i) {
                const int32_t at = pixel + i * place.slots;
                is_in[i] = at < last && belongs(p, at);
                if (is_in[i]) read_ahead[i].load(features + int64_t(at) * p.channels);
            }
#pragma unroll
            for (int i = 0; i < kNormPixelsAtOnce; ++i) {
                if (!is_in[i]) continue;
                float values[kChannels];
                read_ahead[i].get(values);
#pragma unroll
                for (int c = 0; c < kChannels; ++c) {
                    if (count == 0) origin[c] = values[c];
                    const float deviation = values[c] - origin[c];
                    sums[c] += deviation;
                    powers[c] += deviation * deviation;
                }
                ++count;
            }
        }
    }
    counts[threadIdx.x] = float(count);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
        const float mean = count > 0 ? sums[c] / float(count) : 0.f;
        means[c][threadIdx.x] = origin[c] + mean;
        squares[c][threadIdx.x] = count > 0 ? powers[c] - mean * sums[c] : 0.f;
    }
    for (int32_t slots = place.slots; slots > 1;) {
        const int32_t half = (slots + 1) / 2;
        __syncthreads();
        if (place.slot + half < slots) {
            const int32_t mine = int32_t(threadIdx.x), other = mine + half * place.packs;
            const float more = counts[other];
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
                Moments joined{counts[mine], means[c][mine], squares[c][mine]};
                joined.join({more, means[c][other], squares[c][other]});
                means[c][mine] = joined.mean;
                squares[c][mine] = joined.squares;
            }
            counts[mine] += more;
        }
        slots = half;
    }
    if (place.slot != 0) return;
    const int64_t chunk = picture * p.chunks + blockIdx.x;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
        p.means[chunk * p.channels + place.channel + c] = means[c][threadIdx.x];
        p.squares[chunk * p.channels + place.channel + c] = squares[c][threadIdx.x];
    }
    if (place.channel == 0) p.counts[chunk] = counts[threadIdx.x];
}

// Factors from the chunks' moments. Grid: kNormFinishChannels channels each, pictures.
GANTK_DEVICE void finish(const InstanceNormParameters& p) {
    constexpr int32_t kAtOnce = 9;  // On their way at once: all, of the 264 chunks that an H200's multiprocessors have.
    __shared__ Moments found[kNormFinishRows][kNormFinishChannels + 1];
    const int32_t channel = int32_t(blockIdx.x * kNormFinishChannels + threadIdx.x), row = int32_t(threadIdx.y);
    const int64_t picture = blockIdx.y;
    Moments sum{0.f, 0.f, 0.f};
    if (channel < p.channels) {
        for (int32_t chunk = row; chunk < p.chunks; chunk += kAtOnce * kNormFinishRows) {
            Moments parts[kAtOnce];
#pragma unroll
            for (int32_t i = 0; i < kAtOnce; ++i) {
                if (chunk + i * kNormFinishRows >= p.chunks) break;
                const int64_t at = picture * p.chunks + chunk + i * kNormFinishRows;
                // Other multiprocessors wrote them: not through the first-level cache.
                parts[i] = {__ldcg(p.counts + at), __ldcg(p.means + at * p.channels + channel),
                            __ldcg(p.squares + at * p.channels + channel)};
            }
#pragma unroll
            for (int32_t i = 0; i < kAtOnce; ++i) {
                if (chunk + i * kNormFinishRows < p.chunks) sum.join(parts[i]);
            }
        }
    }
    found[row][threadIdx.x] = sum;
    for (int32_t rows = kNormFinishRows / 2; rows > 0; rows /= 2) {
        __syncthreads();
        if (row < rows) found[row][threadIdx.x].join(found[row + rows][threadIdx.x]);
    }
    if (row != 0 || channel >= p.channels) return;
    const Moments whole = found[0][threadIdx.x];
    const float deviation = sqrtf(whole.squares / whole.count + p.epsilon);
    const int64_t at = picture * p.scale_stride + channel;
    p.factors[picture * 2 * p.channels + channel] = whole.mean;
    p.factors[(picture * 2 + 1) * p.channels + channel] = p.scale[at] / deviation;
}

// Where a row or column of the picture with its border comes from; below 0 where it is zeros.
GANTK_DEVICE int32_t source(uint32_t border, int32_t at, int32_t size) {
    if (uint32_t(at) < uint32_t(size)) return at;
    if (border == kBorderConstant) return -1;
    if (border == kBorderEdge) return at < 0 ? 0 : size - 1;
    return at < 0 ? -at : 2 * (size - 1) - at;
}

// A run of the result's pixels, of which a thread makes kNormPixelsAtOnce at most. Grid: runs of a row of blocks, rows
// of blocks, pictures x blocks of channels.
template <class Element, int kChannels>
GANTK_DEVICE void apply(const InstanceNormParameters& p) {
    const int32_t picture = int32_t(blockIdx.z) / p.channel_blocks;
    const Place<kChannels> place(p.channels, int32_t(blockIdx.z) - picture * p.channel_blocks);
    if (place.slot == place.slots) return;
    const auto* features =
        static_cast<const Element*>(p.features) + picture * p.picture_pixels * p.channels + place.channel;
    const auto* others = static_cast<const Element*>(p.others) + picture * p.others_stride + place.channel;
    const int32_t block_row = int32_t(blockIdx.y), row_pixels = p.result_columns << 2 * p.to_shift;
    auto* result = static_cast<Element*>(p.result) + picture * p.result_stride + place.channel +
                   int64_t(block_row) * row_pixels * p.channels;
    const int32_t first = int32_t(blockIdx.x) * p.run, last = min(first + p.run, row_pixels);
    const int32_t to_mask = (1 << p.to_shift) - 1, from_mask = (1 << p.from_shift) - 1;
    Channels<Element, kChannels> feature[kNormPixelsAtOnce], other[kNormPixelsAtOnce];
    bool is_in[kNormPixelsAtOnce];
#pragma unroll
    for (int i = 0; i < kNormPixelsAtOnce; ++i) {
        const int32_t at = first + place.slot + i * place.slots;
        const int32_t framed_y = (block_row << p.to_shift) + (at >> p.to_shift & to_mask);
        const int32_t framed_x = (at >> 2 * p.to_shift << p.to_shift) + (at & to_mask);
        const int32_t y = source(p.border, framed_y - p.border_top, p.height);
        const int32_t x = source(p.border, framed_x - p.border_left, p.width);
        is_in[i] = at < last && framed_y < p.framed_height && framed_x < p.framed_width && y >= 0 && x >= 0;
        if (!is_in[i]) continue;
        const int32_t large_y = y + p.top, large_x = x + p.left;
        const int64_t cell = int64_t(large_y >> p.from_shift) * p.columns + (large_x >> p.from_shift);
        const int64_t from =
            (cell << 2 * p.from_shift) + ((large_y & from_mask) << p.from_shift) + (large_x & from_mask);
        feature[i].load(features + from * p.channels);
        if (p.others == nullptr) continue;
        const int64_t beside = int64_t(y + p.others_top) * p.others_width + x + p.others_left;
        other[i].load(others + beside * p.channels);
    }
    float means[kChannels] = {}, factors[kChannels], offsets[kChannels] = {};
    if (p.offset != nullptr) {
        const float* offset = p.offset + int64_t(picture) * p.scale_stride + place.channel;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) offsets[c] = offset[c];
    }
    // So far it read what was there before `moments` began; `finish` makes the factors.
    wait_for_earlier();
#pragma unroll
    for (int c = 0; c < kChannels; ++c) factors[c] = 1;
    if (p.factors != nullptr) {
        const float* mean = p.factors + int64_t(picture) * 2 * p.channels + place.channel;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
            means[c] = mean[c];
            factors[c] = mean[p.channels + c];
        }
    }
#pragma unroll
    for (int i = 0; i < kNormPixelsAtOnce; ++i) {
        const int32_t at = first + place.slot + i * place.slots;
        if (at >= last) break;
        float values[kChannels] = {}, added[kChannels] = {};
        if (is_in[i]) {
            feature[i].get(values);
            if (p.others != nullptr) other[i].get(added);
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
                values[c] = (values[c] - means[c]) * factors[c] + offsets[c] + added[c];
                if (p.rectifies && values[c] < 0) values[c] = 0;  // NaN stays NaN.
            }
        }
        Channels<Element, kChannels>::store(result + int64_t(at) * p.channels, values);
    }
}

}  // namespace gantk::kernels
