// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "clones.hpp"
#include "gram.hpp"
#include "product.hpp"

namespace gantk::cpu {
namespace {

using std::int64_t;

constexpr int64_t kBlockBytes =
    128 << 10;  // Of a block of places of all channels, which stays in the second cache.
constexpr int64_t kFewest = 64, kMost = 512;  // Places of a block.
constexpr int64_t kTasks = 32;

struct Plan {
    int64_t panels, block, blocks, tasks, factors, packed;

    explicit Plan(const Features& shape) {
        const int64_t fitting = kBlockBytes / (shape.channels * int64_t{sizeof(float)});
        panels = rows_of(shape.channels);
        block = std::clamp(fitting, kFewest, kMost) / kPanel * kPanel;
        blocks = divide_up(shape.places, block);
        tasks = std::min(blocks, kTasks);
        factors = panels * kRows * shape.channels;
        packed = shape.channels * block + kRows * block;  // Features, then the rows being made.
    }
};

// Panel `panel` of scale * (D + D^T): for each channel in turn the factors of kRows rows, zeros past the
// last.
void make_factors(const float* gradient, int64_t channels, double scale, int64_t panel, float* factors) {
    for (int64_t channel = 0; channel < channels; ++channel) {
        for (int64_t r = 0; r < kRows; ++r) {
            const int64_t row = panel * kRows + r;
            const bool there = row < channels;
            const double sum = there ? double{gradient[row * channels + channel]} +
                                           double{gradient[channel * channels + row]}
                                     : 0.0;
            factors[channel * kRows + r] = static_cast<float>(sum * scale);
        }
    }
}

// Widens a block of places of every channel into panels [panels][channels][kPanel]; what lies past the last
// place is computed and not kept. Float32 in whole panels is read, as it is written, in place.
void pack(const Features& shape, const void* features, int64_t picture, int64_t begin, int64_t count,
          float* packed) {
    const int64_t whole = divide_up(count, kPanel) * kPanel;
    float line[kMost];
    std::fill(line + count, line + whole, 0.0f);
    for (int64_t channel = 0; channel < shape.channels; ++channel) {
        const int64_t first = (picture * shape.channels + channel) * shape.places + begin;
        const float* read = line;
        if (shape.element == Element::float32 && count == whole)
            read = static_cast<const float*>(features) + first;
        else
            widen(shape.element, features, first, count, line);
        for (int64_t place = 0; place < whole; place += kPanel)
            std::copy_n(read + place, kPanel, packed + place * shape.channels + channel * kPanel);
    }
}

// kRows rows of sums over channels, for as many places as `count` begins panels.
GANTK_CLONES void multiply(const float* factors, const float* packed, int64_t channels, int64_t count,
                           int64_t stride, float* rows) {
    for (int64_t place = 0; place < count; place += kPanel) {
        Sums sum;
        clear(sum);
        accumulate(factors, packed + place * channels, channels, sum);
        for (int r = 0; r < kRows; ++r)
            for (int v = 0; v < kVectors; ++v)
                *reinterpret_cast<Lanes*>(rows + r * stride + place + v * kLanes) = sum[r][v];
    }
}

}  // namespace

std::size_t gram_gradient_workspace_bytes(const Features& shape) {
    const Plan plan(shape);
    return static_cast<std::size_t>(plan.factors + plan.tasks * plan.packed) * sizeof(float);
}

void gram_gradient(const Features& shape, const float* gram_gradient, const void* features, double scale,
                   void* features_gradient, void* workspace, const Parallel& parallel) {
    const Plan plan(shape);
    const int64_t channels = shape.channels;
    float *const factors = static_cast<float*>(workspace), *const packed = factors + plan.factors;
    for (int64_t picture = 0; picture < shape.count; ++picture) {
        const float* const own = gram_gradient + picture * channels * channels;
        for_each(parallel, plan.panels, [&](int64_t panel) {
            make_factors(own, channels, scale, panel, factors + panel * kRows * channels);
        });
        for_each(parallel, plan.tasks, [&](int64_t task) {
            float* const block_packed = packed + task * plan.packed;
            float* const rows = block_packed + channels * plan.block;
            const auto block_of = [&](int64_t one) { return plan.blocks * one / plan.tasks; };
            for (int64_t block = block_of(task); block < block_of(task + 1); ++block) {
                const int64_t begin = block * plan.block, count = std::min(plan.block, shape.places - begin);
                pack(shape, features, picture, begin, count, block_packed);
                for (int64_t first = 0; first < channels; first += kRows) {
                    const int64_t at = (picture * channels + first) * shape.places + begin;
                    const float* const these = factors + first * channels;
                    const bool whole = count % kPanel == 0 && first + kRows <= channels;
                    if (shape.element == Element::float32 && whole) {
                        multiply(these, block_packed, channels, count, shape.places,
                                 static_cast<float*>(features_gradient) + at);
                        continue;
                    }
                    multiply(these, block_packed, channels, count, plan.block, rows);
                    for (int64_t row = 0; row < std::min(kRows, channels - first); ++row)
                        narrow(shape.element, rows + row * plan.block, count, features_gradient,
                               at + row * shape.places);
                }
            }
        });
    }
}

}  // namespace gantk::cpu
