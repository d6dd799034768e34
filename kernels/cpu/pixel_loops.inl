// SPDX-License-Identifier: Apache-2.0
// What is computed pixel by pixel over all channels: a part of nhwc_loops.inl.

constexpr int kAbreast = 4;                         // Pixels that are summed at the same time: lanes of a quad.
constexpr int64_t kGroup = 2 * kTogether<Element>;  // Times as many between one step and the next,
constexpr int64_t kGroupBytes = 1 << 14;            // where the first cache keeps them.
using Quad __attribute__((vector_size(kAbreast * sizeof(float)))) = float;
using StoredQuad __attribute__((vector_size(kAbreast * sizeof(float)), aligned(alignof(float)), may_alias)) = float;

// Of the two vectors that follow one another, the even or the odd lanes of each quad.
constexpr int place_in_quads(int lane, int odd) { return lane % 4 / 2 * kLanes + lane / 4 * 4 + lane % 2 * 2 + odd; }

template <int... kPlaces>
GANTK_TARGET inline void add_pairs(std::integer_sequence<int, kPlaces...>, const Floats& a, const Floats& b,
                                   Floats& sums) {
    sums = __builtin_shufflevector(a, b, place_in_quads(kPlaces, 0)...) +
           __builtin_shufflevector(a, b, place_in_quads(kPlaces, 1)...);
}

template <int... kQuads>
GANTK_TARGET inline void add_quads(std::integer_sequence<int, kQuads...>, const Floats& sums, Quad& total) {
    total = Quad{};
    ((total += __builtin_shufflevector(sums, sums, 4 * kQuads, 4 * kQuads + 1, 4 * kQuads + 2, 4 * kQuads + 3)), ...);
}

// The sum of each vector's lanes.
GANTK_TARGET inline void add_lanes(const Floats (&sums)[kAbreast], Quad& totals) {
    constexpr std::make_integer_sequence<int, kLanes> kPlaces;
    Floats low, high;
    add_pairs(kPlaces, sums[0], sums[1], low);
    add_pairs(kPlaces, sums[2], sums[3], high);
    add_pairs(kPlaces, low, high, low);
    add_quads(std::make_integer_sequence<int, kLanes / 4>(), low, totals);
}

// The lanes of a pixel's last vector that no vector before has, too.
GANTK_TARGET inline void lanes_of_last(int64_t channels, Words& counted) {
    Words lanes;
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = static_cast<std::uint32_t>(lane);
    const Words first = Words{} + static_cast<std::uint32_t>(kLanes - 1 - (channels - 1) % kLanes);
    counted = reinterpret_cast<Words>(lanes >= first);
}

// Of each pixel.
struct Means {
    float values[kAbreast];

    GANTK_TARGET inline void set(const Floats (&sums)[kAbreast], const PixelNorm& norm) {
        Quad totals;
        add_lanes(sums, totals);
        *reinterpret_cast<StoredQuad*>(values) = totals * (1.0f / static_cast<float>(norm.channels));
    }
    // Of squares that these are the means of.
    GANTK_TARGET inline void invert_roots(float epsilon) {
        StoredQuad& all = *reinterpret_cast<StoredQuad*>(values);
        const Quad squares = all + epsilon;
        all = 1.0f / Quad{__builtin_sqrtf(squares[0]), __builtin_sqrtf(squares[1]), __builtin_sqrtf(squares[2]),
                          __builtin_sqrtf(squares[3])};
    }
};

// Pixels of as many vectors as `kVectors`, or of any number where that is 0.
template <int kVectors>
GANTK_TARGET inline int64_t whole_channels(const PixelNorm& norm) {
    return kVectors > 0 ? (kVectors - 1) * kLanes : (norm.channels - 1) / kLanes * kLanes;
}

GANTK_TARGET inline float wide(const Element* from) {
    if constexpr (kTogether<Element> == 1) {
        return *from;
    } else {
        const std::uint32_t bits = static_cast<std::uint32_t>(*from) << 16;
        float value;
        __builtin_memcpy(&value, &bits, sizeof value);
        return value;
    }
}

// Sums of channels, or of the squares of what they are above the means. Many channels are summed as what they are above
// the first, or a large mean would cost digits.
template <int kPixels, int kVectors, bool kSquares>
GANTK_TARGET inline void add_channels(const Element* values, const PixelNorm& norm, const Words& counted,
                                      const Means& means, Floats (&sums)[kAbreast]) {
    constexpr bool kAbove = kSquares || kVectors == 0;
    for (int p = 0; p < kPixels; ++p) {
        load(values + p * norm.apart + norm.channels - kLanes, sums[p]);
        if (kAbove) sums[p] -= means.values[p];
        sums[p] = reinterpret_cast<Floats>(reinterpret_cast<Words>(sums[p]) & counted);
        if (kSquares) sums[p] *= sums[p];
    }
    for (int64_t channel = 0; channel < whole_channels<kVectors>(norm); channel += kLanes)
        for (int p = 0; p < kPixels; ++p) {
            Floats value;
            load(values + p * norm.apart + channel, value);
            if (kAbove) value -= means.values[p];
            sums[p] += kSquares ? value * value : value;
        }
}

// The last vector is read before what it shares with the one before is written over.
template <int kPixels, int kVectors>
GANTK_TARGET inline void scale_channels(const Element* values, const PixelNorm& norm, const Means& means,
                                        const Means& factors, Element* results) {
    const int64_t last = norm.channels - kLanes;
    Floats rest[kPixels];
    for (int p = 0; p < kPixels; ++p) load(values + p * norm.apart + last, rest[p]);
    for (int64_t channel = 0; channel < whole_channels<kVectors>(norm); channel += kLanes) {
        const Floats scale = *reinterpret_cast<const StoredFloats*>(norm.scale + channel);
        const Floats offset = *reinterpret_cast<const StoredFloats*>(norm.offset + channel);
        for (int p = 0; p < kPixels; ++p) {
            Floats value;
            load(values + p * norm.apart + channel, value);
            store((value - means.values[p]) * factors.values[p] * scale + offset, results + p * norm.apart + channel);
        }
    }
    const Floats scale = *reinterpret_cast<const StoredFloats*>(norm.scale + last);
    const Floats offset = *reinterpret_cast<const StoredFloats*>(norm.offset + last);
    for (int p = 0; p < kPixels; ++p)
        store((rest[p] - means.values[p]) * factors.values[p] * scale + offset, results + p * norm.apart + last);
}

// `count` times `kPixels`: a quotient or a root takes so long that the sums of the next ones are made meanwhile.
template <int kPixels, int kVectors>
GANTK_TARGET inline void normalize_group(const Element* values, int64_t count, const PixelNorm& norm,
                                         const Words& counted, Element* results) {
    const int64_t apart = kPixels * norm.apart;
    Floats sums[kAbreast] = {};
    constexpr int64_t kMost = kPixels == 1 ? kAbreast - 1 : kGroup;
    Means means[kMost], factors[kMost];
    for (int64_t i = 0; i < count; ++i) {
        means[i] = {};
        if (!norm.centred) continue;
        Means first{};
        for (int p = 0; p < kPixels && kVectors == 0; ++p) first.values[p] = wide(values + i * apart + p * norm.apart);
        add_channels<kPixels, kVectors, false>(values + i * apart, norm, counted, first, sums);
        means[i].set(sums, norm);
        for (int p = 0; p < kPixels && kVectors == 0; ++p) means[i].values[p] += first.values[p];
    }
    for (int64_t i = 0; i < count; ++i) {
        add_channels<kPixels, kVectors, true>(values + i * apart, norm, counted, means[i], sums);
        factors[i].set(sums, norm);
        factors[i].invert_roots(norm.epsilon);
    }
    for (int64_t i = 0; i < count; ++i)
        scale_channels<kPixels, kVectors>(values + i * apart, norm, means[i], factors[i], results + i * apart);
}

template <int kVectors>
GANTK_TARGET inline void normalize_pixels(const Element* values, int64_t pixels, const PixelNorm& given,
                                          Element* results) {
    const PixelNorm norm = given;  // Its own, which no result that is stored can change.
    Words counted;
    lanes_of_last(norm.channels, counted);
    const int64_t bytes = kAbreast * norm.apart * static_cast<int64_t>(sizeof(Element));
    const int64_t most = bytes * kGroup > kGroupBytes ? 1 : kGroup, rest = pixels % kAbreast;
    for (int64_t left = pixels / kAbreast, count; left > 0; left -= count) {
        count = left < most ? left : most;
        normalize_group<kAbreast, kVectors>(values, count, norm, counted, results);
        values += count * kAbreast * norm.apart;
        results += count * kAbreast * norm.apart;
    }
    normalize_group<1, kVectors>(values, rest, norm, counted, results);
}

GANTK_ENTRY void normalize(const Element* values, int64_t pixels, const PixelNorm& norm, Element* results) {
    switch (divide_up(norm.channels, kLanes)) {
        case 1:
            return normalize_pixels<1>(values, pixels, norm, results);
        case 2:
            return normalize_pixels<2>(values, pixels, norm, results);
        case 3:
            return normalize_pixels<3>(values, pixels, norm, results);
        case 4:
            return normalize_pixels<4>(values, pixels, norm, results);
        default:
            return normalize_pixels<0>(values, pixels, norm, results);
    }
}

// Products of a vector, or of the few values that are left.
template <bool kSigmoid>
GANTK_TARGET inline void gate_vector(const Element* first, const Element* second, Element* result) {
    Floats a, b;
    load(first, a);
    load(second, b);
    if constexpr (kSigmoid)
        multiply_with_sigmoid(b, a);
    else
        a *= b;
    store(a, result);
}

template <bool kSigmoid>
GANTK_TARGET inline void gate_some(const Element* first, const Element* second, std::size_t count, Element* result) {
    Element given[2][kLanes] = {}, made[kLanes];
    __builtin_memcpy(given[0], first, count * sizeof(Element));
    __builtin_memcpy(given[1], second, count * sizeof(Element));
    gate_vector<kSigmoid>(given[0], given[1], made);
    __builtin_memcpy(result, made, count * sizeof(Element));
}

// What a vector has past a pixel's last channel is written over by the next pixel. The next halves are fetched, for no
// processor foresees them where they are large.
template <bool kSigmoid>
GANTK_TARGET inline void gate_pixels(const Element* features, int64_t pixels, int64_t channels, Element* results) {
    for (int64_t left = pixels * channels; left > 0; left -= channels, features += 2 * channels, results += channels)
        for (int64_t channel = 0; channel < channels; channel += kLanes) {
            const Element* const first = features + channel;
            __builtin_prefetch(first + 2 * channels);
            __builtin_prefetch(first + 3 * channels);
            if (left - channel >= kLanes)
                gate_vector<kSigmoid>(first, first + channels, results + channel);
            else
                gate_some<kSigmoid>(first, first + channels, static_cast<std::size_t>(channels - channel),
                                    results + channel);
        }
}

GANTK_ENTRY void gate(const Element* features, int64_t pixels, int64_t channels, bool sigmoid, Element* results) {
    if (sigmoid)
        gate_pixels<true>(features, pixels, channels, results);
    else
        gate_pixels<false>(features, pixels, channels, results);
}
