// SPDX-License-Identifier: Apache-2.0
// The loops of nhwc_loops.hpp, for the processor of the file that includes this: it defines GANTK_TARGET, which all
// that is inlined is compiled for, GANTK_ENTRY, which entry points are, and `add_products` and `store` on vectors.

using Vector = Floats;
#include "winograd_points.inl"

template <int kPixels, int kVectors>
using Sums = Floats[kPixels][kVectors];

template <int kPixels, int kVectors>
GANTK_TARGET inline void clear(Sums<kPixels, kVectors>& sums) {
    for (auto& row : sums)
        for (Floats& one : row) one = Floats{};
}

// Adds the products of one run of pairs.
template <int kPixels, int kVectors>
GANTK_TARGET inline void accumulate(const Bfloat* const (&rows)[kPixels], int64_t pairs, const Bfloat* weights,
                                    Sums<kPixels, kVectors>& sums) {
    for (int64_t pair = 0; pair < pairs; ++pair, weights += kVectors * 2 * kVector) {
        Words given[kVectors];
        for (int v = 0; v < kVectors; ++v) given[v] = *reinterpret_cast<const StoredWords*>(weights + v * 2 * kVector);
        for (int r = 0; r < kPixels; ++r) {
            const Words both = Words{} + *reinterpret_cast<const StoredWord*>(rows[r] + 2 * pair);
            for (int v = 0; v < kVectors; ++v) add_products(both, given[v], sums[r][v]);
        }
    }
}

GANTK_TARGET inline void load(const Bfloat* from, Floats& values) {
    values = reinterpret_cast<Floats>(__builtin_convertvector(*reinterpret_cast<const StoredHalves*>(from), Words) << 16);
}

GANTK_TARGET inline void finish(const Floats& sum, const Ending& ending, int64_t at, Bfloat* result) {
    const Floats floor = Floats{} + ending.floor;
    const Floats value = sum + *reinterpret_cast<const StoredFloats*>(ending.bias + at);
    store(value < floor ? floor : value, result);  // NaN stays.
}

template <int kPixels, int kVectors>
GANTK_TARGET inline void convolve_pixels(const Bfloat* const* places, const Runs& runs, const Bfloat* weights,
                                         int64_t outputs, const Ending& ending, Bfloat* const* results) {
    Sums<kPixels, kVectors> sums;
    clear<kPixels, kVectors>(sums);
    const Bfloat* rows[kPixels];
    for (int r = 0; r < kPixels; ++r) rows[r] = places[r];
    for (int64_t segment = 0; segment < runs.segments; ++segment) {
        accumulate<kPixels, kVectors>(rows, runs.pairs, weights, sums);
        weights += runs.pairs * kVectors * 2 * kVector;
        for (int r = 0; r < kPixels; ++r) rows[r] += runs.stride;
    }
    const int64_t rest = outputs - (kVectors - 1) * kVector;  // Of the last vector.
    for (int r = 0; r < kPixels; ++r) {
        for (int v = 0; v < kVectors - 1; ++v) finish(sums[r][v], ending, v * kVector, results[r] + v * kVector);
        Bfloat* const last = results[r] + (kVectors - 1) * kVector;
        if (rest == kVector) {
            finish(sums[r][kVectors - 1], ending, (kVectors - 1) * kVector, last);
        } else {
            Bfloat whole[kVector];
            finish(sums[r][kVectors - 1], ending, (kVectors - 1) * kVector, whole);
            for (int64_t i = 0; i < rest; ++i) last[i] = whole[i];
        }
    }
}

template <int kPixels, int kVectors>
GANTK_TARGET inline void multiply_rows(const Bfloat* first, int64_t stride, int64_t pairs, const Bfloat* weights,
                                       float* made, int64_t apart) {
    Sums<kPixels, kVectors> sums;
    clear<kPixels, kVectors>(sums);
    const Bfloat* rows[kPixels];
    for (int r = 0; r < kPixels; ++r) rows[r] = first + r * stride;
    accumulate<kPixels, kVectors>(rows, pairs, weights, sums);
    for (int r = 0; r < kPixels; ++r)
        for (int v = 0; v < kVectors; ++v) *reinterpret_cast<StoredFloats*>(made + r * apart + v * kVector) = sums[r][v];
}

// As many pixels at a time as there are registers for, then fewer.
template <int kVectors>
constexpr int kPixelsOf = kVectors > 2 ? 6 : 12;

template <int kPixels, int kVectors>
GANTK_TARGET inline void convolve_some(const Bfloat* const*& places, int64_t& count, const Runs& runs,
                                       const Bfloat* weights, int64_t outputs, const Ending& ending,
                                       Bfloat* const*& results) {
    for (; count >= kPixels; count -= kPixels, places += kPixels, results += kPixels)
        convolve_pixels<kPixels, kVectors>(places, runs, weights, outputs, ending, results);
}

template <int kVectors>
GANTK_TARGET inline void convolve_vectors(const Bfloat* const* places, int64_t count, const Runs& runs, const Bfloat* weights,
                                  int64_t outputs, const Ending& ending, Bfloat* const* results) {
    convolve_some<kPixelsOf<kVectors>, kVectors>(places, count, runs, weights, outputs, ending, results);
    convolve_some<4, kVectors>(places, count, runs, weights, outputs, ending, results);
    convolve_some<1, kVectors>(places, count, runs, weights, outputs, ending, results);
}

template <int kPixels, int kVectors>
GANTK_TARGET inline void multiply_some(const Bfloat*& rows, int64_t& count, int64_t stride, int64_t pairs,
                                       const Bfloat* weights, float*& sums, int64_t apart) {
    for (; count >= kPixels; count -= kPixels, rows += kPixels * stride, sums += kPixels * apart)
        multiply_rows<kPixels, kVectors>(rows, stride, pairs, weights, sums, apart);
}

template <int kVectors>
GANTK_TARGET inline void multiply_vectors(const Bfloat* rows, int64_t count, int64_t stride, int64_t pairs,
                                  const Bfloat* weights, float* sums, int64_t apart) {
    multiply_some<kPixelsOf<kVectors>, kVectors>(rows, count, stride, pairs, weights, sums, apart);
    multiply_some<4, kVectors>(rows, count, stride, pairs, weights, sums, apart);
    multiply_some<1, kVectors>(rows, count, stride, pairs, weights, sums, apart);
}

GANTK_ENTRY void transform_channels(const Bfloat* const* places, int64_t channels, Bfloat* frequencies,
                                    int64_t stride) {
    for (int64_t channel = 0; channel < channels; channel += kVector) {
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
GANTK_TARGET inline void make_results(const float* sums, int64_t stride, int64_t channels, const Ending& ending,
                              Bfloat* const* results) {
    for (int64_t channel = 0; channel < channels; channel += kVector) {
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

GANTK_ENTRY void convolve(const Bfloat* const* places, int64_t count, const Runs& runs, const Bfloat* weights,
                          int64_t outputs, const Ending& ending, Bfloat* const* results) {
    switch (vectors_of(outputs)) {
        case 1:
            return convolve_vectors<1>(places, count, runs, weights, outputs, ending, results);
        case 2:
            return convolve_vectors<2>(places, count, runs, weights, outputs, ending, results);
        case 3:
            return convolve_vectors<3>(places, count, runs, weights, outputs, ending, results);
        default:
            return convolve_vectors<4>(places, count, runs, weights, outputs, ending, results);
    }
}

GANTK_ENTRY void multiply(const Bfloat* rows, int64_t count, int64_t stride, int64_t pairs, const Bfloat* weights,
                          int64_t vectors, float* sums, int64_t apart) {
    switch (vectors) {
        case 1:
            return multiply_vectors<1>(rows, count, stride, pairs, weights, sums, apart);
        case 2:
            return multiply_vectors<2>(rows, count, stride, pairs, weights, sums, apart);
        case 3:
            return multiply_vectors<3>(rows, count, stride, pairs, weights, sums, apart);
        default:
            return multiply_vectors<4>(rows, count, stride, pairs, weights, sums, apart);
    }
}

GANTK_ENTRY void transform_sums(const float* sums, int64_t stride, int phase, int64_t channels, const Ending& ending,
                                Bfloat* const* results) {
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

GANTK_ENTRY void add_moments(const Bfloat* values, int64_t pixels, int64_t channels, const float* first, float* sums,
                             float* squares) {
    for (int64_t channel = 0; channel < channels; channel += kVector) {
        const Floats start = *reinterpret_cast<const StoredFloats*>(first + channel);
        Floats sum = *reinterpret_cast<const StoredFloats*>(sums + channel);
        Floats square = *reinterpret_cast<const StoredFloats*>(squares + channel);
        const Bfloat* from = values + channel;
        for (int64_t pixel = 0; pixel < pixels; ++pixel, from += channels) {
            Floats above;
            load(from, above);
            above -= start;
            sum += above;
            square += above * above;
        }
        *reinterpret_cast<StoredFloats*>(sums + channel) = sum;
        *reinterpret_cast<StoredFloats*>(squares + channel) = square;
    }
}

template <bool kAdds>
GANTK_TARGET inline void scale_channels(const Bfloat* values, const Bfloat* others, int64_t pixels, int64_t channels,
                                        const Scaling& scaling, Bfloat* results) {
    const Floats floor = Floats{} + scaling.floor;
    for (int64_t channel = 0; channel < channels; channel += kVector) {
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

GANTK_ENTRY void scale(const Bfloat* values, const Bfloat* others, int64_t pixels, int64_t channels,
                       const Scaling& scaling, Bfloat* results) {
    if (others != nullptr)
        scale_channels<true>(values, others, pixels, channels, scaling, results);
    else
        scale_channels<false>(values, others, pixels, channels, scaling, results);
}
