// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums on tensor cores by mma.sync, sm_75 and later.
//
// A block walks its slice in steps of 128 bytes (with places dense) or of as many places as make the same amount of
// memory (with channels dense). A ring of stages in shared memory is filled ahead by cp.async; of a tile on the
// diagonal rows and columns are one strip, loaded once. Chunks of 16 bytes lie where an XOR with their row puts them,
// so that neither the copies nor the reads of fragments meet in a bank.
#pragma once

#include "gram_work.cuh"

namespace gantk::kernels {

constexpr int32_t kStepBytes = 128;  // Of a channel, in one step.
constexpr int32_t kChunkBytes = 16;

// What tensor cores are given. kPromote: tensor cores cut off what does not fit in fp32, an error that grows with
// the number of sums in a row; after so many steps they go to memory and begin at zero.
template <class Type>
struct MmaHalf {
    using Element = Type;
    static constexpr int32_t kPromote = 128;
    static constexpr bool kExact = false;
};
struct MmaTf32 {
    using Element = float;
    static constexpr int32_t kPromote = 128;
    static constexpr bool kExact = false;
};
// 3xTF32 (Ootomo and Yokota, arXiv 2203.03341): x = big + small, both TF32; small * small is left out. The tensor
// cores sum eight places only, fp32 additions that round do the rest.
struct MmaExact {
    using Element = float;
    static constexpr int32_t kPromote = 128;
    static constexpr bool kExact = true;
};

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
    static constexpr int32_t kApart = kThreads / Strip::kRowChunks;
    static_assert(kApart % 8 == 0, "rows so far apart are twisted alike");

    const GramLayer& layer;
    const Element* from;  // This thread's first chunk.
    int32_t channels;     // What there is of them from the first of the strip.
    uint32_t to;          // In a strip.

    GANTK_DEVICE StripCopy(const GramWork& work, int32_t first_channel)
        : layer(work.layer), channels(work.layer.channels - first_channel) {
        const int32_t row = threadIdx.x / Strip::kRowChunks, chunk = threadIdx.x % Strip::kRowChunks;
        const int32_t channel = first_channel + (kPlacesDense ? row : chunk * Strip::kWidth);
        const int64_t place = work.first_place + (kPlacesDense ? chunk * Strip::kWidth : row);
        from = static_cast<const Element*>(work.picture(sizeof(Element))) + channel * layer.channel_stride +
               place * layer.place_stride;
        to = row * Strip::kRowBytes + (chunk ^ Strip::twist(row)) * kChunkBytes;
    }

    // Goes on to the next step, of which there are `places`; what there is not becomes zeros.
    GANTK_DEVICE void operator()(uint32_t strip, int32_t places) {
        const int32_t row = threadIdx.x / Strip::kRowChunks, chunk = threadIdx.x % Strip::kRowChunks;
        const int32_t rows = (kPlacesDense ? channels : places) - row;
        const int32_t left = (kPlacesDense ? places : channels) - chunk * Strip::kWidth;
        const int32_t width = left < 0 ? 0 : left < Strip::kWidth ? left : Strip::kWidth;
        const int64_t apart = kApart * (kPlacesDense ? layer.channel_stride : layer.place_stride);
        if (layer.vectorised != 0) {
            constexpr int32_t bytes = sizeof(Element);
#pragma unroll
            for (int32_t i = 0; i < kCopies; ++i) {
                copy_async16(strip + to + i * kApart * Strip::kRowBytes, from + i * apart,
                             i * kApart < rows ? width * bytes : 0);
            }
        } else {
#pragma unroll 1
            for (int32_t i = 0; i < kCopies; ++i) {
                gather(strip + to + i * kApart * Strip::kRowBytes, from + i * apart, i * kApart < rows ? width : 0);
            }
        }
        from += Strip::kPlaces * layer.place_stride;
    }

private:
    // The slow path for rows that are not made of whole, aligned chunks: element by element, through registers.
    GANTK_DEVICE void gather(uint32_t into, const Element* source, int32_t width) const {
        const int64_t stride = kPlacesDense ? layer.place_stride : layer.channel_stride;
        uint32_t words[4] = {};
#pragma unroll
        for (int32_t i = 0; i < Strip::kWidth; ++i) {
            if (i >= width) continue;
            if constexpr (sizeof(Element) == 2) {
                words[i / 2] |= static_cast<uint32_t>(source[i * stride].bits) << (16 * (i % 2));
            } else {
                words[i] = __float_as_uint(source[i * stride]);
            }
        }
        store_shared16(into, words);
    }
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
                to[i] = load_shared(strip + (from ^ (block * 64 + upper * 32)) +
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

// One warp's sums of kRows x kColumns channels, in fragments of 16 x 8.
template <class Mma, int32_t kRows, int32_t kColumns>
struct WarpSums {
    static constexpr int32_t kDown = kRows / 16, kAcross = kColumns / 8;
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

    template <class Reader>
    GANTK_DEVICE void add(const Reader& read_rows, const Reader& read_columns, uint32_t rows, uint32_t columns) {
#pragma unroll
        for (int32_t depth = 0; depth < kStepBytes / 32; ++depth) {
            uint32_t b[kAcross / 2][4], b_small[kAcross / 2][4];
#pragma unroll
            for (int32_t n = 0; n < kAcross / 2; ++n) {
                read_columns(b[n], columns, n, depth);
                narrow(b[n], b_small[n]);
            }
#pragma unroll
            for (int32_t m = 0; m < kDown; ++m) {
                uint32_t a[4], a_small[4];
                read_rows(a, rows, m, depth);
                narrow(a, a_small);
#pragma unroll
                for (int32_t n = 0; n < kAcross; ++n) {
                    const uint32_t(&right)[4] = b[n / 2], (&right_small)[4] = b_small[n / 2];
                    multiply(sums[m][n], a, a_small, right[n % 2 * 2], right[n % 2 * 2 + 1], right_small[n % 2 * 2],
                             right_small[n % 2 * 2 + 1]);
                }
            }
        }
    }

    // Adds to what this thread wrote before, or writes: no other thread touches these sums before the reduction.
    GANTK_DEVICE void promote(float* tile, int32_t pitch, bool first) const {
        float* to = tile + threadIdx.x % 32 / 4 * pitch + threadIdx.x % 4 * 2;
#pragma unroll
        for (int32_t m = 0; m < kDown; ++m) {
#pragma unroll
            for (int32_t n = 0; n < kAcross; ++n) {
#pragma unroll
                for (int32_t half = 0; half < 2; ++half) {
                    float2* pair = reinterpret_cast<float2*>(to + (m * 16 + half * 8) * pitch + n * 8);
                    float2 sum = make_float2(sums[m][n][half * 2], sums[m][n][half * 2 + 1]);
                    if (!first) {
                        const float2 before = *pair;
                        sum.x += before.x;
                        sum.y += before.y;
                    }
                    *pair = sum;
                }
            }
        }
    }

private:
    static GANTK_DEVICE void narrow(uint32_t (&words)[4], uint32_t (&small)[4]) {
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

    static GANTK_DEVICE void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&a_small)[4],
                                      uint32_t b0, uint32_t b1, uint32_t b0_small, uint32_t b1_small) {
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
};

template <class Mma, bool kPlacesDense, int32_t kTile, int32_t kStages>
GANTK_DEVICE void gram_partial_mma(const GramParameters& p) {
    using Element = typename Mma::Element;
    using Strip = Strip<Element, kPlacesDense, kTile>;
    using Reader = FragmentReader<Element, kPlacesDense, kTile>;
    constexpr int32_t kWarpRows = kTile / 2, kWarpColumns = 32, kWarpsAcross = kTile / kWarpColumns;
    extern __shared__ __align__(128) unsigned char ring_bytes[];
    const GramWork work = gram_work(p);
    const bool diagonal = work.diagonal();
    const uint32_t stage_bytes = Strip::kBytes * (diagonal ? 1 : 2);
    const uint32_t ring = shared_address(ring_bytes), ring_end = ring + kStages * stage_bytes;
    const int32_t steps = work.steps(Strip::kPlaces);

    StripCopy<Element, kPlacesDense, kTile> copy_rows(work, work.first_row), copy_columns(work, work.first_column);
    uint32_t into = ring;
    int32_t places = work.places;
    auto copy = [&]() {
        if (places > 0) {
            copy_rows(into, places);
            if (!diagonal) copy_columns(into + Strip::kBytes, places);
            places -= Strip::kPlaces;
            into = into + stage_bytes == ring_end ? ring : into + stage_bytes;
        }
        copy_commit();  // Also where there is nothing left, so that `copy_wait` counts the same to the end.
    };

    const int32_t warp = threadIdx.x / 32;
    const int32_t row = warp / kWarpsAcross * kWarpRows, column = warp % kWarpsAcross * kWarpColumns;
    // A warp whose sums lie outside of the matrix or above its diagonal only copies.
    const bool active = work.first_row + row < work.layer.channels &&
                        work.first_column + column < work.layer.channels && (!diagonal || column < row + kWarpRows);
    const Reader read_rows(row, true), read_columns(column, false);
    WarpSums<Mma, kWarpRows, kWarpColumns> sums;
    sums.clear();
    uint32_t stage = ring;
#pragma unroll 1
    for (int32_t ahead = 1; ahead < kStages; ++ahead) copy();
#pragma unroll 1
    for (int32_t step = 1; step <= steps; ++step) {
        copy_wait<kStages - 2>();
        __syncthreads();  // The stage of this step is there, and nobody reads that of the last any more.
        copy();
        if (active) {
            sums.add(read_rows, read_columns, stage, diagonal ? stage : stage + Strip::kBytes);
            if (step % Mma::kPromote == 0 || step == steps) {
                sums.promote(work.partial() + row * kTile + column, kTile, step <= Mma::kPromote);
                sums.clear();
            }
        }
        stage = stage + stage_bytes == ring_end ? ring : stage + stage_bytes;
    }
}

}  // namespace gantk::kernels
