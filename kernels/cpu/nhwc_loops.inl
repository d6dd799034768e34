// SPDX-License-Identifier: Apache-2.0
// The loops of nhwc_loops.hpp, for one kind of processor and one type. The file that includes this defines Element,
// GANTK_TARGET, which all that is inlined is compiled for, GANTK_ENTRY, which entry points are, kLanes of a register,
// kMostAtOnce, the registers of outputs that there is room for, kMostSums of all, and on what is in registers `load`,
// `store` and `add_products`. `kRegisters` of outputs count in these.

using Vector = Floats;
#include "exponential.inl"
#include "winograd_points.inl"

template <int kPixels, int kRegisters>
using Sums = Floats[kPixels][kRegisters];

template <int kPixels, int kRegisters>
GANTK_TARGET inline void clear(Sums<kPixels, kRegisters>& sums) {
    for (auto& row : sums)
        for (Floats& one : row) one = Floats{};
}

constexpr int kParts = kVector / kLanes;                      // Registers of a vector.
constexpr int64_t kOfRegister = kLanes * kTogether<Element>;  // Elements of a register of words.

// The same word in all lanes.
GANTK_TARGET inline void spread(const Element* from, Words& lanes) {
    std::uint32_t word;
    __builtin_memcpy(&word, from, sizeof word);
    lanes = Words{} + word;
}

// Adds the products of one run of words; weights of a word are `apart` elements behind those of the one before.
template <int kPixels, int kRegisters>
GANTK_TARGET inline void accumulate(const Element* const (&rows)[kPixels], int64_t words, const Element* weights,
                                    int64_t apart, Sums<kPixels, kRegisters>& sums) {
    for (int64_t word = 0; word < words; ++word, weights += apart) {
        Words given[kRegisters];
        for (int v = 0; v < kRegisters; ++v)
            given[v] = *reinterpret_cast<const StoredWords*>(weights + v * kOfRegister);
        for (int r = 0; r < kPixels; ++r) {
            Words one;
            spread(rows[r] + word * kTogether<Element>, one);
            for (int v = 0; v < kRegisters; ++v) add_products(one, given[v], sums[r][v]);
        }
    }
}

// Sums of the outputs from `at` on, without what is added to them.
GANTK_TARGET inline void activate(const Floats& sum, const Ending<Element>& ending, int64_t at, Floats& value) {
    value = sum + *reinterpret_cast<const StoredFloats*>(ending.bias + at);
    if (ending.slopes != nullptr) {
        value = value < Floats{} ? value * *reinterpret_cast<const StoredFloats*>(ending.slopes + at) : value;
    } else {
        const Floats floor = Floats{} + ending.floor;
        value = value < floor ? floor : value;  // NaN stays.
    }
}

GANTK_TARGET inline void finish(const Floats& sum, const Ending<Element>& ending, int64_t at, Element* result) {
    Floats value;
    activate(sum, ending, at, value);
    if (ending.others != nullptr) {
        Floats other;
        load(ending.others + (result - ending.results), other);
        value += other;
    }
    store(value, result);
}

// Fewer than a register has.
GANTK_TARGET inline void finish_some(const Floats& sum, const Ending<Element>& ending, int64_t at, int64_t count,
                                     Element* result) {
    Floats value;
    activate(sum, ending, at, value);
    Element whole[kLanes] = {};
    if (ending.others != nullptr) {
        for (int64_t i = 0; i < count; ++i) whole[i] = ending.others[result - ending.results + i];
        Floats other;
        load(whole, other);
        value += other;
    }
    store(value, whole);
    for (int64_t i = 0; i < count; ++i) result[i] = whole[i];
}

template <int kPixels, int kRegisters>
GANTK_TARGET inline void convolve_pixels(const Element* const* places, const Runs& runs, const Element* weights,
                                         int64_t apart, int64_t outputs, const Ending<Element>& given, int64_t first,
                                         Element* const* results) {
    const Ending<Element> ending = given;  // Its own, which no result that is stored can change.
    Sums<kPixels, kRegisters> sums;
    clear<kPixels, kRegisters>(sums);
    const Element* rows[kPixels];
    for (int r = 0; r < kPixels; ++r) rows[r] = places[r];
    for (int64_t run = 0; run < runs.count; ++run) {
        accumulate<kPixels, kRegisters>(rows, runs.words, weights, apart, sums);
        weights += runs.words * apart;
        for (int r = 0; r < kPixels; ++r) rows[r] += runs.steps[run];
    }
    for (int r = 0; r < kPixels; ++r)
        for (int v = 0; v < kRegisters; ++v) {
            const int64_t at = first + v * kLanes, rest = outputs - at;
            if (rest >= kLanes)
                finish(sums[r][v], ending, at, results[r] + at);
            else
                finish_some(sums[r][v], ending, at, rest, results[r] + at);
        }
}

template <int kPixels, int kRegisters>
GANTK_TARGET inline void multiply_rows(const Element* first, int64_t stride, int64_t words, const Element* weights,
                                       int64_t apart_weights, float* made, int64_t apart) {
    Sums<kPixels, kRegisters> sums;
    clear<kPixels, kRegisters>(sums);
    const Element* rows[kPixels];
    for (int r = 0; r < kPixels; ++r) rows[r] = first + r * stride;
    accumulate<kPixels, kRegisters>(rows, words, weights, apart_weights, sums);
    for (int r = 0; r < kPixels; ++r)
        for (int v = 0; v < kRegisters; ++v)
            *reinterpret_cast<StoredFloats*>(made + r * apart + v * kLanes) = sums[r][v];
}

// As many outputs and pixels at a time as there are registers for, then fewer pixels.
template <int kRegisters>
constexpr int kAtOnce = kRegisters < kMostAtOnce ? kRegisters : kMostAtOnce;
template <int kRegisters>
constexpr int kPixelsOf = kRegisters * 2 > kMostAtOnce ? 6 : 12;

template <int kPixels, int kRegisters>
GANTK_TARGET inline void convolve_some(const Element* const*& places, int64_t& count, const Runs& runs,
                                       const Element* weights, int64_t apart, int64_t outputs, const Ending<Element>& ending,
                                       int64_t first, Element* const*& results) {
    for (; count >= kPixels; count -= kPixels, places += kPixels, results += kPixels)
        convolve_pixels<kPixels, kRegisters>(places, runs, weights, apart, outputs, ending, first, results);
}

template <int kRegisters>
GANTK_TARGET inline void convolve_registers(const Element* const* places, int64_t count, const Runs& runs,
                                            const Element* weights, int64_t outputs, const Ending<Element>& ending,
                                            Element* const* results) {
    constexpr int kHere = kAtOnce<kRegisters>;
    constexpr int64_t kApart = kRegisters * kOfRegister;
    for (int v = 0; v < kRegisters; v += kHere, weights += kHere * kOfRegister) {
        const Element* const* from = places;
        Element* const* to = results;
        int64_t left = count;
        convolve_some<kPixelsOf<kHere>, kHere>(from, left, runs, weights, kApart, outputs, ending, v * kLanes, to);
        convolve_some<4, kHere>(from, left, runs, weights, kApart, outputs, ending, v * kLanes, to);
        convolve_some<1, kHere>(from, left, runs, weights, kApart, outputs, ending, v * kLanes, to);
    }
}

template <int kPixels, int kRegisters>
GANTK_TARGET inline void multiply_some(const Element*& rows, int64_t& count, int64_t stride, int64_t words,
                                       const Element* weights, int64_t apart_weights, float*& sums, int64_t apart) {
    for (; count >= kPixels; count -= kPixels, rows += kPixels * stride, sums += kPixels * apart)
        multiply_rows<kPixels, kRegisters>(rows, stride, words, weights, apart_weights, sums, apart);
}

template <int kRegisters>
GANTK_TARGET inline void multiply_registers(const Element* rows, int64_t count, int64_t stride, int64_t words,
                                            const Element* weights, float* sums, int64_t apart) {
    constexpr int kHere = kAtOnce<kRegisters>;
    constexpr int64_t kApart = kRegisters * kOfRegister;
    for (int v = 0; v < kRegisters; v += kHere, weights += kHere * kOfRegister) {
        const Element* from = rows;
        float* to = sums + v * kLanes;
        int64_t left = count;
        multiply_some<kPixelsOf<kHere>, kHere>(from, left, stride, words, weights, kApart, to, apart);
        multiply_some<4, kHere>(from, left, stride, words, weights, kApart, to, apart);
        multiply_some<1, kHere>(from, left, stride, words, weights, kApart, to, apart);
    }
}

// Rows of results that there are registers for beside weights of each output.
template <int kOutputs>
constexpr int kBand = kOutputs * kMostBand <= kMostSums ? int{kMostBand} : kMostSums / kOutputs;

template <int kOutputs>
GANTK_TARGET inline void convolve_planes(const Element* planes, const Planes& shape, const Element* weights,
                                         float* made) {
    constexpr int64_t kOne = kTogether<Element>;
    for (int64_t lane = 0; lane < kVector; lane += kLanes, planes += kOfRegister, made += kLanes) {
        Sums<kBand<kOutputs>, kOutputs> sums;
        clear<kBand<kOutputs>, kOutputs>(sums);
        const Element* given = weights;
        for (int64_t word = 0; word < shape.words; ++word)  // Of which the pixels at hand stay in the first cache.
            for (int64_t i = 0; i < shape.kernel_height; ++i) {
                const Element* from = planes + (i * shape.words + word) * shape.stride * kOne;
                for (int64_t j = 0; j < shape.kernel_width; ++j, from += kOne, given += kOutputs * kOne) {
                    Words each[kOutputs];
                    for (int k = 0; k < kOutputs; ++k) spread(given + k * kOne, each[k]);
                    const Element* row = from;
                    for (int r = 0; r < kBand<kOutputs>; ++r, row += shape.words * shape.stride * kOne) {
                        // Volatile, or each product would read it again, across two lines of the cache.
                        const Words pixels = *reinterpret_cast<const volatile StoredWords*>(row);
                        for (int k = 0; k < kOutputs; ++k) add_products(each[k], pixels, sums[r][k]);
                    }
                }
            }
        for (int r = 0; r < kBand<kOutputs>; ++r)
            for (int k = 0; k < kOutputs; ++k)
                *reinterpret_cast<StoredFloats*>(made + (r * kOutputs + k) * kVector) = sums[r][k];
    }
}

GANTK_ENTRY void convolve_narrow(const Element* planes, const Planes& shape, const Element* weights, int64_t outputs,
                                 float* sums) {
    switch (outputs) {
        case 1:
            return convolve_planes<1>(planes, shape, weights, sums);
        case 2:
            return convolve_planes<2>(planes, shape, weights, sums);
        case 3:
            return convolve_planes<3>(planes, shape, weights, sums);
        case 4:
            return convolve_planes<4>(planes, shape, weights, sums);
        case 5:
            return convolve_planes<5>(planes, shape, weights, sums);
        case 6:
            return convolve_planes<6>(planes, shape, weights, sums);
        case 7:
            return convolve_planes<7>(planes, shape, weights, sums);
        default:
            return convolve_planes<8>(planes, shape, weights, sums);
    }
}

int64_t narrow_rows(int64_t outputs) {
    constexpr int kEach[]{kBand<1>, kBand<2>, kBand<3>, kBand<4>, kBand<5>, kBand<6>, kBand<7>, kBand<8>};
    return kEach[outputs - 1];
}

GANTK_ENTRY void transform_features(const Element* const* places, int64_t channels, Element* frequencies,
                                    int64_t stride) {
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
        Floats columns[kReach][kReach];
        for (int j = 0; j < kReach; ++j) {
            Floats given[kReach], made[kReach];
            for (int i = 0; i < kReach; ++i) load(places[i * kReach + j] + channel, given[i]);
            to_frequencies(given, made);
            for (int i = 0; i < kReach; ++i) columns[i][j] = made[i];
        }
        for (int i = 0; i < kReach; ++i) {
            Floats made[kReach];
            to_frequencies(columns[i], made);
            for (int j = 0; j < kReach; ++j) store(made[j], frequencies + (i * kReach + j) * stride + channel);
        }
    }
}

// Sums of one row and of one column of frequencies may be lacking.
template <int kLackingRow, int kLackingColumn>
GANTK_TARGET inline void make_results(const float* sums, int64_t stride, int64_t channels,
                                      const Ending<Element>& given, Element* const* results) {
    const Ending<Element> ending = given;  // Its own, which no result that is stored can change.
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
        Floats rows[kSide][kReach];
        for (int j = 0; j < kReach; ++j) {
            Floats given[kReach], made[kSide];
            for (int i = 0; i < kReach; ++i)
                if (i == kLackingRow || j == kLackingColumn)
                    given[i] = Floats{};
                else
                    given[i] = *reinterpret_cast<const StoredFloats*>(sums + (i * kReach + j) * stride + channel);
            to_results(given, made);
            for (int i = 0; i < kSide; ++i) rows[i][j] = made[i];
        }
        for (int i = 0; i < kSide; ++i) {
            Floats made[kSide];
            to_results(rows[i], made);
            for (int j = 0; j < kSide; ++j)
                if (results[i * kSide + j] != nullptr)
                    finish(made[j], ending, channel, results[i * kSide + j] + channel);
        }
    }
}

GANTK_ENTRY void convolve(const Element* const* places, int64_t count, const Runs& runs, const Element* weights,
                          int64_t outputs, const Ending<Element>& ending, Element* const* results) {
    switch (vectors_of(outputs)) {
        case 1:
            return convolve_registers<kParts>(places, count, runs, weights, outputs, ending, results);
        case 2:
            return convolve_registers<2 * kParts>(places, count, runs, weights, outputs, ending, results);
        case 3:
            return convolve_registers<3 * kParts>(places, count, runs, weights, outputs, ending, results);
        default:
            return convolve_registers<4 * kParts>(places, count, runs, weights, outputs, ending, results);
    }
}

GANTK_ENTRY void multiply(const Element* rows, int64_t count, int64_t stride, int64_t words, const Element* weights,
                          int64_t vectors, float* sums, int64_t apart) {
    switch (vectors) {
        case 1:
            return multiply_registers<kParts>(rows, count, stride, words, weights, sums, apart);
        case 2:
            return multiply_registers<2 * kParts>(rows, count, stride, words, weights, sums, apart);
        case 3:
            return multiply_registers<3 * kParts>(rows, count, stride, words, weights, sums, apart);
        default:
            return multiply_registers<4 * kParts>(rows, count, stride, words, weights, sums, apart);
    }
}

GANTK_ENTRY void transform_sums(const float* sums, int64_t stride, int phase, int64_t channels, const Ending<Element>& ending,
                                Element* const* results) {
    constexpr int kEven = kReach - 1, kOdd = 0;  // The frequency that even and odd results lack.
    switch (phase) {
        case 0:
            return make_results<kEven, kEven>(sums, stride, channels, ending, results);
        case 1:
            return make_results<kEven, kOdd>(sums, stride, channels, ending, results);
        case 2:
            return make_results<kOdd, kEven>(sums, stride, channels, ending, results);
        case 3:
            return make_results<kOdd, kOdd>(sums, stride, channels, ending, results);
        default:
            return make_results<-1, -1>(sums, stride, channels, ending, results);
    }
}

// Of so many registers of channels at a time: the more, the longer the runs that memory is read by.
template <int kRegisters>
GANTK_TARGET inline void add_some_moments(const Element* values, int64_t pixels, int64_t channels, int64_t& channel,
                                          const float* first, float* sums, float* squares) {
    for (; channel + kRegisters * kLanes <= channels; channel += kRegisters * kLanes) {
        Floats start[kRegisters], sum[kRegisters], square[kRegisters];
        for (int v = 0; v < kRegisters; ++v) {
            const int64_t at = channel + v * kLanes;
            start[v] = *reinterpret_cast<const StoredFloats*>(first + at);
            sum[v] = *reinterpret_cast<const StoredFloats*>(sums + at);
            square[v] = *reinterpret_cast<const StoredFloats*>(squares + at);
        }
        const Element* from = values + channel;
        for (int64_t pixel = 0; pixel < pixels; ++pixel, from += channels)
            for (int v = 0; v < kRegisters; ++v) {
                Floats above;
                load(from + v * kLanes, above);
                above -= start[v];
                sum[v] += above;
                square[v] += above * above;
            }
        for (int v = 0; v < kRegisters; ++v) {
            const int64_t at = channel + v * kLanes;
            *reinterpret_cast<StoredFloats*>(sums + at) = sum[v];
            *reinterpret_cast<StoredFloats*>(squares + at) = square[v];
        }
    }
}

GANTK_ENTRY void add_moments(const Element* values, int64_t pixels, int64_t channels, const float* first, float* sums,
                             float* squares) {
    int64_t channel = 0;
    add_some_moments<kMostSums / 3>(values, pixels, channels, channel, first, sums, squares);
    add_some_moments<kMostSums / 6>(values, pixels, channels, channel, first, sums, squares);
    add_some_moments<1>(values, pixels, channels, channel, first, sums, squares);
}

template <bool kAdds>
GANTK_TARGET inline void scale_channels(const Element* values, const Element* others, int64_t pixels, int64_t channels,
                                        const Scaling& scaling, Element* results) {
    const Floats floor = Floats{} + scaling.floor;
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
        const Floats mean = *reinterpret_cast<const StoredFloats*>(scaling.means + channel);
        const Floats factor = *reinterpret_cast<const StoredFloats*>(scaling.factors + channel);
        const Floats offset = *reinterpret_cast<const StoredFloats*>(scaling.offsets + channel);
        for (int64_t at = channel; at < pixels * channels; at += channels) {
            Floats value;
            load(values + at, value);
            value = (value - mean) * factor + offset;
            value = value < floor ? floor : value;  // NaN stays.
            if (kAdds) {
                Floats other;
                load(others + at, other);
                value += other;
            }
            store(value, results + at);
        }
    }
}

GANTK_ENTRY void scale(const Element* values, const Element* others, int64_t pixels, int64_t channels,
                       const Scaling& scaling, Element* results) {
    if (others != nullptr)
        scale_channels<true>(values, others, pixels, channels, scaling, results);
    else
        scale_channels<false>(values, others, pixels, channels, scaling, results);
}

#include "depthwise_loops.inl"
#include "pixel_loops.inl"

constexpr Loops<Element> kLoops{convolve,           convolve_narrow, narrow_rows, multiply,
                                transform_features, transform_sums,  add_moments, scale,
                                convolve_channels,  normalize,       gate};
