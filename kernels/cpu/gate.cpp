// SPDX-License-Identifier: Apache-2.0
#include "gate.hpp"

#include <algorithm>
#include <vector>

#include "nhwc_loops.hpp"

namespace gantk::cpu {
namespace {

using nhwc::Bfloat;
using std::int64_t;

constexpr int64_t kTask = 1 << 16;  // Results of a task, unless a pixel has more.
constexpr int64_t kRun = 1024;      // And of what is widened at a time, which stays in the first cache.

template <typename T>
void gate_pixels(const Gate& shape, const void* features, int64_t first, int64_t pixels, void* result) {
    const int64_t at = first * shape.channels;
    nhwc::loops<T>().gate(static_cast<const T*>(features) + 2 * at, pixels, shape.channels,
                          shape.sigmoid, static_cast<T*>(result) + at);
}

void gate_halves(const Gate& shape, const void* features, int64_t first, int64_t pixels, void* result) {
    const int64_t run = std::max<int64_t>(kRun / shape.channels, 1), values = run * shape.channels;
    std::vector<float> given(static_cast<std::size_t>(2 * values)), made(static_cast<std::size_t>(values));
    for (int64_t pixel = first; pixel < first + pixels; pixel += run) {
        const int64_t count = std::min(run, first + pixels - pixel), at = pixel * shape.channels;
        widen(shape.element, features, 2 * at, 2 * count * shape.channels, given.data());
        nhwc::loops<float>().gate(given.data(), count, shape.channels, shape.sigmoid, made.data());
        narrow(shape.element, made.data(), count * shape.channels, result, at);
    }
}

}  // namespace

void gate(const Gate& shape, const void* features, void* result, const Parallel& parallel) {
    const auto some = shape.element == Element::float32   ? gate_pixels<float>
                      : shape.element == Element::float16 ? gate_halves
                                                          : gate_pixels<Bfloat>;
    const int64_t pixels = std::max<int64_t>(kTask / shape.channels, 1);
    for_each(parallel, divide_up(shape.pixels, pixels), [&](int64_t task) {
        some(shape, features, task * pixels, std::min(pixels, shape.pixels - task * pixels), result);
    });
}

}  // namespace gantk::cpu
