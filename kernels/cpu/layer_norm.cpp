// SPDX-License-Identifier: Apache-2.0
#include "layer_norm.hpp"

#include <algorithm>
#include <vector>

#include "nhwc_loops.hpp"

namespace gantk::cpu {
namespace {

using nhwc::Bfloat;
using nhwc::kVector;
using nhwc::PixelNorm;
using std::int64_t;

constexpr int64_t kTask = 1 << 16;  // Values of a task, unless a pixel has more.
constexpr int64_t kRun = 2048;      // And of what is widened at a time, which stays in the first cache.

// With what they lack of a vector before them.
std::vector<float> padded(const float* values, int64_t channels, int64_t lack) {
    std::vector<float> made(static_cast<std::size_t>(lack));
    made.insert(made.end(), values, values + channels);
    return made;
}

// Features are computed with where they lie, but for float16, and pixels that have less than a vector: these are
// widened to float.
class Norm {
  public:
    Norm(const LayerNorm& shape, const void* features, const float* scale, const float* offset, void* result)
        : s_(shape),
          features_(features),
          result_(result),
          lack_(std::max<int64_t>(kVector - shape.channels, 0)),
          scale_(padded(scale, shape.channels, lack_)),
          offset_(padded(offset, shape.channels, lack_)),
          norm_{s_.channels, s_.channels + lack_, scale_.data() + lack_, offset_.data() + lack_, s_.epsilon,
                s_.centred},
          task_(std::max<int64_t>(kTask / s_.channels, 1)) {}

    int64_t tasks() const { return divide_up(s_.pixels, task_); }

    void apply(int64_t task) const {
        const int64_t first = task * task_, count = std::min(task_, s_.pixels - first);
        if (s_.element == Element::float16 || lack_ > 0)
            apply_widened(first, count);
        else if (s_.element == Element::float32)
            apply_direct<float>(first, count);
        else
            apply_direct<Bfloat>(first, count);
    }

  private:
    template <typename T>
    void apply_direct(int64_t first, int64_t count) const {
        const int64_t at = first * s_.channels;
        nhwc::loops<T>().normalize(static_cast<const T*>(features_) + at, count, norm_, static_cast<T*>(result_) + at);
    }

    void apply_widened(int64_t first, int64_t count) const {
        const int64_t run = std::max<int64_t>(kRun / norm_.apart, 1);
        std::vector<float> values(static_cast<std::size_t>(run * s_.channels + kVector));
        std::vector<float> spread(static_cast<std::size_t>(lack_ > 0 ? run * kVector + lack_ : 0));
        for (int64_t done = 0; done < count; done += run) {
            const int64_t pixels = std::min(run, count - done), at = (first + done) * s_.channels;
            widen(s_.element, features_, at, pixels * s_.channels, values.data());
            if (lack_ > 0)
                apply_spread(values.data(), pixels, spread.data() + lack_);
            else
                nhwc::loops<float>().normalize(values.data(), pixels, norm_, values.data());
            narrow(s_.element, values.data(), pixels * s_.channels, result_, at);
        }
    }

    // Each pixel is copied with a whole vector, which is faster; the next one writes over what is too much.
    void apply_spread(float* values, int64_t pixels, float* spread) const {
        for (int64_t p = 0; p < pixels; ++p) std::copy_n(values + p * s_.channels, kVector, spread + p * kVector);
        nhwc::loops<float>().normalize(spread, pixels, norm_, spread);
        for (int64_t p = 0; p < pixels; ++p) std::copy_n(spread + p * kVector, kVector, values + p * s_.channels);
    }

    const LayerNorm& s_;
    const void* features_;
    void* result_;
    int64_t lack_;  // Of a vector.
    std::vector<float> scale_, offset_;
    PixelNorm norm_;
    int64_t task_;  // Pixels.
};

}  // namespace

void layer_norm(const LayerNorm& shape, const void* features, const float* scale, const float* offset, void* result,
                const Parallel& parallel) {
    const Norm norm(shape, features, scale, offset, result);
    for_each(parallel, norm.tasks(), [&](int64_t task) { norm.apply(task); });
}

}  // namespace gantk::cpu
