// SPDX-License-Identifier: Apache-2.0
// Results of even and of odd rows and columns are four *phases*, each a convolution of 2 x 2. All of a phase's
// pixels meet features that are at most one row and one column away, so that nine shifted copies of the features
// serve all phases. A *panel* is 16 pixels, in the order of memory.
#include "transposed.hpp"

#include <algorithm>
#include <limits>
#include <new>
#include <vector>

#include "product.hpp"

namespace gantk::cpu {
namespace {

using std::int64_t;

constexpr int64_t kPhases = 4, kTaps = 4, kShifts = 9;
constexpr int64_t kChannels = 16;  // That a task copies.

// The row of a kernel that meets the first and the second row of features of an even or an odd result; columns
// alike.
constexpr int64_t tap_of(int64_t odd, int64_t second) { return 3 - odd - 2 * second; }

// Which of the nine copies a tap of a phase reads.
constexpr int64_t shift_of(int64_t phase, int64_t tap) {
    return (phase / 2 + tap / 2) * 3 + phase % 2 + tap % 2;
}

// Where the pixels of a panel are read, or -1 beyond the picture or the last pixel, and where they are written.
struct Places {
    int64_t from[kShifts][kPanel], to[kPanel], count;

    Places(const Convolution& shape, int64_t panel) {
        const int64_t area = shape.height * shape.width, first = panel * kPanel;
        count = std::min(kPanel, shape.count * area - first);
        std::fill_n(from[0], kShifts * kPanel, -1);
        for (int64_t t = 0; t < count; ++t) {
            const int64_t picture = (first + t) / area, y = (first + t) % area / shape.width,
                          x = (first + t) % shape.width;
            to[t] = picture * shape.outputs * 4 * area + 2 * y * 2 * shape.width + 2 * x;
            for (int64_t shift = 0; shift < kShifts; ++shift) {
                const int64_t row = y + shift / 3 - 1, column = x + shift % 3 - 1;
                if (row >= 0 && row < shape.height && column >= 0 && column < shape.width)
                    from[shift][t] = picture * shape.inputs * area + row * shape.width + column;
            }
        }
    }
};

// Nine copies of some channels of a panel's features, [kShifts][inputs][kPanel].
void copy(const Convolution& shape, const float* features, const Places& places, int64_t begin, int64_t end,
          float* copies) {
    const int64_t area = shape.height * shape.width;
    for (int64_t shift = 0; shift < kShifts; ++shift)
        for (int64_t channel = begin; channel < end; ++channel)
            for (int64_t t = 0; t < kPanel; ++t) {
                const int64_t from = places.from[shift][t];
                copies[(shift * shape.inputs + channel) * kPanel + t] =
                    from < 0 ? 0.0f : features[from + channel * area];
            }
}

// Six channels of one phase of a panel. `weights` are [kTaps][inputs][kRows].
GANTK_CLONES void multiply(const Convolution& shape, const Tensors& tensors, const float* weights,
                           const float* copies, int64_t phase, int64_t channel, const Places& places) {
    Sums sums;
    clear(sums);
    for (int64_t tap = 0; tap < kTaps; ++tap)
        accumulate(weights + tap * shape.inputs * kRows,
                   copies + shift_of(phase, tap) * shape.inputs * kPanel, shape.inputs, sums);
    const int64_t area = 4 * shape.height * shape.width;
    const float floor = tensors.relu ? 0.0f : -std::numeric_limits<float>::infinity();
    float* result = tensors.result + phase / 2 * 2 * shape.width + phase % 2 + channel * area;
    for (int64_t r = 0; r < std::min(kRows, shape.outputs - channel); ++r, result += area) {
        float values[kPanel];
        for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Lanes*>(values + v * kLanes) = sums[r][v];
        for (int64_t t = 0; t < places.count; ++t) {
            const float value = values[t] + (tensors.bias ? tensors.bias[channel + r] : 0.0f);
            result[places.to[t]] = value < floor ? floor : value;  // NaN stays.
        }
    }
}

}  // namespace

std::size_t transposed_weights_bytes(const Convolution& shape) {
    return static_cast<std::size_t>(kPhases * kTaps * rows_of(shape.outputs) * kRows * shape.inputs) * sizeof(float);
}

// [kPhases][rows][kTaps][inputs][kRows].
void transposed_weights(const Convolution& shape, const float* weights, float* packed, const Parallel& parallel) {
    const int64_t rows = rows_of(shape.outputs);
    for_each(parallel, kPhases * rows, [&](int64_t task) {
        const int64_t phase = task / rows, first = task % rows * kRows;
        float* to = packed + task * kTaps * shape.inputs * kRows;
        for (int64_t tap = 0; tap < kTaps; ++tap) {
            const int64_t at = tap_of(phase / 2, tap / 2) * 4 + tap_of(phase % 2, tap % 2);
            for (int64_t input = 0; input < shape.inputs; ++input)
                for (int64_t output = first; output < first + kRows; ++output)
                    *to++ =
                        output < shape.outputs ? weights[(input * shape.outputs + output) * 16 + at] : 0.0f;
        }
    });
}

void transposed_convolution(const Convolution& shape, const Tensors& tensors, const Memory& memory,
                            const Parallel& parallel) {
    const int64_t panels = divide_up(shape.count * shape.height * shape.width, kPanel);
    const int64_t size = kShifts * shape.inputs * kPanel;  // Of a panel's copies.
    const int64_t rows = rows_of(shape.outputs), groups = divide_up(shape.inputs, kChannels);
    std::vector<Places> places;
    for (int64_t panel = 0; panel < panels; ++panel) places.emplace_back(shape, panel);
    float* const copies = static_cast<float*>(
        memory.take(memory.owner, static_cast<std::size_t>(panels * size) * sizeof(float)));
    if (copies == nullptr) throw std::bad_alloc();
    for_each(parallel, panels * groups, [&](int64_t task) {
        const int64_t panel = task / groups, begin = task % groups * kChannels;
        copy(shape, tensors.features, places[static_cast<std::size_t>(panel)], begin,
             std::min(begin + kChannels, shape.inputs), copies + panel * size);
    });
    for_each(parallel, kPhases * rows, [&](int64_t task) {
        const float* const weights = tensors.packed + task * kTaps * shape.inputs * kRows;
        for (int64_t panel = 0; panel < panels; ++panel)
            multiply(shape, tensors, weights, copies + panel * size, task / rows, task % rows * kRows,
                     places[static_cast<std::size_t>(panel)]);
    });
    memory.give(memory.owner, copies);
}

}  // namespace gantk::cpu
