// SPDX-License-Identifier: Apache-2.0
// Convolutions of each channel by itself on buffers of exactly their sizes, on several threads, against float64, with
// the loops of every processor that this one can be. Built with sanitizers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "depthwise.hpp"
#include "draw.hpp"
#include "element.hpp"
#include "nhwc_loops.hpp"
#include "rounded.hpp"
#include "threads.hpp"
#include "watched.hpp"

namespace {

using namespace gantk::cpu;
using nhwc::Bfloat;
using nhwc::Depthwise;
using std::int64_t;

int failures = 0;

void check(bool holds, const char* what, const Depthwise& s, double found) {
    if (holds) return;
    std::fprintf(stderr, "%s: [%ld, %ld, %ld, %ld], %ld x %ld, strides %ld %ld, pads %ld %ld %ld %ld: %g\n", what,
                 long(s.count), long(s.height), long(s.width), long(s.channels), long(s.kernel_height),
                 long(s.kernel_width), long(s.down), long(s.across), long(s.top), long(s.left), long(s.bottom), long(s.right), found);
    ++failures;
}

enum class End { none, relu, slopes };

template <typename T>
struct Case {
    Depthwise shape;
    std::vector<T> features, weights, bias, slopes;

    explicit Case(const Depthwise& s)
        : shape(s),
          features(rounded<T>(draw(s.count * s.height * s.width * s.channels))),
          weights(rounded<T>(draw(s.channels * s.kernel_height * s.kernel_width))),
          bias(rounded<T>(draw(s.channels))),
          slopes(rounded<T>(draw(s.channels))) {}

    std::vector<T> run(bool biased, End end, const Parallel& parallel) const {
        const std::vector<nhwc::DepthwiseLanes> packed = nhwc::depthwise_weights(shape, weights.data());
        const int64_t pixels = shape.count * shape.result_height() * shape.result_width();
        std::vector<T> result(std::size_t(pixels * shape.channels), rounded<T>({NAN})[0]);
        nhwc::depthwise_convolution<T>(
            shape,
            {features.data(), packed.data(), result.data(), biased ? bias.data() : nullptr, end == End::relu,
             end == End::slopes ? slopes.data() : nullptr},
            parallel);
        return result;
    }

    // The sum of a result, and that of its terms' magnitudes.
    struct Sum {
        double value, size;
    };
    Sum sum_of(int64_t result) const {
        const auto& s = shape;
        const int64_t c = result % s.channels, x = result / s.channels % s.result_width(),
                      y = result / s.channels / s.result_width() % s.result_height(),
                      n = result / s.channels / s.result_width() / s.result_height();
        Sum sum{0, 1e-30};
        for (int64_t i = 0; i < s.kernel_height; ++i)
            for (int64_t j = 0; j < s.kernel_width; ++j) {
                const int64_t row = y * s.down - s.top + i, column = x * s.across - s.left + j;
                if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
                const int64_t from = ((n * s.height + row) * s.width + column) * s.channels + c;
                const double term = value_of(features[std::size_t(from)]) *
                                    value_of(weights[std::size_t((c * s.kernel_height + i) * s.kernel_width + j)]);
                sum.value += term, sum.size += std::abs(term);
            }
        return sum;
    }
};

template <typename T>
void test_values(const Case<T>& given, const std::vector<typename Case<T>::Sum>& sums) {
    constexpr bool kWide = sizeof(T) == sizeof(float);
    for (const bool biased : {false, true})
        for (const End end : {End::none, End::relu, End::slopes}) {
            const std::vector<T> found = given.run(biased, end, kThreads);
            for (std::size_t i = 0; i < found.size(); ++i) {
                const std::size_t c = i % given.bias.size();
                const double bias = biased ? value_of(given.bias[c]) : 0;
                double wanted = sums[i].value + bias;
                if (wanted < 0 && end != End::none) wanted *= end == End::relu ? 0 : value_of(given.slopes[c]);
                const double off = std::abs(value_of(found[i]) - wanted);
                const double most = 4e-6 * (sums[i].size + std::abs(bias)) + (kWide ? 0 : 0x1p-8 * std::abs(wanted));
                check(off <= most, "wrong", given.shape, off);
            }
            const std::vector<T> again = given.run(biased, end, kBackwards);
            check(std::memcmp(again.data(), found.data(), found.size() * sizeof(T)) == 0,
                  "bits differ with one thread", given.shape, 0);
        }
}

// NaN spoils the results whose kernels meet it, and none else; it stays NaN through the ending.
template <typename T>
void test_not_finite(Case<T> given) {
    const auto& s = given.shape;
    const std::vector<T> before = given.run(true, End::relu, kThreads);
    const int64_t row = s.height / 2, column = s.width / 2, channel = s.channels / 2;
    given.features[std::size_t((row * s.width + column) * s.channels + channel)] = rounded<T>({NAN})[0];
    for (const End end : {End::relu, End::slopes}) {
        const std::vector<T> after = given.run(true, end, kThreads);
        for (int64_t i = 0; i < s.result_height() * s.result_width() * s.channels; ++i) {
            const int64_t down = row - (i / s.channels / s.result_width() * s.down - s.top),
                          across = column - (i / s.channels % s.result_width() * s.across - s.left);
            const bool meets = i % s.channels == channel && down >= 0 && down < s.kernel_height && across >= 0 &&
                               across < s.kernel_width;
            const double found = value_of(after[std::size_t(i)]);
            check(std::isnan(found) == meets, "NaN", s, found);
            if (!meets && end == End::relu)
                check(found == value_of(before[std::size_t(i)]), "another result changed", s, found);
        }
    }
}

// Sums halfway between two bfloat16 become the even one.
void test_ties() {
    Case<Bfloat> given({1, 2, 9, 24, 1, 1});
    std::vector<float> features(given.features.size()), wanted(given.features.size());
    for (std::size_t i = 0; i < features.size(); ++i) {
        features[i] = (i % 3 == 0 ? -1.0f : 1.0f) * (1 + float(i % 128) * 0x1p-7f);
        wanted[i] = features[i] + 0x1p-8f;
    }
    given.features = rounded<Bfloat>(features);
    given.weights = rounded<Bfloat>(std::vector<float>(given.weights.size(), 1.0f));
    given.bias = rounded<Bfloat>(std::vector<float>(given.bias.size(), 0x1p-8f));
    for (const nhwc::Processor* each : nhwc::processors()) {
        nhwc::choose(*each);
        check(given.run(true, End::none, kThreads) == rounded<Bfloat>(wanted), each->name, given.shape, 0);
    }
}

template <typename T>
void test_shape(const Depthwise& shape) {
    const Case<T> given(shape);
    std::vector<typename Case<T>::Sum> sums;
    for (int64_t i = 0; i < shape.count * shape.result_height() * shape.result_width() * shape.channels; ++i)
        sums.push_back(given.sum_of(i));
    for (const nhwc::Processor* each : nhwc::processors()) {
        nhwc::choose(*each);
        test_values(given, sums);
        test_not_finite(given);
    }
}

// Every result, and none else, is written; a feature that is not finite spoils the results that it meets.
template <typename T>
void test_transposed(const nhwc::DepthwiseTransposed& s) {
    const Depthwise size{s.count, s.height, s.width, s.channels, s.kernel_height, s.kernel_width, s.down, s.across};
    std::vector<T> features = rounded<T>(draw(s.count * s.height * s.width * s.channels));
    const std::vector<T> weights = rounded<T>(draw(s.channels * s.kernel_height * s.kernel_width));
    const std::vector<T> bias = rounded<T>(draw(s.channels));
    const auto marked = std::size_t(s.height / 2 * s.width + s.width / 2) * std::size_t(s.channels);
    features[marked] = rounded<T>({NAN})[0];
    for (const nhwc::Processor* each : nhwc::processors()) {
        nhwc::choose(*each);
        const auto phases = nhwc::depthwise_phases(s, weights.data());
        std::vector<T> result(std::size_t(s.count * s.result_height * s.result_width * s.channels),
                              rounded<T>({INFINITY})[0]);
        nhwc::depthwise_transposed<T>(s, phases, {features.data(), nullptr, result.data(), bias.data()}, kThreads);
        for (std::size_t at = 0; at < result.size(); ++at) {
            const int64_t i = int64_t(at), c = i % s.channels, x = i / s.channels % s.result_width,
                          y = i / s.channels / s.result_width % s.result_height,
                          n = i / s.channels / s.result_width / s.result_height;
            double wanted = value_of(bias[std::size_t(c)]), terms = std::abs(wanted) + 1e-30;
            for (int64_t row = 0; row < s.height; ++row)
                for (int64_t column = 0; column < s.width; ++column) {
                    const int64_t down = y + s.top - row * s.down, across = x + s.left - column * s.across;
                    if (down < 0 || down >= s.kernel_height || across < 0 || across >= s.kernel_width) continue;
                    const auto from = std::size_t(((n * s.height + row) * s.width + column) * s.channels + c);
                    const double term =
                        value_of(features[from]) *
                        value_of(weights[std::size_t((c * s.kernel_height + down) * s.kernel_width + across)]);
                    wanted += term, terms += std::abs(term);
                }
            const double found = value_of(result[at]), off = std::abs(found - wanted);
            constexpr bool kWide = sizeof(T) == sizeof(float);
            const bool near = off <= 4e-6 * terms + (kWide ? 0 : 0x1p-8 * std::abs(wanted));
            check(std::isnan(wanted) ? std::isnan(found) : near, "wrong, transposed", size, off);
        }
    }
}

}  // namespace

int main() {
    const std::vector<Depthwise> shapes{
        {1, 1, 1, 1, 1, 1},
        {2, 9, 11, 16},
        {1, 5, 7, 17, 3, 3, 1, 1, 1, 1, 1, 1},
        {2, 13, 23, 40, 4, 4, 1, 1, 2, 2, 1, 1},
        {1, 8, 9, 64, 4, 4, 1, 1, 1, 1, 2, 2},
        {1, 30, 15, 31, 5, 5, 1, 1, 2, 2, 2, 2},
        {1, 9, 12, 48, 7, 7, 1, 1, 3, 3, 3, 3},
        {2, 11, 20, 33, 3, 3, 2, 2, 1, 1, 1, 1},
        {1, 12, 14, 32, 3, 3, 2, 2, 0, 0, 1, 1},
        {1, 16, 10, 20, 5, 3, 3, 3, 0, 2, 4, 1},
        {3, 1, 1, 24, 3, 3, 1, 1, 1, 1, 1, 1},
        {1, 2, 3, 19, 7, 7, 1, 1, 3, 3, 3, 3},
        {1, 2, 2, 16, 2, 2, 1, 1, 5, 4, 3, 6},  // Some results meet zeros alone.
        {1, 20, 37, 3, 4, 4, 1, 1, 2, 2, 1, 1},
        {2, 7, 150, 3, 3, 3, 1, 1, 1, 1, 1, 1},
        {1, 6, 45, 1, 3, 5, 1, 1, 1, 2, 1, 2},
        {1, 5, 40, 12, 3, 3, 1, 1},
        {2, 9, 71, 15, 2, 6, 1, 1, 0, 3, 1, 2},
        {1, 19, 75, 3, 3, 3, 2, 2, 1, 1, 1, 1},
        {2, 6, 5, 7, 4, 4, 1, 1, 1, 1, 2, 2},
        {1, 1, 2, 5, 3, 3, 1, 1, 4, 4, 4, 4},
        {2, 13, 23, 40, 12, 1, 2, 1, 2, 0, 1, 0},
        {1, 9, 50, 33, 1, 12, 1, 2, 0, 5, 0, 6},
        {1, 9, 50, 3, 3, 2, 2, 1, 1, 1, 1, 0},
        {1, 11, 40, 5, 2, 3, 1, 3, 0, 2, 1, 1},
    };
    for (const Depthwise& shape : shapes) {
        test_shape<float>(shape);
        test_shape<Bfloat>(shape);
    }
    const std::vector<nhwc::DepthwiseTransposed> transposed{
        {2, 7, 9, 40, 4, 4, 2, 2, 1, 1, 14, 18},
        {1, 6, 11, 33, 1, 12, 1, 2, 0, 4, 6, 25},
        {1, 5, 8, 16, 24, 1, 4, 1, 10, 0, 23, 8},
        {1, 9, 6, 3, 5, 4, 3, 2, 2, 0, 28, 12},
        {1, 4, 40, 5, 3, 3, 1, 1, 1, 1, 5, 39},
        {2, 3, 2, 20, 2, 1, 3, 4, 0, 0, 8, 5},    // Strides beyond kernels: some results meet no feature.
        {1, 2, 3, 24, 2, 2, 2, 2, 3, 5, 1, 1},
    };
    for (const nhwc::DepthwiseTransposed& shape : transposed) {
        test_transposed<float>(shape);
        test_transposed<Bfloat>(shape);
    }
    test_ties();
    std::printf("%zu shapes on %zu kinds of processors, %d wrong\n", 2 * (shapes.size() + transposed.size()), nhwc::processors().size(),
                failures);
    return failures == 0 ? 0 : 1;
}
