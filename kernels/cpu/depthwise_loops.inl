// SPDX-License-Identifier: Apache-2.0
// Convolutions of each channel by itself: a part of nhwc_loops.inl. A block of kVector channels is two vectors, of
// bfloat16 the even and the odd ones, which a shift and a mask tell apart.

constexpr bool kManyRegisters = kLanes == kVector;                           // 32 of them, whatever their size.
constexpr int kPatches = kManyRegisters ? 8 : 6, kTaps = kManyRegisters ? 4 : 1;  // That are done at a time.

using PairWords __attribute__((vector_size(cpu::kLanes * sizeof(std::uint32_t)))) = std::uint32_t;
using StoredPairs
    __attribute__((vector_size(sizeof(PairWords)), aligned(alignof(Bfloat)), may_alias)) = std::uint32_t;

struct Block {
    Lanes low, high;
};

GANTK_TARGET inline void load_floats(const float* from, Block& block) {
    block.low = *reinterpret_cast<const Lanes*>(from);
    block.high = *reinterpret_cast<const Lanes*>(from + cpu::kLanes);
}

GANTK_TARGET inline void load_block(const Element* from, Block& block) {
    if constexpr (kTogether<Element> == 1) {
        load_floats(reinterpret_cast<const float*>(from), block);
    } else {
        const PairWords pairs = *reinterpret_cast<const StoredPairs*>(from);
        block.low = reinterpret_cast<Lanes>(pairs << 16);
        block.high = reinterpret_cast<Lanes>(pairs & 0xffff0000u);
    }
}

// To nearest, ties to even, and left in the upper half.
GANTK_TARGET inline void round_to_bfloat(const Lanes& values, PairWords& rounded) {
    const PairWords bits = reinterpret_cast<PairWords>(values);
    rounded = (bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u);
}

GANTK_TARGET inline void store_block(const Block& block, Element* to) {
    if constexpr (kTogether<Element> == 1) {
        *reinterpret_cast<Lanes*>(to) = block.low;
        *reinterpret_cast<Lanes*>(to + cpu::kLanes) = block.high;
    } else {
        PairWords even, odd;
        round_to_bfloat(block.low, even);
        round_to_bfloat(block.high, odd);
        *reinterpret_cast<StoredPairs*>(to) = even >> 16 | (odd & 0xffff0000u);
    }
}

// `kCount` taps of a row, of `kPixels` pixels that are as far from each other as the taps are: what one meets is read
// once for all.
template <int kPixels, int kCount>
GANTK_TARGET inline void add_taps(const Element* features, int64_t apart, const float* weights,
                                  Block (&sums)[kPixels]) {
    Block given[kCount], met;
    for (int tap = 0; tap < kCount; ++tap) load_floats(weights + tap * kVector, given[tap]);
#pragma GCC unroll 16
    for (int at = 0; at < kPixels + kCount - 1; ++at) {
        load_block(features + at * apart, met);
#pragma GCC unroll 16
        for (int tap = 0; tap < kCount; ++tap)
            if (at >= tap && at - tap < kPixels) {
                sums[at - tap].low += met.low * given[tap].low;
                sums[at - tap].high += met.high * given[tap].high;
            }
    }
}

template <int kPixels>
GANTK_TARGET inline void add_row(const Element* features, const Patches& shape, const float* weights,
                                 Block (&sums)[kPixels]) {
    int64_t tap = 0;
    if (kTaps > 1 && kPixels > 1 && shape.from_tap == shape.from_pixel) {
        for (; tap + kTaps <= shape.taps; tap += kTaps)
            add_taps<kPixels, kTaps>(features + tap * shape.from_tap, shape.from_tap, weights + tap * kVector, sums);
        if (tap + 3 == shape.taps)
            return add_taps<kPixels, 3>(features + tap * shape.from_tap, shape.from_tap, weights + tap * kVector, sums);
    }
    for (; tap < shape.taps; ++tap) {
        Block given, met;
        load_floats(weights + tap * kVector, given);
        for (int p = 0; p < kPixels; ++p) {
            load_block(features + tap * shape.from_tap + p * shape.from_pixel, met);
            sums[p].low += met.low * given.low;
            sums[p].high += met.high * given.high;
        }
    }
}

GANTK_TARGET inline void activate(const Ending<Element>& ending, int64_t at, Lanes& value) {
    if (ending.slopes != nullptr) {
        value = value < Lanes{} ? value * *reinterpret_cast<const Lanes*>(ending.slopes + at) : value;
    } else {
        const Lanes floor = Lanes{} + ending.floor;
        value = value < floor ? floor : value;  // NaN stays.
    }
}

// What the results below will meet, and these themselves, is fetched: processors do not foresee that by themselves.
template <int kPixels>
GANTK_TARGET inline void convolve_pixels(const Element* features, const Patches& given_shape, const float* weights,
                                         const Ending<Element>& given, Element* results) {
    const Ending<Element> ending = given;  // Its own, which no result that is stored can change.
    const Patches shape = given_shape;
    const int64_t taps = shape.kernel_height * shape.kernel_width;
    for (int64_t block = 0; block < shape.blocks; ++block, weights += taps * kVector) {
        const int64_t first = block + 1 < shape.blocks ? block * kVector : shape.last;
        const Element* row = features + first;
        Block sums[kPixels];
#pragma GCC unroll 16
        for (int p = 0; p < kPixels; ++p) load_floats(ending.bias + block * kVector, sums[p]);
        for (int64_t i = 0; i < shape.rows; ++i, row += shape.from_row)
            add_row<kPixels>(row, shape, weights + i * shape.kernel_width * kVector, sums);
#pragma GCC unroll 16
        for (int p = 0; p < kPixels; ++p) {
            Element* const result = results + p * shape.from_result + first;
            __builtin_prefetch(row + p * shape.from_pixel, 0, 2);
            __builtin_prefetch(result + shape.from_result_row, 1, 2);
            activate(ending, block * kVector, sums[p].low);
            activate(ending, block * kVector + cpu::kLanes, sums[p].high);
            store_block(sums[p], result);
        }
    }
}

template <int kPixels>
GANTK_TARGET inline void convolve_run(const Element*& features, const Patches& shape, const float* weights,
                                      int64_t& count, const Ending<Element>& ending, Element*& results) {
    for (; count >= kPixels; count -= kPixels) {
        convolve_pixels<kPixels>(features, shape, weights, ending, results);
        features += kPixels * shape.from_pixel;
        results += kPixels * shape.from_result;
    }
}

GANTK_ENTRY void convolve_channels(const Element* features, const Patches& shape, const float* weights, int64_t count,
                                   const Ending<Element>& ending, Element* results) {
    convolve_run<kPatches>(features, shape, weights, count, ending, results);
    convolve_run<kPatches / 2>(features, shape, weights, count, ending, results);
    convolve_run<1>(features, shape, weights, count, ending, results);
}
