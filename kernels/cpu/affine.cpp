// SPDX-License-Identifier: Apache-2.0
// All is done by *runs*: neighbouring pixels, for which the numbers of channels are repeated, so that a run is one loop
// however few channels there are.
#include "affine.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef GANTK_X86_64
#include <immintrin.h>
#endif

#include "clones.hpp"
#include "nhwc_loops.hpp"

namespace gantk::cpu {
namespace {

using nhwc::Bfloat;
using std::int64_t;

constexpr int64_t kRun = 1024;      // Values of a run, unless a pixel has more: all it needs stays in the first cache.
constexpr int64_t kTask = 1 << 16;  // Of a task.
constexpr int64_t kRoom = 16;       // What any vector may reach past a run.

// What becomes of results.
enum class End { none, slopes, silu, clip };

// Factors, offsets and slopes are followed by room for a vector; others and slopes may be null.
template <typename T>
struct Run {
    const T* features;
    const float *factors, *offsets;
    const T* others;
    const float* slopes;
    T* result;
    int64_t count;
    End end;
    float low, high;
};

template <typename T>
struct Loops {
    void (*apply)(const Run<T>& run);
    void (*spread)(const T* numbers, int64_t pixels, int64_t channels, T* to);
};

namespace plain {

#define GANTK_ENTRY GANTK_CLONES
#define GANTK_TARGET __attribute__((always_inline))

#ifdef __aarch64__  // Compilers take comparisons of vectors of two registers apart.
constexpr int kLanes = 4;
#else
constexpr int kLanes = cpu::kLanes;
#endif
#include "nhwc_vectors.inl"
#include "exponential.inl"

namespace floats {

using Element = float;
using Stored = StoredFloats;

GANTK_TARGET inline void load(const float* from, Floats& values) {
    values = *reinterpret_cast<const StoredFloats*>(from);
}
GANTK_TARGET inline void store(const Floats& values, float* to) { *reinterpret_cast<StoredFloats*>(to) = values; }

#include "affine_loops.inl"

}  // namespace floats

namespace bfloats {

using Element = Bfloat;
using Stored = StoredHalves;

GANTK_TARGET inline void load(const Bfloat* from, Floats& values) {
    values =
        reinterpret_cast<Floats>(__builtin_convertvector(*reinterpret_cast<const StoredHalves*>(from), Words) << 16);
}
// Rounded to nearest, ties to even.
GANTK_TARGET inline void store(const Floats& values, Bfloat* to) {
    const Words bits = reinterpret_cast<Words>(values);
    const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = bits >> 16 | 0x40u;
    *reinterpret_cast<StoredHalves*>(to) =
        __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, Halves);
}

#include "affine_loops.inl"

}  // namespace bfloats

}  // namespace plain

#undef GANTK_ENTRY
#undef GANTK_TARGET

#ifdef GANTK_X86_64
namespace wide {

constexpr int kLanes = 16;
#include "nhwc_vectors.inl"

#define GANTK_TARGET GANTK_ENTRY __attribute__((always_inline))

// For SiLU alone: what waits for memory gains nothing.
namespace floats {

#define GANTK_ENTRY __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

using Element = float;
using Stored = StoredFloats;

#include "exponential.inl"

GANTK_TARGET inline void load(const float* from, Floats& values) {
    values = *reinterpret_cast<const StoredFloats*>(from);
}
GANTK_TARGET inline void store(const Floats& values, float* to) { *reinterpret_cast<StoredFloats*>(to) = values; }

#include "affine_loops.inl"

#undef GANTK_ENTRY

}  // namespace floats

namespace bfloats {

#define GANTK_ENTRY __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

using Element = Bfloat;
using Stored = StoredHalves;

#include "exponential.inl"

#include "bfloats_avx512.inl"

#include "affine_loops.inl"

}  // namespace bfloats

}  // namespace wide
#endif

template <typename T>
const Loops<T>& loops([[maybe_unused]] const Affine& shape) {
#ifdef GANTK_X86_64
    const bool rounds = &nhwc::processor() == &nhwc::kAvx512Bf16;
#endif
    if constexpr (std::is_same_v<T, float>) {
#ifdef GANTK_X86_64
        if (shape.silu && (rounds || &nhwc::processor() == &nhwc::kAvx512)) return wide::floats::kLoops;
#endif
        return plain::floats::kLoops;
    } else {
#ifdef GANTK_X86_64
        if (rounds) return wide::bfloats::kLoops;
#endif
        return plain::bfloats::kLoops;
    }
}

// Pictures that share what they meet, or have all of it, are one.
Affine joined(const Affine& shape, const AffineTensors& tensors) {
    if (shape.own_factors || shape.own_offsets || (tensors.others != nullptr && !shape.own_others)) return shape;
    Affine one = shape;
    one.count = 1;
    one.pixels *= shape.count;
    return one;
}

// T is float or Bfloat, which are computed with where they lie; float16 is widened to float run by run.
template <typename T>
class Pass {
  public:
    Pass(const Affine& shape, const AffineTensors& tensors)
        : s_(joined(shape, tensors)),
          t_(tensors),
          loops_(loops<T>(s_)),
          widens_(shape.element == Element::float16),
          run_(run_of(s_)),
          task_(std::max<int64_t>(kTask / (run_ * s_.channels), 1) * run_),
          tasks_(divide_up(s_.pixels, task_)) {}

    int64_t tasks() const { return s_.count * tasks_; }

    void apply(int64_t task) const {
        const int64_t picture = task / tasks_, first = task % tasks_ * task_;
        Held held(*this, picture);
        for (int64_t pixel = first; pixel < std::min(first + task_, s_.pixels); pixel += run_)
            apply_run(picture, pixel, std::min(run_, s_.pixels - pixel), held);
    }

  private:
    static constexpr bool kWide = std::is_same_v<T, float>;

    // What a task has in memory of its own: numbers that are repeated, and what cannot be computed with where it lies.
    struct Held {
        std::vector<float> factors, offsets, slopes;
        std::vector<T> features, others, numbers;

        Held(const Pass& pass, int64_t picture)
            : factors(pass.repeated(pass.t_.factors, pass.s_.own_factors ? picture : 0, 1.0f)),
              // With -0 every zero keeps its sign.
              offsets(pass.repeated(pass.t_.offsets, pass.s_.own_offsets ? picture : 0, -0.0f)),
              slopes(pass.t_.slopes ? pass.repeated(pass.t_.slopes, 0, 1.0f) : std::vector<float>()),
              features(pass.widens_ ? pass.size() : 0),
              others(pass.t_.others && (pass.widens_ || pass.s_.pixelwise) ? pass.size() : 0),
              numbers(pass.widens_ && pass.s_.pixelwise ? pass.size() : 0) {}
    };

    // Whole pixels, and whole vectors where there are few channels.
    static int64_t run_of(const Affine& shape) {
        const int64_t pixels = kRun / shape.channels, left = pixels > kRoom ? pixels % kRoom : 0;
        return std::clamp<int64_t>(pixels - left, 1, shape.pixels);
    }

    // Values of a run, and room for a vector.
    std::size_t size() const { return static_cast<std::size_t>(run_ * s_.channels + kRoom); }

    void apply_run(int64_t picture, int64_t pixel, int64_t pixels, Held& held) const {
        const int64_t at = (picture * s_.pixels + pixel) * s_.channels;
        Run<T> run{};
        run.count = pixels * s_.channels;
        run.end = s_.silu ? End::silu : s_.clips ? End::clip : t_.slopes ? End::slopes : End::none;
        run.low = s_.low;
        run.high = s_.high;
        run.features = read(t_.features, at, run.count, held.features);
        run.factors = held.factors.data();
        run.offsets = held.offsets.data();
        run.slopes = t_.slopes ? held.slopes.data() : nullptr;
        if (t_.others) run.others = others(s_.own_others ? picture * s_.pixels + pixel : pixel, pixels, held);
        run.result = widens_ ? held.features.data() : static_cast<T*>(t_.result) + at;
        loops_.apply(run);
        if constexpr (kWide)
            if (widens_) narrow(s_.element, run.result, run.count, t_.result, at);
    }

    // The channels' numbers of a picture, for each pixel of a run.
    std::vector<float> repeated(const float* values, int64_t picture, float otherwise) const {
        std::vector<float> made(size(), otherwise);
        if (values == nullptr) return made;
        const int64_t all = run_ * s_.channels;
        std::copy_n(values + picture * s_.channels, s_.channels, made.data());
        for (int64_t done = s_.channels; done < all; done *= 2)
            std::copy_n(made.data(), std::min(done, all - done), made.data() + done);
        return made;
    }

    const T* read(const void* values, int64_t first, int64_t count, std::vector<T>& room) const {
        if constexpr (kWide)
            if (widens_) {
                widen(s_.element, values, first, count, room.data());
                return room.data();
            }
        return static_cast<const T*>(values) + first;
    }

    const T* others(int64_t pixel, int64_t pixels, Held& held) const {
        if (!s_.pixelwise) return read(t_.others, pixel * s_.channels, pixels * s_.channels, held.others);
        loops_.spread(read(t_.others, pixel, pixels, held.numbers), pixels, s_.channels, held.others.data());
        return held.others.data();
    }

    const Affine s_;
    const AffineTensors& t_;
    const Loops<T>& loops_;
    bool widens_;
    int64_t run_, task_, tasks_;  // Pixels of a run and of a task, and tasks of a picture.
};

template <typename T>
void apply(const Affine& shape, const AffineTensors& tensors, const Parallel& parallel) {
    const Pass<T> pass(shape, tensors);
    for_each(parallel, pass.tasks(), [&](int64_t task) { pass.apply(task); });
}

}  // namespace

void affine(const Affine& shape, const AffineTensors& tensors, const Parallel& parallel) {
    const auto pass = shape.element == Element::bfloat16 ? apply<Bfloat> : apply<float>;
    pass(shape, tensors, parallel);
}

}  // namespace gantk::cpu
