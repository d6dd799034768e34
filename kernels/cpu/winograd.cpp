// SPDX-License-Identifier: Apache-2.0
#include "winograd.hpp"

#include <algorithm>
#include <new>

#include "tasks.hpp"
#include "winograd_parts.hpp"

namespace gantk::cpu {
namespace {

using namespace winograd;
using std::int64_t;

constexpr int64_t kFewPanels = 64;    // With fewer, all tasks share a block.
constexpr int64_t kManyPanels = 128;  // With fewer, blocks are larger, for each reads all weights.
constexpr int64_t kBlock = 4, kLargeBlock = 8;
constexpr int64_t kSharedBytes = 20 << 20;  // Of a shared block: much of it stays in the last cache.
constexpr int64_t kChannels = 16;           // That a task of a shared block transforms.
constexpr int64_t kSkew = 80;               // Frequencies a power of two apart would share the cache's sets.

// Products lie in the order of frequencies, those of one frequency in the order of phases.
struct Products {
    int64_t numbers[kFrequencies][4] = {}, all = 0;

    constexpr Products() {
        for (int64_t frequency = 0; frequency < kFrequencies; ++frequency)
            for (int64_t phase = 0; phase < 4; ++phase) {
                numbers[frequency][phase] = all;
                all += has_product({1, 1, 1, 1, 1, true}, frequency, phase);
            }
    }

    int64_t count(const Convolution& shape) const { return shape.transposed ? all : kFrequencies; }
    int64_t before(const Convolution& shape, int64_t frequency, int64_t phase) const {
        return shape.transposed ? numbers[frequency][phase] : frequency;
    }
};
constexpr Products kProducts;

// Weights of one product. Convolutions with turned weights take those of the others.
int64_t product_size(const Convolution& shape) {
    return shape.turned ? rows_of(shape.inputs) * row_size(shape.outputs)
                        : rows_of(shape.outputs) * row_size(shape.inputs);
}

// A block of panels is transformed, multiplied and transformed back before the next. It depends on the shape
// alone; and no sum depends on it.
struct Plan {
    int64_t across, down, tiles, panels, rows, phases, block, blocks, stride;
    bool strips, shared;

    explicit Plan(const Convolution& shape) {
        strips = shape.width > kStripWidth / 2;  // Half of a strip would be wasted.
        across = divide_up(shape.width, kSide);
        if (strips) across = divide_up(shape.width, kStripWidth) * kStripTiles;
        down = divide_up(shape.height, kSide);
        tiles = shape.count * down * across;
        panels = divide_up(tiles, kPanel);
        rows = rows_of(shape.outputs) * kRows;
        phases = phases_of(shape);
        shared = panels < kFewPanels;
        const int64_t panel_bytes =
            kFrequencies * kPanel * (shape.inputs + phases * rows) * int64_t{sizeof(float)};
        block = panels < kManyPanels ? kLargeBlock : kBlock;
        if (shared) block = std::clamp<int64_t>(kSharedBytes / panel_bytes, 1, panels);
        blocks = divide_up(panels, block);
        stride = block * shape.inputs * kPanel + kSkew;
    }

    int64_t tiles_size() const { return kFrequencies * stride; }
    int64_t sums_size() const { return block * phases * rows * kFrequencies * kPanel; }
    std::size_t bytes() const { return static_cast<std::size_t>(tiles_size() + sums_size()) * sizeof(float); }
    int64_t panels_of(int64_t index) const { return std::min(block, panels - index * block); }
};

struct Call {
    const Convolution& shape;
    const Plan& plan;
    const Tensors& tensors;

    void find_panel(int64_t index, Panel& panel) const {
        panel.strips = plan.strips;
        panel.count = std::min(kPanel, plan.tiles - index * kPanel);
        for (int64_t t = 0; t < kPanel; ++t) {
            // Past the last strip is the last again, not its last tile.
            const int64_t last = plan.strips ? plan.tiles - kStripTiles + t % kStripTiles : plan.tiles - 1;
            const int64_t at = std::min(index * kPanel + t, last), row = at / plan.across;
            panel.tiles[t] = {row / plan.down, row % plan.down * kSide, at % plan.across * kSide};
        }
    }

    // One channel of the panel that is number `place` of its block.
    void transform_one(int64_t place, int64_t channel, const Panel& panel, float* tiles) const {
        transform_features(shape, tensors, channel, panel, tiles + (place * shape.inputs + channel) * kPanel,
                           plan.stride);
    }

    void multiply_one(int64_t frequency, int64_t panels_here, const float* tiles, float* sums) const {
        const int64_t packed = shape.turned ? turned(frequency) : frequency;
        for (int64_t phase = 0; phase < plan.phases; ++phase)
            if (has_product(shape, frequency, phase))
                multiply(shape, tensors.packed + kProducts.before(shape, packed, phase) * product_size(shape),
                         tiles + frequency * plan.stride, panels_here,
                         sums + (phase * plan.rows * kFrequencies + frequency) * kPanel);
    }

    void finish_one(int64_t place, int64_t channel, const Panel& panel, const float* sums) const {
        const int64_t stride = kFrequencies * kPanel;
        transform_sums(shape, tensors, sums + (place * plan.phases * plan.rows + channel) * stride,
                       plan.rows * stride, channel, panel);
    }
};

// One task's block, channel by channel, so that neighbouring panels read neighbouring features.
void convolve_block(const Call& call, int64_t block, float* tiles) {
    const Plan& plan = call.plan;
    float* const sums = tiles + plan.tiles_size();
    const int64_t first = block * plan.block, panels = plan.panels_of(block);
    Panel found[kLargeBlock];
    for (int64_t p = 0; p < panels; ++p) call.find_panel(first + p, found[p]);
    for (int64_t channel = 0; channel < call.shape.inputs; ++channel)
        for (int64_t p = 0; p < panels; ++p) call.transform_one(p, channel, found[p], tiles);
    for (int64_t frequency = 0; frequency < kFrequencies; ++frequency)
        call.multiply_one(frequency, panels, tiles, sums);
    for (int64_t channel = 0; channel < call.shape.outputs; ++channel)
        for (int64_t p = 0; p < panels; ++p) call.finish_one(p, channel, found[p], sums);
}

void convolve_apart(const Call& call, const Memory& memory, const Parallel& parallel) {
    for_each_in_memory(parallel, memory, call.plan.blocks, call.plan.bytes(), [&](int64_t block, void* own) {
        convolve_block(call, block, static_cast<float*>(own));
    });
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
    float* const sums = tiles + plan.tiles_size();
    for (int64_t block = 0; block < plan.blocks; ++block) {
        const int64_t first = block * plan.block, panels = plan.panels_of(block);
        for_channels(parallel, panels, call.shape.inputs, [&](int64_t p, int64_t begin, int64_t end) {
            Panel panel;
            call.find_panel(first + p, panel);
            for (int64_t channel = begin; channel < end; ++channel)
                call.transform_one(p, channel, panel, tiles);
        });
        for_each(parallel, kFrequencies,
                 [&](int64_t frequency) { call.multiply_one(frequency, panels, tiles, sums); });
        for_channels(parallel, panels, call.shape.outputs, [&](int64_t p, int64_t begin, int64_t end) {
            Panel panel;
            call.find_panel(first + p, panel);
            for (int64_t channel = begin; channel < end; ++channel)
                call.finish_one(p, channel, panel, sums);
        });
    }
    memory.give(memory.owner, tiles);
}

}  // namespace

namespace winograd {

// Of the four rows and columns of a transposed kernel, even results meet the
// last and the second, odd ones the third and the first.
void read_kernel(const Convolution& shape, const float* weights, int64_t output, int64_t input, int64_t phase,
                 double (&kernel)[3][3]) {
    if (!shape.transposed) {
        for (int64_t i = 0; i < 9; ++i)
            kernel[i / 3][i % 3] = weights[(output * shape.inputs + input) * 9 + i];
        return;
    }
    const float* const taps = weights + (input * shape.outputs + output) * 16;
    const int64_t a = phase / 2, b = phase % 2;
    for (int64_t i = 0; i < 2; ++i)
        for (int64_t j = 0; j < 2; ++j)
            kernel[a + i][b + j] = taps[(3 - a - 2 * i) * 4 + 3 - b - 2 * j];
}

void transform_kernel(const double (&kernel)[3][3], double (&made)[kFrequencies]) {
    constexpr double kSixth = 1.41421356237309505 / 6, kThird = 2 * kSixth;
    static constexpr double kG[6][3] = {{1, 0, 0},
                                        {kSixth, 1. / 3, kThird},
                                        {kSixth, -1. / 3, kThird},
                                        {kThird, 1. / 3, kSixth},
                                        {kThird, -1. / 3, kSixth},
                                        {0, 0, 1}};
    double half[6][3];
    for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 3; ++j)
            half[i][j] = kG[i][0] * kernel[0][j] + kG[i][1] * kernel[1][j] + kG[i][2] * kernel[2][j];
    for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j)
            made[i * 6 + j] = half[i][0] * kG[j][0] + half[i][1] * kG[j][1] + half[i][2] * kG[j][2];
}

}  // namespace winograd

std::size_t winograd_weights_bytes(const Convolution& shape) {
    return static_cast<std::size_t>(kProducts.count(shape) * product_size(shape)) * sizeof(float);
}

// Outputs past the last one are zeros.
void winograd_weights(const Convolution& shape, const float* weights, float* transformed,
                      const Parallel& parallel) {
    const int64_t rows = rows_of(shape.outputs);
    const auto row_of = [&](int64_t product, int64_t row) {
        return transformed + (product * rows + row) * row_size(shape.inputs);
    };
    for_each(parallel, rows, [&](int64_t row) {
        for (int64_t at = 0; at < shape.inputs * kRows; ++at)
            for (int64_t phase = 0; phase < phases_of(shape); ++phase) {
                const int64_t output = row * kRows + at % kRows;
                double kernel[3][3] = {}, made[kFrequencies];
                if (output < shape.outputs) read_kernel(shape, weights, output, at / kRows, phase, kernel);
                transform_kernel(kernel, made);
                for (int64_t frequency = 0; frequency < kFrequencies; ++frequency) {
                    if (!has_product(shape, frequency, phase)) continue;
                    row_of(kProducts.before(shape, frequency, phase), row)[at] = static_cast<float>(made[frequency]);
                }
            }
        for (int64_t product = 0; product < kProducts.count(shape); ++product)
            std::fill_n(row_of(product, row) + shape.inputs * kRows, kBeyond, 0.0f);
    });
}

void winograd_convolution(const Convolution& shape, const Tensors& tensors, const Memory& memory,
                          const Parallel& parallel) {
    const Plan plan(shape);
    const Call call{shape, plan, tensors};
    if (plan.shared)
        convolve_together(call, memory, parallel);
    else
        convolve_apart(call, memory, parallel);
}

}  // namespace gantk::cpu
