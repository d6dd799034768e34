// SPDX-License-Identifier: Apache-2.0
// Winograd's convolution on buffers of exactly their sizes, on several threads, against float64. Built with
// sanitizers.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <vector>

#include "threads.hpp"
#include "winograd.hpp"

namespace {

using namespace gantk::cpu;
using std::int64_t;

int failures = 0;

void check(bool holds, const char* what, const Convolution& shape, double found) {
    if (holds) return;
    std::fprintf(stderr, "%s: [%ld, %ld, %ld, %ld] to %ld channels: %g\n", what, long(shape.count),
                 long(shape.inputs), long(shape.height), long(shape.width), long(shape.outputs), found);
    ++failures;
}

void run_backwards(void*, Task task, std::size_t count, void* data) {
    for (std::size_t index = count; index-- > 0;) task(data, index);
}

constexpr Parallel kBackwards{run_backwards, nullptr};

// Blocks that end where they end, hold no zeros, and are counted.
std::atomic<int> taken{0};
const Memory kMemory{[](void*, std::size_t bytes) -> void* {
                         ++taken;
                         return std::memset(::operator new(bytes, std::align_val_t{64}), 0xff, bytes);
                     },
                     [](void*, void* block) {
                         --taken;
                         ::operator delete(block, std::align_val_t{64});
                     },
                     nullptr};
const Memory kNone{[](void*, std::size_t) -> void* { return nullptr; }, nullptr, nullptr};

std::vector<float> draw(int64_t count, double scale) {
    static std::mt19937 generator(0);
    std::normal_distribution<double> normal(0, scale);
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = static_cast<float>(normal(generator));
    return values;
}

struct Case {
    Convolution shape;
    std::vector<float> features, weights, bias, transformed;

    explicit Case(const Convolution& given)
        : shape(given),
          features(draw(shape.count * shape.inputs * shape.height * shape.width, 1)),
          weights(draw(shape.outputs * shape.inputs * 9, std::sqrt(2.0 / (9.0 * double(shape.inputs))))),
          bias(draw(shape.outputs, 0.3)),
          transformed(winograd_weights_bytes(shape.inputs, shape.outputs) / sizeof(float), NAN) {
        winograd_weights(shape.inputs, shape.outputs, weights.data(), transformed.data(), kThreads);
    }

    std::vector<float> run(bool biased, bool relu, const Parallel& parallel) const {
        std::vector<float> result(std::size_t(shape.count * shape.outputs * shape.height * shape.width), NAN);
        winograd_convolution(shape, features.data(), transformed.data(), biased ? bias.data() : nullptr, relu,
                             result.data(), kMemory, parallel);
        return result;
    }

    std::vector<double> reference() const {
        std::vector<double> result;
        for (int64_t n = 0; n < shape.count; ++n)
            for (int64_t k = 0; k < shape.outputs; ++k)
                for (int64_t y = 0; y < shape.height; ++y)
                    for (int64_t x = 0; x < shape.width; ++x) result.push_back(at(n, k, y, x));
        return result;
    }

    double at(int64_t n, int64_t k, int64_t y, int64_t x) const {
        double sum = 0;
        for (int64_t c = 0; c < shape.inputs; ++c)
            for (int64_t i = std::max<int64_t>(y - 1, 0); i < std::min(y + 2, shape.height); ++i)
                for (int64_t j = std::max<int64_t>(x - 1, 0); j < std::min(x + 2, shape.width); ++j) {
                    const int64_t from = ((n * shape.inputs + c) * shape.height + i) * shape.width + j;
                    const int64_t by = (k * shape.inputs + c) * 9 + (i - y + 1) * 3 + j - x + 1;
                    sum += double{features[std::size_t(from)]} * double{weights[std::size_t(by)]};
                }
        return sum;
    }
};

void test_values(const Convolution& shape) {
    const Case given(shape);
    const std::vector<double> products = given.reference();
    const int64_t area = shape.height * shape.width;
    for (const bool biased : {false, true})
        for (const bool relu : {false, true}) {
            const std::vector<float> found = given.run(biased, relu, kThreads);
            double size = 0, worst = 0, squares = 0;
            for (std::size_t i = 0; i < found.size(); ++i) {
                const int64_t channel = int64_t(i) / area % shape.outputs;
                const double sum = products[i] + (biased ? double{given.bias[std::size_t(channel)]} : 0);
                const double off = std::abs(found[i] - (relu ? std::max(sum, 0.0) : sum));
                worst = std::isfinite(off) ? std::max(worst, off) : HUGE_VAL;
                size += sum * sum, squares += off * off;
            }
            const double rms =
                std::sqrt(size / double(found.size())) + 1e-2;  // Of a single result next to 0.
            check(worst <= 8e-5 * rms, "largest error", shape, worst / rms);
            check(std::sqrt(squares / double(found.size())) <= 5e-6 * rms, "error", shape,
                  std::sqrt(squares / double(found.size())) / rms);
            const std::vector<float> alone = given.run(biased, relu, kBackwards);
            check(std::memcmp(found.data(), alone.data(), found.size() * sizeof(float)) == 0,
                  "bits differ with one thread", shape, 0);
        }
    check(taken == 0, "memory is kept", shape, taken);
    for (const Parallel& parallel : {kThreads, kBackwards}) {
        std::vector<float> result(products.size());
        bool thrown = false;
        try {
            winograd_convolution(shape, given.features.data(), given.transformed.data(), nullptr, false,
                                 result.data(), kNone, parallel);
        } catch (const std::bad_alloc&) {
            thrown = true;
        }
        check(thrown, "no memory is no error", shape, 0);
    }
}

// Tiles that read a value which is not finite are lost, and no result elsewhere changes.
void test_not_finite(float value) {
    const Convolution shape{1, 2, 3, 21, 45};
    Case given(shape);
    const std::vector<float> before = given.run(true, true, kThreads);
    const int64_t y = 9, x = 20;  // In the tiles that begin at rows 8 and columns 16 and 20.
    given.features[std::size_t((21 + y) * 45 + x)] = value;
    const std::vector<float> after = given.run(true, true, kThreads);
    for (int64_t i = 0; i < int64_t(after.size()); ++i) {
        const int64_t row = i / 45 % 21, column = i % 45;
        const bool spoilt = row / 4 == 2 && (column / 4 == 4 || column / 4 == 5);
        const float found = after[std::size_t(i)];
        if (!spoilt) check(found == before[std::size_t(i)], "a finite tile changed", shape, found);
        if (std::abs(row - y) <= 1 && std::abs(column - x) <= 1 && std::isnan(value))
            check(std::isnan(found), "NaN is lost", shape, found);
    }
}

}  // namespace

int main() {
    const std::vector<Convolution> shapes{
        {1, 1, 1, 1, 1},     {2, 1, 7, 1, 1},    {1, 3, 5, 1, 9},      {1, 5, 3, 9, 1},
        {2, 7, 6, 5, 17},    {3, 6, 13, 4, 16},  {1, 8, 12, 8, 32},    {1, 17, 25, 33, 15},
        {1, 130, 3, 6, 20},  {1, 2, 130, 7, 31}, {1, 520, 4, 5, 18},   {1, 64, 64, 16, 16},
        {60, 2, 3, 3, 5},    {2, 3, 4, 37, 49},  {1, 600, 1, 124, 64},  // Few panels, in two blocks.
        {1, 3, 2, 130, 130},                                            // 75 panels, 8 a block.
        {2, 2, 3, 129, 140},                                            // 149 panels, 4 a block.
    };
    for (const Convolution& shape : shapes) test_values(shape);
    for (const float value : {NAN, std::numeric_limits<float>::infinity()}) test_not_finite(value);
    std::printf("%zu shapes, %d wrong\n", shapes.size(), failures);
    return failures == 0 ? 0 : 1;
}
