// SPDX-License-Identifier: Apache-2.0
#include "prelu.hpp"

#include <algorithm>
#include <vector>

#include "clones.hpp"

namespace gantk::cpu {
namespace {

using std::int64_t;

constexpr int64_t kRun = 4096;     // Floats of a run: they stay in the first cache, and so do its slopes.
constexpr int64_t kTask = 1 << 16;  // Of a task.

GANTK_CLONES void rectify(const float* slopes, int64_t count, float* values) {
    for (int64_t i = 0; i < count; ++i) values[i] = values[i] < 0 ? values[i] * slopes[i] : values[i];
}

}  // namespace

// Slopes are repeated, so that a run is one loop however few channels there are.
void prelu(const Rectified& shape, const void* values, const void* slopes, void* results, const Parallel& parallel) {
    const int64_t all = shape.pixels * shape.channels, repeats = std::max<int64_t>(kRun / shape.channels, 1);
    std::vector<float> repeated(static_cast<std::size_t>(repeats * shape.channels));
    for (int64_t i = 0; i < repeats; ++i)
        widen(shape.element, slopes, 0, shape.channels, repeated.data() + i * shape.channels);
    const int64_t run = repeats * shape.channels, task = std::max(kTask / run, int64_t{1}) * run;
    for_each(parallel, divide_up(all, task), [&](int64_t index) {
        std::vector<float> held(static_cast<std::size_t>(run));
        const int64_t end = std::min((index + 1) * task, all);
        for (int64_t at = index * task; at < end; at += run) {
            const int64_t count = std::min(run, end - at);
            widen(shape.element, values, at, count, held.data());
            rectify(repeated.data(), count, held.data());
            narrow(shape.element, held.data(), count, results, at);
        }
    });
}

}  // namespace gantk::cpu
