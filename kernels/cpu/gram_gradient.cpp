// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "clones.hpp"
#include "gram.hpp"

namespace gantk::cpu {
namespace {

using std::int64_t;

constexpr int kRows = 6,
              kVectors = 2;  // 12 sums, 2 vectors of features and a factor: 15 of AVX2's 16 registers.
constexpr int64_t kPanel = kVectors * kLanes;
constexpr int64_t kBlock = 64;  // Places for which a panel of factors is read once.
constexpr int64_t kTasks = 32;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Plan {
    int64_t panels, blocks, tasks, factors, packed;

    explicit Plan(const Features& shape) {
        panels = divide_up(shape.channels, kRows);
        blocks = divide_up(shape.places, kBlock);
        tasks = std::min(blocks, kTasks);
        factors = panels * kRows * shape.channels;
        packed = shape.channels * kBlock + kRows * kBlock;  // Features, then the rows being made.
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

// Widens a block of places of every channel into panels [kBlock / kPanel][channels][kPanel]; what lies past
// the last place is computed and not kept.
void pack(const Features& shape, const void* features, int64_t picture, int64_t begin, int64_t count,
          float* packed) {
    for (int64_t channel = 0; channel < shape.channels; ++channel) {
        float line[kBlock] = {};
        widen(shape.element, features, (picture * shape.channels + channel) * shape.places + begin, count,
              line);
        for (int64_t panel = 0; panel < kBlock / kPanel; ++panel)
            std::copy_n(line + panel * kPanel, kPanel, packed + (panel * shape.channels + channel) * kPanel);
    }
}

// kRows rows of kBlock sums over channels.
GANTK_CLONES void multiply(const float* factors, const float* packed, int64_t channels, float* rows) {
    for (int64_t panel = 0; panel < kBlock / kPanel; ++panel) {
        const float *factor = factors, *places = packed + panel * channels * kPanel;
        Lanes sum[kRows][kVectors] = {};
        for (int64_t channel = 0; channel < channels; ++channel, factor += kRows, places += kPanel) {
            Lanes features[kVectors];
            for (int v = 0; v < kVectors; ++v)
                features[v] = *reinterpret_cast<const Lanes*>(places + v * kLanes);
            for (int r = 0; r < kRows; ++r)
                for (int v = 0; v < kVectors; ++v) sum[r][v] += factor[r] * features[v];
        }
        for (int r = 0; r < kRows; ++r)
            for (int v = 0; v < kVectors; ++v)
                *reinterpret_cast<Lanes*>(rows + r * kBlock + panel * kPanel + v * kLanes) = sum[r][v];
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
        for_each(parallel, static_cast<std::size_t>(plan.panels), [&](std::size_t panel) {
            const int64_t index = static_cast<int64_t>(panel);
            make_factors(own, channels, scale, index, factors + index * kRows * channels);
        });
        for_each(parallel, static_cast<std::size_t>(plan.tasks), [&](std::size_t index) {
            const int64_t task = static_cast<int64_t>(index);
            float *const block_packed = packed + task * plan.packed, *const rows =
                                                                         block_packed + channels * kBlock;
            for (int64_t block = plan.blocks * task / plan.tasks;
                 block < plan.blocks * (task + 1) / plan.tasks; ++block) {
                const int64_t begin = block * kBlock, count = std::min(kBlock, shape.places - begin);
                pack(shape, features, picture, begin, count, block_packed);
                for (int64_t first = 0; first < channels; first += kRows) {
                    multiply(factors + first * channels, block_packed, channels, rows);
                    for (int64_t row = first; row < std::min(first + kRows, channels); ++row)
                        narrow(shape.element, rows + (row - first) * kBlock, count, features_gradient,
                               (picture * channels + row) * shape.places + begin);
                }
            }
        });
    }
}

}  // namespace gantk::cpu
