// SPDX-License-Identifier: Apache-2.0
// What is computed pixel by pixel over all channels: a part of nhwc_loops.inl.

constexpr int kAbreast = 4;               // Pixels whose sums are made at the same time.
constexpr int64_t kGroupBytes = 1 << 14;  // Of features that are read three times, from the first cache.

// Where the sums of two neighbouring lanes of `a` and `b` come from, first of quads of lanes, then of whole quads.
constexpr int place_in_quads(int lane, int second) {
    return lane % 4 / 2 * kLanes + lane / 4 * 4 + lane % 2 * 2 + second;
}
constexpr int place_of_quads(int lane, int second) { return (lane / 4 * 2 + second) * 4 + lane % 4; }

template <int... kPlaces>
GANTK_TARGET inline void add_in_quads(std::integer_sequence<int, kPlaces...>, const Floats& a, const Floats& b,
                                      Floats& sums) {
    sums = __builtin_shufflevector(a, b, place_in_quads(kPlaces, 0)...) +
           __builtin_shufflevector(a, b, place_in_quads(kPlaces, 1)...);
}

template <int... kPlaces>
GANTK_TARGET inline void add_quads(std::integer_sequence<int, kPlaces...>, const Floats& a, const Floats& b,
                                   Floats& sums) {
    sums = __builtin_shufflevector(a, b, place_of_quads(kPlaces, 0)...) +
           __builtin_shufflevector(a, b, place_of_quads(kPlaces, 1)...);
}

// The sum of each vector's lanes, one after another, in the first vector.
GANTK_TARGET inline void add_lanes(Floats (&sums)[kLanes]) {
    constexpr std::make_integer_sequence<int, kLanes> kPlaces;
#pragma GCC unroll 16
    for (int left = kLanes / 2; left > 0; left /= 2)
#pragma GCC unroll 16
        for (int i = 0; i < left; ++i)
            if (left >= kLanes / 4)
                add_in_quads(kPlaces, sums[2 * i], sums[2 * i + 1], sums[i]);
            else
                add_quads(kPlaces, sums[2 * i], sums[2 * i + 1], sums[i]);
}

// Lanes of a pixel's last vector that no vector before has, too.
GANTK_TARGET inline void lanes_of_last(int64_t channels, Words& counted) {
    Words lanes;
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = static_cast<std::uint32_t>(lane);
    const Words first = Words{} + static_cast<std::uint32_t>(kLanes - 1 - (channels - 1) % kLanes);
    counted = reinterpret_cast<Words>(lanes >= first);
}

// Sums of channels, or of the squares of what they are above the means.
template <bool kSquares, int kPixels>
GANTK_TARGET inline void add_channels(const Element* values, const PixelNorm& norm, const Words& counted,
                                      const float* means, Floats* sums) {
    const int64_t last = norm.channels - kLanes;
    Floats made[kPixels];
    for (int p = 0; p < kPixels; ++p) {
        load(values + p * norm.apart + last, made[p]);
        if (kSquares) made[p] -= means[p];
        made[p] = reinterpret_cast<Floats>(reinterpret_cast<Words>(made[p]) & counted);
        if (kSquares) made[p] *= made[p];
    }
    for (int64_t channel = 0; channel < last; channel += kLanes)
        for (int p = 0; p < kPixels; ++p) {
            Floats value;
            load(values + p * norm.apart + channel, value);
            if (kSquares) value -= means[p];
            made[p] += kSquares ? value * value : value;
        }
    for (int p = 0; p < kPixels; ++p) sums[p] = made[p];
}

// The sums over the channels of up to kLanes pixels.
template <bool kSquares>
GANTK_TARGET inline void add_pixels(const Element* values, int64_t count, const PixelNorm& norm, const Words& counted,
                                    const float* means, Floats& sums) {
    Floats each[kLanes] = {};
    int64_t p = 0;
    for (; p + kAbreast <= count; p += kAbreast)
        add_channels<kSquares, kAbreast>(values + p * norm.apart, norm, counted, means + p, each + p);
    for (; p < count; ++p) add_channels<kSquares, 1>(values + p * norm.apart, norm, counted, means + p, each + p);
    add_lanes(each);
    sums = each[0];
}

// The last vector is read before what it shares with the one before is written over.
template <int kPixels>
GANTK_TARGET inline void scale_pixels(const Element* values, const PixelNorm& norm, const float* means,
                                      const float* factors, Element* results) {
    const int64_t last = norm.channels - kLanes;
    Floats rest[kPixels];
    for (int p = 0; p < kPixels; ++p) load(values + p * norm.apart + last, rest[p]);
    for (int64_t channel = 0; channel < last; channel += kLanes) {
        const Floats scale = *reinterpret_cast<const StoredFloats*>(norm.scale + channel);
        const Floats offset = *reinterpret_cast<const StoredFloats*>(norm.offset + channel);
        for (int p = 0; p < kPixels; ++p) {
            Floats value;
            load(values + p * norm.apart + channel, value);
            store((value - means[p]) * factors[p] * scale + offset, results + p * norm.apart + channel);
        }
    }
    const Floats scale = *reinterpret_cast<const StoredFloats*>(norm.scale + last);
    const Floats offset = *reinterpret_cast<const StoredFloats*>(norm.offset + last);
    for (int p = 0; p < kPixels; ++p)
        store((rest[p] - means[p]) * factors[p] * scale + offset, results + p * norm.apart + last);
}

// Up to kLanes pixels, whose means and deviations are those of the lanes.
GANTK_TARGET inline void normalize_group(const Element* values, int64_t count, const PixelNorm& norm,
                                         const Words& counted, Element* results) {
    const Floats channels = Floats{} + static_cast<float>(norm.channels);
    float means[kLanes] = {}, factors[kLanes];
    Floats sums;
    add_pixels<false>(values, count, norm, counted, means, sums);
    *reinterpret_cast<StoredFloats*>(means) = sums / channels;
    add_pixels<true>(values, count, norm, counted, means, sums);
    const Floats variances = sums / channels + norm.epsilon;
    for (int p = 0; p < kLanes; ++p) factors[p] = 1.0f / __builtin_sqrtf(variances[p]);
    int64_t p = 0;
    for (; p + kAbreast <= count; p += kAbreast)
        scale_pixels<kAbreast>(values + p * norm.apart, norm, means + p, factors + p, results + p * norm.apart);
    for (; p < count; ++p)
        scale_pixels<1>(values + p * norm.apart, norm, means + p, factors + p, results + p * norm.apart);
}

GANTK_ENTRY void normalize(const Element* values, int64_t pixels, const PixelNorm& given, Element* results) {
    const PixelNorm norm = given;  // Its own, which no result that is stored can change.
    Words counted;
    lanes_of_last(norm.channels, counted);
    const int64_t fitting = kGroupBytes / (norm.apart * static_cast<int64_t>(sizeof(Element))), most = kLanes;
    const int64_t group = fitting > most ? most : fitting > kAbreast ? fitting : kAbreast;
    for (int64_t p = 0; p < pixels; p += group)
        normalize_group(values + p * norm.apart, pixels - p < group ? pixels - p : group, norm, counted,
                        results + p * norm.apart);
}

// Products of a vector, or of the few values that are left.
GANTK_TARGET inline void gate_vector(const Element* first, const Element* second, Element* result) {
    Floats a, b;
    load(first, a);
    load(second, b);
    store(a * b, result);
}

GANTK_TARGET inline void gate_some(const Element* first, const Element* second, std::size_t count, Element* result) {
    Element given[2][kLanes] = {}, made[kLanes];
    __builtin_memcpy(given[0], first, count * sizeof(Element));
    __builtin_memcpy(given[1], second, count * sizeof(Element));
    gate_vector(given[0], given[1], made);
    __builtin_memcpy(result, made, count * sizeof(Element));
}

// What a vector has past a pixel's last channel is written over by the next pixel.
GANTK_ENTRY void gate(const Element* features, int64_t pixels, int64_t channels, Element* results) {
    for (int64_t left = pixels * channels; left > 0; left -= channels, features += 2 * channels, results += channels)
        for (int64_t channel = 0; channel < channels; channel += kLanes) {
            const Element* const first = features + channel;
            if (left - channel >= kLanes)
                gate_vector(first, first + channels, results + channel);
            else
                gate_some(first, first + channels, static_cast<std::size_t>(channels - channel), results + channel);
        }
}
