// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums on Hopper: the copy engine fills a ring of stages, two warp groups multiply, one warp feeds.
// NCHW, and NHWC of 16 bits: `wgmma` takes those transposed, but not TF32.
//
// A block takes one piece of the lower triangle and a slice of the places. Rows and columns are channels of the same
// features, so that one copy in shared memory is both operands, and the piece is as large as the registers of two warp
// groups allow (64 x 640 sums), because that decides how often features are read:
//
//   C <= 64     64 x 64. Groups take turns, 128 bytes of the places each, and have sums of their own: two splits.
//   C <= 128    two rows of 64: 64 x 64 and 64 x 128.
//   diagonal    256 channels, the whole triangle: rows 0 and 3 (64 x 64, 64 x 256), rows 1 and 2 (64 x 128, 64 x 192).
//   below it    128 x 256 channels of two bands of 256, a row of 64 x 256 each.
//
// With C <= 256 every feature comes once from memory: bound by memory. Above, tensor cores bind: a step of 128 bytes
// takes them 1280 cycles on the diagonal and 1024 below, in which L2 delivers the 32 and 48 KiB of 25 and 47 bytes a
// cycle and multiprocessor; the latter is more than H100 sustains (about 32), and what a cluster would better.
#pragma once

#include <gantk/kernels/gram_sm90_parameters.h>

#include "gram_work.cuh"
#include "wgmma.cuh"

namespace gantk::kernels {

constexpr int32_t kSm90Threads = 384;  // A warp group that feeds, two that multiply.
constexpr int32_t kSm90RowBytes = 128;
constexpr int32_t kSm90Strip = 64 * kSm90RowBytes;  // 64 channels, 128 bytes of each.
constexpr int32_t kSm90Ring = 24 * kSm90Strip;
constexpr int32_t kSm90Stages = 12;  // At most.
constexpr int32_t kSm90Promote = 64;  // Steps; then sums leave the tensor cores, which cut off: see `gram_mma.cuh`.

enum class Piece : int32_t { turns, pair, triangle, below };

// What a block computes, and the ring that goes with it.
struct Sm90Work {
    const GramLayer& layer;
    const void* map;
    Piece piece;
    int32_t split;                 // Of the blocks; with `turns` it makes two of the sums.
    int32_t first_row;             // In channels; of `below` the rows' band half.
    int32_t first_column;
    int64_t first_place;
    int32_t steps;
    int32_t stage_bytes, stages;
    int32_t step_places;
};

// The `number`th piece of a layer of more than 256 channels: first the diagonal's bands of 256, then what is below
// them, band by band from above, and of each pair of bands the upper 128 rows, then the lower ones where there are.
GANTK_DEVICE void find_piece(Sm90Work& work, int32_t number) {
    const int32_t bands = (work.layer.channels + 255) / 256;
    if (number < bands) {
        work.piece = Piece::triangle;
        work.first_row = work.first_column = number * 256;
        return;
    }
    number -= bands;
    int32_t band = 1, halves = 2;
    for (;; ++band) {
        if (band == bands - 1) halves = work.layer.channels - band * 256 > 128 ? 2 : 1;
        if (number < band * halves) break;
        number -= band * halves;
    }
    work.piece = Piece::below;
    work.first_row = band * 256 + number % halves * 128;
    work.first_column = number / halves * 256;
}

template <class Element>
GANTK_DEVICE Sm90Work sm90_work(const GramSm90Parameters& p) {
    int32_t index = 0;
    const int32_t number = blockIdx.x;
    while (index + 1 < p.gram.count && number >= p.gram.layers[index + 1].first_block) ++index;
    const GramLayer& layer = p.gram.layers[index];
    const int32_t block = number - layer.first_block, channels = layer.channels;
    const int32_t bands = (channels + 255) / 256, rows = (channels + 127) / 128;
    // Pieces: `bands` on the diagonal; below it each row of 128 meets the bands above its own.
    const int32_t pieces = bands + bands * (bands - 1) - (bands * 2 - rows) * (bands - 1);
    Sm90Work work{layer, &p.maps[index], Piece::turns, block / pieces, 0, 0, 0, 0, 0, 0, 0};
    if (channels > 256) {
        find_piece(work, block % pieces);
    } else if (channels > 64) {
        work.piece = channels > 128 ? Piece::triangle : Piece::pair;
    }
    constexpr int32_t kStep = kSm90RowBytes / sizeof(Element);
    work.step_places = work.piece == Piece::turns ? 2 * kStep : kStep;
    const int32_t strips = work.piece == Piece::below ? 6 : work.piece == Piece::triangle ? 4 : 2;
    work.stage_bytes = strips * kSm90Strip;
    work.stages = kSm90Ring / work.stage_bytes;
    work.first_place = static_cast<int64_t>(work.split) * layer.slice;
    const int64_t left = layer.places - work.first_place, places = left < layer.slice ? left : layer.slice;
    work.steps = static_cast<int32_t>((places + work.step_places - 1) / work.step_places);
    return work;
}

// A stage of the ring, and the parity of the phase that its barriers are in.
struct RingPlace {
    int32_t stage = 0;
    uint32_t parity = 0;

    GANTK_DEVICE void advance(int32_t stages) {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// Operands are stored along the sum for NCHW, along their rows for NHWC.
template <class Element, bool kChannelsLast>
struct OperandType {
    using Type = Element;
};
template <class Element>
struct OperandType<Element, true> {
    using Type = Transposed<Element>;
};

struct Ring {
    uint32_t data, full, empty;  // Shared addresses: of the stages and of their barriers.
};

// One thread asks for a stage as soon as it is free. NCHW: boxes of 64 or 128 channels, 128 bytes of places each;
// NHWC: a box a strip, 64 channels of as many places.
template <class Element, bool kChannelsLast>
GANTK_DEVICE void feed(const Sm90Work& work, const Ring& ring) {
    constexpr int32_t kStep = kSm90RowBytes / sizeof(Element);
    const bool turns = work.piece == Piece::turns, below = work.piece == Piece::below;
    const int32_t picture = blockIdx.y, each = kChannelsLast || turns ? 1 : 2;  // Strips of a box.
    RingPlace at;
    for (int32_t step = 0; step < work.steps; ++step) {
        const uint32_t full = ring.full + at.stage * 8, to = ring.data + at.stage * work.stage_bytes;
        const int32_t first = static_cast<int32_t>(work.first_place + static_cast<int64_t>(step) * work.step_places);
        barrier_wait(ring.empty + at.stage * 8, at.parity ^ 1);
        barrier_arrive_expect(full, work.stage_bytes);
        for (int32_t strip = 0; strip * kSm90Strip < work.stage_bytes; strip += each) {
            const int32_t rows = below && strip >= 4 ? work.first_row - 256 : work.first_column;
            const int32_t channel = turns ? 0 : rows + strip * 64, place = turns ? first + strip * kStep : first;
            copy_box(to + strip * kSm90Strip, work.map, full, kChannelsLast ? channel : place,
                     kChannelsLast ? place : channel, picture);
        }
        at.advance(work.stages);
    }
}

// Writes or adds to 64 rows of sums, in tiles of 64 x 64: row `row` of the triangle of tiles, from tile `column` on.
template <int32_t kCount>
GANTK_DEVICE void promote(const GramLayer& layer, int32_t split, int32_t row, int32_t column, float (&sums)[kCount],
                          bool first) {
    const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int64_t tile = (static_cast<int64_t>(blockIdx.y) * layer.splits + split) * layer.tiles;
    float* to = layer.partial + (tile + row * (row + 1) / 2 + column) * 4096;
    to += (warp * 16 + lane / 4) * 64 + lane % 4 * 2;
#pragma unroll
    for (int32_t i = 0; i < kCount; i += 2) {
        float2* pair = reinterpret_cast<float2*>(to + i / 32 * 4096 + i / 2 % 2 * 8 * 64 + i / 4 % 8 * 8);
        float2 sum = make_float2(sums[i], sums[i + 1]);
        if (!first) {
            const float2 before = *pair;
            sum.x += before.x;
            sum.y += before.y;
        }
        *pair = sum;
        sums[i] = sums[i + 1] = 0.0f;
    }
}

// What a warp group multiplies of a stage: one or two rows of 64 channels by the first channels of the columns.
struct GroupRows {
    int32_t first, second;     // The rows' strips in the stage.
    int32_t columns;           // The first strip of the columns.
    int32_t split;
    int32_t row, column;       // The first rows' and the columns' places in the triangle of tiles.
};

template <class Type, bool kTransposed, int32_t kFirst, int32_t kSecond>
GANTK_DEVICE void multiply(const Sm90Work& work, const Ring& ring, const GroupRows& rows) {
    constexpr uint64_t kDepth = kWgmmaDepth<kTransposed>;
    const Type type{};
    float first[kFirst / 2] = {}, second[kSecond > 0 ? kSecond / 2 : 1] = {};
    RingPlace at, before;
    const int32_t lane = threadIdx.x % 32, matrix_rows = (work.layer.channels + 63) / 64;
    bool fresh = true;
    for (int32_t step = 0; step < work.steps;) {
        const int32_t until = work.steps - step < kSm90Promote ? work.steps : step + kSm90Promote;
        wgmma_settle(first);
        wgmma_settle(second);
        wgmma_fence();
        for (const int32_t begin = step; step < until; ++step) {
            const uint32_t stage = ring.data + at.stage * work.stage_bytes;
            const uint64_t left = wgmma_operand<kTransposed>(stage + rows.first * kSm90Strip);
            const uint64_t lower = wgmma_operand<kTransposed>(stage + rows.second * kSm90Strip);
            const uint64_t right = wgmma_operand<kTransposed>(stage + rows.columns * kSm90Strip);
            barrier_wait(ring.full + at.stage * 8, at.parity);
            wgmma_fence();
#pragma unroll
            for (int32_t depth = 0; depth < 4; ++depth) {
                wgmma(type, first, left + depth * kDepth, right + depth * kDepth);
                if constexpr (kSecond > 0) {
                    wgmma(type, second, lower + depth * kDepth, right + depth * kDepth);
                }
            }
            wgmma_commit();
            // While these run, those of the last step end; its stage may then be filled again.
            wgmma_wait<1>();
            if (step > begin && lane == 0) barrier_arrive(ring.empty + before.stage * 8);
            before = at;
            at.advance(work.stages);
        }
        wgmma_wait<0>();
        wgmma_settle(first);
        wgmma_settle(second);
        if (lane == 0) barrier_arrive(ring.empty + before.stage * 8);
        if (rows.row < matrix_rows) promote(work.layer, rows.split, rows.row, rows.column, first, fresh);
        if constexpr (kSecond > 0) {
            const int32_t below = rows.row + rows.second - rows.first;
            if (below < matrix_rows) promote(work.layer, rows.split, below, rows.column, second, fresh);
        }
        fresh = false;
    }
}

template <class Type, bool kTransposed>
GANTK_DEVICE void multiply(const Sm90Work& work, const Ring& ring, int32_t group) {
    const int32_t row = work.first_row / 64, column = work.first_column / 64;
    switch (work.piece) {
        case Piece::turns:
            return multiply<Type, kTransposed, 64, 0>(work, ring, {group, 0, group, 2 * work.split + group, 0, 0});
        case Piece::pair:
            if (group == 0) return multiply<Type, kTransposed, 64, 0>(work, ring, {0, 0, 0, work.split, 0, 0});
            return multiply<Type, kTransposed, 128, 0>(work, ring, {1, 0, 0, work.split, 1, 0});
        case Piece::triangle:
            if (group == 0) return multiply<Type, kTransposed, 64, 256>(work, ring, {0, 3, 0, work.split, row, column});
            return multiply<Type, kTransposed, 128, 192>(work, ring, {1, 2, 0, work.split, row + 1, column});
        case Piece::below:
            return multiply<Type, kTransposed, 256, 0>(work, ring, {4 + group, 0, 0, work.split, row + group, column});
    }
}

template <class Element, bool kChannelsLast>
GANTK_DEVICE void gram_partial_sm90(const GramSm90Parameters& p) {
    extern __shared__ unsigned char unaligned[];
    __shared__ uint64_t barriers[2 * kSm90Stages];
    const Ring ring{(shared_address(unaligned) + 1023) & ~1023u, shared_address(barriers),
                    shared_address(barriers + kSm90Stages)};
    const Sm90Work work = sm90_work<Element>(p);
    if (threadIdx.x == 0) {
        for (int32_t stage = 0; stage < work.stages; ++stage) {
            barrier_init(ring.full + stage * 8, 1);   // The feeding thread.
            barrier_init(ring.empty + stage * 8, 8);  // The multiplying warps.
        }
        barrier_init_fence();
    }
    __syncthreads();
    const int32_t group = threadIdx.x / 128;
    if (group == 0) {
        registers_release<40>();
        if (threadIdx.x == 0) feed<Element, kChannelsLast>(work, ring);
    } else {
        registers_claim<232>();
        multiply<typename OperandType<Element, kChannelsLast>::Type, kChannelsLast>(work, ring, group - 1);
    }
}

}  // namespace gantk::kernels
