// SPDX-License-Identifier: Apache-2.0
#include "winograd.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <new>

#include "winograd_parts.hpp"

namespace gantk::cpu {
namespace {

using namespace winograd;
using std::int64_t;

constexpr int64_t kTasks = 64;        // May have memory of their own; a thread's first does all of its work.
constexpr int64_t kFewPanels = 64;    // With fewer, all tasks share a block.
constexpr int64_t kManyPanels = 128;  // With fewer, blocks are larger, for each reads all weights.
constexpr int64_t kBlock = 4, kLargeBlock = 8;
constexpr int64_t kSharedBytes = 40 << 20;  // Of a shared block: much of it stays in the last cache.
constexpr int64_t kChannels = 16;           // That a task of a shared block transforms.
constexpr int64_t kSkew = 80;               // Frequencies a power of two apart would share the cache's sets.

// A block of panels is transformed, multiplied and transformed back before the next. It depends on the shape
// alone; and no sum depends on it.
struct Plan {
    int64_t across, down, strips, panels, rows, block, blocks, stride;
    bool shared;

    explicit Plan(const Convolution& shape) {
        across = divide_up(shape.width, kStripWidth);
        down = divide_up(shape.height, kSide);
        strips = shape.count * across * down;
        panels = divide_up(strips, kStrips);
        rows = rows_of(shape.outputs) * kRows;
        shared = panels < kFewPanels;
        const int64_t panel_bytes = kFrequencies * kPanel * (shape.inputs + rows) * int64_t{sizeof(float)};
        block = panels < kManyPanels ? kLargeBlock : kBlock;
        if (shared) block = std::clamp<int64_t>(kSharedBytes / panel_bytes, 1, panels);
        blocks = divide_up(panels, block);
        stride = block * shape.inputs * kPanel + kSkew;
    }

    int64_t tiles() const { return kFrequencies * stride; }
    int64_t sums() const { return block * rows * kFrequencies * kPanel; }
    std::size_t bytes() const { return static_cast<std::size_t>(tiles() + sums()) * sizeof(float); }
    int64_t panels_of(int64_t index) const { return std::min(block, panels - index * block); }
};

struct Call {
    const Convolution& shape;
    const Plan& plan;
    const float *features, *weights, *bias;
    float floor, *result;

    // Strips past the last are the last again, and never written.
    void find_strips(int64_t panel, Strip (&strips)[kStrips]) const {
        for (int64_t s = 0; s < kStrips; ++s) {
            const int64_t at = std::min(panel * kStrips + s, plan.strips - 1), row = at / plan.across;
            strips[s] = {row / plan.down, row % plan.down * kSide, at % plan.across * kStripWidth};
        }
    }

    // One channel of the panel that is number `place` of its block.
    void transform_one(int64_t place, int64_t channel, const Strip (&strips)[kStrips], float* tiles) const {
        transform_features(shape, features, channel, strips,
                           tiles + (place * shape.inputs + channel) * kPanel, plan.stride);
    }

    void multiply_one(int64_t frequency, int64_t panels_here, const float* tiles, float* sums) const {
        multiply(shape, weights + frequency * plan.rows * shape.inputs, tiles + frequency * plan.stride,
                 panels_here, sums + frequency * kPanel);
    }

    void finish_one(int64_t panel, int64_t place, int64_t channel, const Strip (&strips)[kStrips],
                    const float* sums) const {
        transform_sums(shape, sums + (place * plan.rows + channel) * kFrequencies * kPanel, channel, strips,
                       plan.strips - panel * kStrips, bias ? bias[channel] : 0.0f, floor, result);
    }
};

// One task's block, channel by channel, so that neighbouring panels read neighbouring features.
void convolve_block(const Call& call, int64_t block, float* tiles) {
    const Plan& plan = call.plan;
    float* const sums = tiles + plan.tiles();
    const int64_t first = block * plan.block, panels = plan.panels_of(block);
    Strip strips[kLargeBlock][kStrips];
    for (int64_t p = 0; p < panels; ++p) call.find_strips(first + p, strips[p]);
    for (int64_t channel = 0; channel < call.shape.inputs; ++channel)
        for (int64_t p = 0; p < panels; ++p) call.transform_one(p, channel, strips[p], tiles);
    for (int64_t frequency = 0; frequency < kFrequencies; ++frequency)
        call.multiply_one(frequency, panels, tiles, sums);
    for (int64_t channel = 0; channel < call.shape.outputs; ++channel)
        for (int64_t p = 0; p < panels; ++p) call.finish_one(first + p, p, channel, strips[p], sums);
}

// Of many panels every task takes the next block that nobody has, in memory of its own.
void convolve_apart(const Call& call, const Memory& memory, const Parallel& parallel) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    for_each(parallel, std::min(kTasks, call.plan.blocks), [&](int64_t) {
        float* own = nullptr;
        for (int64_t block; (block = next.fetch_add(1)) < call.plan.blocks;) {
            if (own == nullptr) own = static_cast<float*>(memory.take(memory.owner, call.plan.bytes()));
            if (own == nullptr) {
                failed = true;
                return;
            }
            convolve_block(call, block, own);
        }
        if (own != nullptr) memory.give(memory.owner, own);
    });
    if (failed) throw std::bad_alloc();
}

// Calls `function(panel of the block, first channel, last channel)` for all channels of all panels.
template <typename Function>
void for_channels(const Parallel& parallel, int64_t panels, int64_t channels, const Function& function) {
    const int64_t groups = divide_up(channels, kChannels);
    for_each(parallel, panels * groups, [&](int64_t task) {
        const int64_t begin = task % groups * kChannels;
        function(task / groups, begin, std::min(begin + kChannels, channels));
    });
}

// Of few panels all tasks work on one block together.
void convolve_together(const Call& call, const Memory& memory, const Parallel& parallel) {
    const Plan& plan = call.plan;
    float* const tiles = static_cast<float*>(memory.take(memory.owner, plan.bytes()));
    if (tiles == nullptr) throw std::bad_alloc();
    float* const sums = tiles + plan.tiles();
    for (int64_t block = 0; block < plan.blocks; ++block) {
        const int64_t first = block * plan.block, panels = plan.panels_of(block);
        for_channels(parallel, panels, call.shape.inputs, [&](int64_t p, int64_t begin, int64_t end) {
            Strip strips[kStrips];
            call.find_strips(first + p, strips);
            for (int64_t channel = begin; channel < end; ++channel)
                call.transform_one(p, channel, strips, tiles);
        });
        for_each(parallel, kFrequencies,
                 [&](int64_t frequency) { call.multiply_one(frequency, panels, tiles, sums); });
        for_channels(parallel, panels, call.shape.outputs, [&](int64_t p, int64_t begin, int64_t end) {
            Strip strips[kStrips];
            call.find_strips(first + p, strips);
            for (int64_t channel = begin; channel < end; ++channel)
                call.finish_one(first + p, p, channel, strips, sums);
        });
    }
    memory.give(memory.owner, tiles);
}

}  // namespace

std::size_t winograd_weights_bytes(int64_t inputs, int64_t outputs) {
    return static_cast<std::size_t>(kFrequencies * rows_of(outputs) * kRows * inputs) * sizeof(float);
}

// G g G^T; rows past the last output are zeros.
void winograd_weights(int64_t inputs, int64_t outputs, const float* weights, float* transformed,
                      const Parallel& parallel) {
    static constexpr double kG[6][3] = {{1. / 4, 0, 0},
                                        {-1. / 6, -1. / 6, -1. / 6},
                                        {-1. / 6, 1. / 6, -1. / 6},
                                        {1. / 24, 1. / 12, 1. / 6},
                                        {1. / 24, -1. / 12, 1. / 6},
                                        {0, 0, 1}};
    const int64_t rows = rows_of(outputs);
    for_each(parallel, rows, [&](int64_t row) {
        for (int64_t at = 0; at < inputs * kRows; ++at) {
            const int64_t output = row * kRows + at % kRows;
            const float* const g = weights + (output * inputs + at / kRows) * 9;
            double half[6][3] = {};
            for (int i = 0; i < 6 && output < outputs; ++i)
                for (int j = 0; j < 3; ++j)
                    half[i][j] =
                        kG[i][0] * double{g[j]} + kG[i][1] * double{g[3 + j]} + kG[i][2] * double{g[6 + j]};
            for (int i = 0; i < 6; ++i)
                for (int j = 0; j < 6; ++j)
                    transformed[((i * 6 + j) * rows + row) * inputs * kRows + at] = static_cast<float>(
                        half[i][0] * kG[j][0] + half[i][1] * kG[j][1] + half[i][2] * kG[j][2]);
        }
    });
}

void winograd_convolution(const Convolution& shape, const float* features, const float* transformed,
                          const float* bias, bool relu, float* result, const Memory& memory,
                          const Parallel& parallel) {
    const Plan plan(shape);
    const float floor = relu ? 0.0f : -std::numeric_limits<float>::infinity();
    const Call call{shape, plan, features, transformed, bias, floor, result};
    if (plan.shared)
        convolve_together(call, memory, parallel);
    else
        convolve_apart(call, memory, parallel);
}

}  // namespace gantk::cpu
