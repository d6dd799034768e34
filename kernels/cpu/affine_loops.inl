// SPDX-License-Identifier: Apache-2.0
// The loops of affine.cpp, for one kind of processor and one type. The file that includes this defines Element; Stored,
// a vector of kLanes of these in memory; GANTK_TARGET, which all that is inlined is compiled for; GANTK_ENTRY, which
// entry points are; and `load` and `store`.

template <bool kAdds, End kEnd>
GANTK_TARGET inline void apply_vector(const Run<Element>& run, int64_t at, const Element* features,
                                      const Element* others, Element* result) {
    Floats value;
    load(features, value);
    if (kEnd != End::clip)
        value = value * *reinterpret_cast<const StoredFloats*>(run.factors + at) +
                *reinterpret_cast<const StoredFloats*>(run.offsets + at);
    if (kAdds) {
        Floats other;
        load(others, other);
        value += other;
    }
    if (kEnd == End::slopes)
        value = value < Floats{} ? value * *reinterpret_cast<const StoredFloats*>(run.slopes + at) : value;
    if (kEnd == End::silu) silu(value);
    if (kEnd == End::clip) {
        const Floats low = Floats{} + run.low, high = Floats{} + run.high;
        value = value < low ? low : value;
        value = value > high ? high : value;
    }
    store(value, result);
}

// By value: what is stored could be a part of what there is a reference to.
template <bool kAdds, End kEnd>
GANTK_TARGET inline void apply_vectors(Run<Element> run) {
    const int64_t left = run.count % kLanes, whole = run.count - left;
    for (int64_t at = 0; at < whole; at += kLanes)
        apply_vector<kAdds, kEnd>(run, at, run.features + at, kAdds ? run.others + at : nullptr, run.result + at);
    if (left == 0) return;
    Element given[kLanes] = {}, added[kLanes] = {}, made[kLanes];
    const std::size_t bytes = static_cast<std::size_t>(left) * sizeof(Element);
    std::memcpy(given, run.features + whole, bytes);
    if (kAdds) std::memcpy(added, run.others + whole, bytes);
    apply_vector<kAdds, kEnd>(run, whole, given, added, made);
    std::memcpy(run.result + whole, made, bytes);
}

template <End kEnd>
GANTK_TARGET inline void apply_end(const Run<Element>& run) {
    run.others != nullptr ? apply_vectors<true, kEnd>(run) : apply_vectors<false, kEnd>(run);
}

GANTK_ENTRY void apply(const Run<Element>& run) {
    switch (run.end) {
        case End::none:
            return apply_end<End::none>(run);
        case End::slopes:
            return apply_end<End::slopes>(run);
        case End::silu:
            return apply_end<End::silu>(run);
        case End::clip:
            return apply_vectors<false, End::clip>(run);
    }
}

// The number of each pixel for all its channels. What lies past the last channel is written over by the next pixel;
// after the last one there is room for a vector.
GANTK_ENTRY void spread(const Element* numbers, int64_t pixels, int64_t channels, Element* to) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel, to += channels) {
        const Stored number = Stored{} + numbers[pixel];
        for (int64_t channel = 0; channel < channels; channel += kLanes)
            *reinterpret_cast<Stored*>(to + channel) = number;
    }
}

constexpr Loops<Element> kLoops{apply, spread};
