// SPDX-License-Identifier: Apache-2.0
#include "pooling.hpp"

#include <algorithm>
#include <vector>

#include "clones.hpp"

namespace gantk::cpu {
namespace {

using std::int64_t;

constexpr int64_t kWindows = 256;  // That are done at a time; all they need stays in the first cache.
constexpr int64_t kTaskRows = 32;  // Rows of windows.

// Windows next to each other: two rows of features, and of their gradients.
struct Line {
    alignas(64) float features[2][2 * kWindows], pooled[kWindows], gradient[kWindows], made[2][2 * kWindows];
};

GANTK_INLINE const Lanes& load(const float* from) { return *reinterpret_cast<const Lanes*>(from); }

// The features of eight windows, those of a row to the left and to the right.
struct Windows {
    Lanes left[2], right[2];

    GANTK_INLINE Windows(const Line& line, int64_t at) {
        for (int row = 0; row < 2; ++row) {
            const Lanes &low = load(line.features[row] + 2 * at), &high = load(line.features[row] + 2 * at + kLanes);
            left[row] = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14);
            right[row] = __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
        }
    }
};

GANTK_INLINE void raise(Lanes& maximum, const Lanes& value) {
    maximum = ((maximum < value) | (value != value)) ? value : maximum;
}

// What lies past the last window is computed and not kept.
GANTK_CLONES void pool_line(Line& line, int64_t windows) {
    for (int64_t at = 0; at < windows; at += kLanes) {
        const Windows found(line, at);
        Lanes maximum = found.left[0];
        raise(maximum, found.right[0]);
        raise(maximum, found.left[1]);
        raise(maximum, found.right[1]);
        *reinterpret_cast<Lanes*>(line.pooled + at) = maximum;
    }
}

GANTK_CLONES void spread_line(Line& line, int64_t windows) {
    for (int64_t at = 0; at < windows; at += kLanes) {
        const Windows found(line, at);
        const Lanes &pooled = load(line.pooled + at), &gradient = load(line.gradient + at), zero{};
        const auto first = found.left[0] == pooled, second = (found.right[0] == pooled) & ~first;
        const auto third = (found.left[1] == pooled) & ~first & ~second, last = ~(first | second | third);
        const Lanes made[2][2] = {{first ? gradient : zero, second ? gradient : zero},
                                  {third ? gradient : zero, last ? gradient : zero}};
        for (int row = 0; row < 2; ++row) {
            *reinterpret_cast<Lanes*>(line.made[row] + 2 * at) =
                __builtin_shufflevector(made[row][0], made[row][1], 0, 8, 1, 9, 2, 10, 3, 11);
            *reinterpret_cast<Lanes*>(line.made[row] + 2 * at + kLanes) =
                __builtin_shufflevector(made[row][0], made[row][1], 4, 12, 5, 13, 6, 14, 7, 15);
        }
    }
}

// Calls `function(line, first window, how many, their first feature)` for all windows, some at a time, with their
// features read, and then `end(plane)` for each plane.
template <typename Function, typename End>
void for_lines(const Pooling& shape, const void* features, const Parallel& parallel, const Function& function,
               const End& end) {
    const int64_t down = shape.height / 2, across = shape.width / 2;
    const int64_t tasks = divide_up(down, kTaskRows);
    for_each(parallel, shape.planes * tasks, [&](int64_t task) {
        const int64_t plane = task / tasks, top = task % tasks * kTaskRows;
        Line line{};
        for (int64_t y = top; y < std::min(top + kTaskRows, down); ++y)
            for (int64_t x = 0; x < across; x += kWindows) {
                const int64_t windows = std::min(kWindows, across - x);
                const int64_t large = (plane * shape.height + 2 * y) * shape.width + 2 * x;
                for (int64_t row = 0; row < 2; ++row)
                    widen(shape.element, features, large + row * shape.width, 2 * windows, line.features[row]);
                function(line, (plane * down + y) * across + x, windows, large);
            }
        if (top + kTaskRows >= down) end(plane);
    });
}

constexpr int64_t kRunFloats = 1 << 10;  // Of the windows of a run, unless one has more channels.

// Of windows next to each other, over so many pixels; what a window lacks of an odd row or column it has twice. A run is
// followed by room for a vector.
GANTK_CLONES void pool_run(const float* above, const float* below, int64_t windows, int64_t channels, int64_t pixels,
                           float* pooled) {
    for (int64_t window = 0; window < windows; ++window) {
        const int64_t left = 2 * window * channels, right = std::min(2 * window + 1, pixels - 1) * channels;
        for (int64_t c = 0; c < channels; c += kLanes) {  // What lies past the last channel is written over by the next.
            Lanes maximum = *reinterpret_cast<const Lanes*>(above + left + c);
            for (const float* from : {above + right + c, below + left + c, below + right + c}) {
                const Lanes value = *reinterpret_cast<const Lanes*>(from);  // No reference: to Clang those are aligned.
                raise(maximum, value);
            }
            *reinterpret_cast<Lanes*>(pooled + window * channels + c) = maximum;
        }
    }
}

}  // namespace

void max_pool(const Pooling& shape, const void* features, void* pooled, const Parallel& parallel) {
    const auto pool = [&](Line& line, int64_t first, int64_t windows, int64_t) {
        pool_line(line, windows);
        narrow(shape.element, line.pooled, windows, pooled, first);
    };
    for_lines(shape, features, parallel, pool, [](int64_t) {});
}

void max_pool_gradient(const Pooling& shape, const void* gradient, const void* features, const void* pooled,
                       void* features_gradient, const Parallel& parallel) {
    const auto spread = [&](Line& line, int64_t first, int64_t windows, int64_t large) {
        widen(shape.element, pooled, first, windows, line.pooled);
        widen(shape.element, gradient, first, windows, line.gradient);
        spread_line(line, windows);
        for (int64_t row = 0; row < 2; ++row)
            narrow(shape.element, line.made[row], 2 * windows, features_gradient, large + row * shape.width);
    };
    // An odd last column and row.
    static constexpr float kZeros[2 * kWindows] = {};
    const auto end = [&](int64_t plane) {
        const int64_t begin = plane * shape.height * shape.width, last = shape.width - 1;
        for (int64_t y = 0; y < shape.height && shape.width % 2 != 0; ++y)
            narrow(shape.element, kZeros, 1, features_gradient, begin + y * shape.width + last);
        const int64_t row = begin + (shape.height - 1) * shape.width;
        for (int64_t x = 0; x < shape.width && shape.height % 2 != 0; x += 2 * kWindows)
            narrow(shape.element, kZeros, std::min(2 * kWindows, shape.width - x), features_gradient, row + x);
    };
    for_lines(shape, features, parallel, spread, end);
}

void nhwc_max_pool(const NhwcPooling& shape, const void* features, void* pooled, const Parallel& parallel) {
    const int64_t high = shape.result_height(), wide = shape.result_width(), channels = shape.channels;
    const int64_t run = std::max<int64_t>(kRunFloats / channels, 1);
    for_each(parallel, shape.count * high, [&](int64_t index) {
        const int64_t first = index / high * shape.height, y = index % high * 2;
        const int64_t rows[2]{first + y, first + std::min(y + 1, shape.height - 1)};
        std::vector<float> held(static_cast<std::size_t>(5 * run * channels + 3 * kLanes));
        float* const given[2]{held.data(), held.data() + 2 * run * channels + kLanes};
        float* const made = given[1] + 2 * run * channels + kLanes;
        for (int64_t x = 0; x < wide; x += run) {
            const int64_t windows = std::min(run, wide - x), pixels = std::min(2 * windows, shape.width - 2 * x);
            for (int i = 0; i < 2; ++i)
                widen(shape.element, features, (rows[i] * shape.width + 2 * x) * channels, pixels * channels, given[i]);
            pool_run(given[0], given[1], windows, channels, pixels, made);
            narrow(shape.element, made, windows * channels, pooled, (index * wide + x) * channels);
        }
    });
}

}  // namespace gantk::cpu
