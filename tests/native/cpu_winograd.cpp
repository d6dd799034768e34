// SPDX-License-Identifier: Apache-2.0
// Convolutions on buffers of exactly their sizes, on several threads, against float64. Built with sanitizers.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "draw.hpp"
#include "threads.hpp"
#include "transposed.hpp"
#include "watched.hpp"
#include "winograd.hpp"

namespace {

using namespace gantk::cpu;
using std::int64_t;

int failures = 0;

void check(bool holds, const char* what, const Convolution& shape, double found) {
    if (holds) return;
    std::fprintf(stderr, "%s: [%ld, %ld, %ld, %ld] to %ld channels%s: %g\n", what, long(shape.count),
                 long(shape.inputs), long(shape.height), long(shape.width), long(shape.outputs),
                 shape.transposed  ? ", transposed"
                 : shape.reflected ? ", reflected"
                 : shape.turned    ? ", turned"
                                   : "",
                 found);
    ++failures;
}

// One of the ways to convolve, and how far it may be from float64: its largest and its root mean square error,
// of the results' root mean square.
struct Method {
    decltype(&winograd_weights_bytes) bytes;
    decltype(&winograd_weights) pack;
    decltype(&winograd_convolution) convolve;
    double largest, mean;
};
constexpr Method kWinograd{winograd_weights_bytes, winograd_weights, winograd_convolution, 2.5e-5, 3e-6};
constexpr Method kProducts{transposed_weights_bytes, transposed_weights, transposed_convolution, 1e-5, 1e-6};

struct Case {
    Convolution shape;
    Method method;
    std::vector<float> features, weights, bias, packed;

    Case(const Convolution& given, const Method& by)
        : shape(given),
          method(by),
          features(draw(shape.count * shape.inputs * shape.height * shape.width)),
          weights(draw(shape.outputs * shape.inputs * side() * side(),
                       std::sqrt(2.0 / ((shape.transposed ? 4.0 : 9.0) * double(shape.inputs))))),
          bias(draw(shape.outputs, 0.3)),
          packed(method.bytes(packed_for()) / sizeof(float), NAN) {
        method.pack(packed_for(), weights.data(), packed.data(), kThreads);
    }

    // A turned convolution takes the weights of the one whose gradient it is.
    Convolution packed_for() const {
        Convolution other = shape;
        if (shape.turned) other = {1, shape.outputs, shape.inputs, 1, 1};
        return other;
    }

    int64_t side() const { return shape.transposed ? 4 : 3; }
    int64_t height() const { return shape.scale() * shape.height; }
    int64_t width() const { return shape.scale() * shape.width; }
    std::size_t size() const { return std::size_t(shape.count * shape.outputs * height() * width()); }

    std::vector<float> run(bool biased, bool relu, const Parallel& parallel, const float* mask = nullptr) const {
        std::vector<float> result(size(), NAN);
        const float* const added = biased ? bias.data() : nullptr;
        method.convolve(shape, {features.data(), packed.data(), result.data(), added, relu, mask}, kMemory,
                        parallel);
        return result;
    }

    std::vector<double> reference() const {
        std::vector<double> result;
        for (int64_t n = 0; n < shape.count; ++n)
            for (int64_t k = 0; k < shape.outputs; ++k)
                for (int64_t y = 0; y < height(); ++y)
                    for (int64_t x = 0; x < width(); ++x) result.push_back(at(n, k, y, x));
        return result;
    }

    // The feature, a row or a column, that a tap of a result meets, or -1: in the middle of a kernel of 3 lies its
    // own; a transposed kernel of 4 begins above and left of twice its own.
    int64_t met(int64_t result, int64_t tap, int64_t features_here) const {
        const int64_t twice = result + 1 - tap;
        int64_t at = shape.transposed ? twice / 2 : result - 1 + tap;
        if (shape.reflected) at = at < 0 ? 1 : at == features_here ? features_here - 2 : at;
        const bool between = shape.transposed && (twice < 0 || twice % 2 != 0);
        return between || at < 0 || at >= features_here ? -1 : at;
    }

    double at(int64_t n, int64_t k, int64_t y, int64_t x) const {
        double sum = 0;
        for (int64_t i = 0; i < side(); ++i)
            for (int64_t j = 0; j < side(); ++j) {
                const int64_t row = met(y, i, shape.height), column = met(x, j, shape.width);
                if (row < 0 || column < 0) continue;
                for (int64_t c = 0; c < shape.inputs; ++c) {
                    const int64_t from = ((n * shape.inputs + c) * shape.height + row) * shape.width + column;
                    const bool swapped = shape.transposed || shape.turned;
                    const int64_t pair = swapped ? c * shape.outputs + k : k * shape.inputs + c;
                    const int64_t tap = i * side() + j, last = side() * side() - 1;
                    sum += double{features[std::size_t(from)]} *
                           double{weights[std::size_t((pair * (last + 1) + (shape.turned ? last - tap : tap)))]};
                }
            }
        return sum;
    }
};

void test_values(const Convolution& shape, const Method& method) {
    const Case given(shape, method);
    const std::vector<double> products = given.reference();
    const int64_t area = given.height() * given.width();
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
            check(worst <= method.largest * rms, "largest error", shape, worst / rms);
            check(std::sqrt(squares / double(found.size())) <= method.mean * rms, "error", shape,
                  std::sqrt(squares / double(found.size())) / rms);
            if (!biased || relu) continue;  // Neither decides in which order sums are taken.
            const std::vector<float> alone = given.run(biased, relu, kBackwards);
            check(std::memcmp(found.data(), alone.data(), found.size() * sizeof(float)) == 0,
                  "bits differ with one thread", shape, 0);
        }
    check(taken == 0, "memory is kept", shape, taken);
    for (const Parallel& parallel : {kThreads, kBackwards}) {
        std::vector<float> result(products.size());
        bool thrown = false;
        try {
            method.convolve(shape, {given.features.data(), given.packed.data(), result.data()}, kNone, parallel);
        } catch (const std::bad_alloc&) {
            thrown = true;
        }
        check(thrown, "no memory is no error", shape, 0);
    }
}

// What a mask hides is as 0, not a number or not.
void test_mask(const Convolution& shape) {
    Case given(shape, kWinograd);
    std::vector<float> mask = draw(int64_t(given.features.size()));
    for (std::size_t i = 0; i < mask.size(); i += 7) mask[i] = i % 2 ? NAN : 0.0f;
    Case hidden = given;
    for (std::size_t i = 0; i < mask.size(); ++i)
        if (!(mask[i] > 0)) hidden.features[i] = 0, given.features[i] = i % 3 ? given.features[i] : NAN;
    const std::vector<float> wanted = hidden.run(true, false, kThreads),
                             found = given.run(true, false, kThreads, mask.data());
    check(std::memcmp(found.data(), wanted.data(), found.size() * sizeof(float)) == 0, "a mask", shape, 0);
}

// Tiles that read a value which is not finite are lost, and no result elsewhere changes.
void test_not_finite(float value, bool transposed) {
    const Convolution shape{1, 2, 3, 21, 45, transposed};
    Case given(shape, kWinograd);
    const std::vector<float> before = given.run(true, true, kThreads);
    const int64_t y = 9, x = 20;  // In the tiles that begin at rows 8 and columns 16 and 20.
    given.features[std::size_t((21 + y) * 45 + x)] = value;
    const std::vector<float> after = given.run(true, true, kThreads);
    for (int64_t i = 0; i < int64_t(after.size()); ++i) {
        const int64_t wide = given.width(), scale = shape.scale();
        const int64_t row = i / wide % given.height() / scale, column = i % wide / scale;
        const bool spoilt = row / 4 == 2 && (column / 4 == 4 || column / 4 == 5);
        const float found = after[std::size_t(i)];
        if (!spoilt) check(found == before[std::size_t(i)], "a finite tile changed", shape, found);
        const int64_t reach = transposed ? 0 : 1;
        if (std::abs(row - y) <= reach && std::abs(column - x) <= reach && std::isnan(value))
            check(std::isnan(found), "NaN is lost", shape, found);
    }
}

}  // namespace

int main() {
    const std::vector<Convolution> shapes{
        {1, 1, 1, 1, 1},     {2, 1, 7, 1, 1},    {1, 3, 5, 1, 9},      {1, 5, 3, 9, 1},
        {2, 7, 6, 5, 17},    {3, 6, 13, 4, 16},  {1, 8, 12, 8, 32},    {1, 17, 25, 33, 15},
        {1, 130, 3, 6, 20},  {1, 2, 130, 7, 31}, {1, 520, 4, 5, 18},   {1, 64, 64, 16, 16},
        {60, 2, 3, 3, 5},    {2, 3, 4, 37, 49},  {1, 600, 1, 64, 64},  // 16 panels, in blocks of 15 and 1.
        {1, 3, 2, 130, 130},                                           // 75 panels, 8 a block.
        {2, 2, 3, 129, 140},                                           // 149 panels, 4 a block.
        {19, 4, 9, 7, 8},                                              // Tiles apart, in a panel and a bit.
        {300, 2, 3, 8, 6},                                             // 75 panels of them.
    };
    for (const Convolution& shape : shapes) test_values(shape, kWinograd);
    const std::vector<Convolution> transposed{
        {1, 1, 1, 1, 1, true},    {2, 1, 7, 1, 1, true},     {1, 3, 5, 1, 9, true},   {1, 5, 3, 9, 1, true},
        {2, 7, 6, 5, 17, true},   {3, 6, 13, 4, 16, true},   {1, 17, 25, 4, 4, true}, {17, 20, 12, 4, 4, true},
        {1, 130, 7, 8, 8, true},  {1, 600, 1, 16, 64, true}, {2, 5, 130, 7, 3, true}, {1, 3, 2, 66, 70, true},
        {70, 2, 3, 8, 7, true},
    };
    for (const Convolution& shape : transposed)
        for (const Method& method : {kWinograd, kProducts}) test_values(shape, method);
    const std::vector<Convolution> bordered{
        {1, 3, 5, 2, 2}, {2, 7, 6, 5, 17}, {3, 6, 13, 4, 16}, {19, 4, 9, 7, 8}, {2, 3, 4, 37, 49}};
    for (Convolution shape : bordered) {
        shape.reflected = true;
        test_values(shape, kWinograd);
        shape.reflected = false, shape.turned = true;
        test_values(shape, kWinograd);
        test_mask(shape);
    }
    const std::vector<Convolution> turned{{1, 1, 1, 1, 1}, {2, 12, 6, 5, 17}, {1, 17, 25, 4, 4}, {1, 520, 4, 5, 18},
                                          {1, 2, 130, 7, 31}, {1, 3, 2, 66, 130}};
    for (Convolution shape : turned) {
        shape.turned = true;
        test_values(shape, kWinograd);
    }
    for (const float value : {NAN, std::numeric_limits<float>::infinity()})
        for (const bool doubled : {false, true}) test_not_finite(value, doubled);
    std::printf("%zu shapes, %d wrong\n", shapes.size() + transposed.size() + bordered.size() + turned.size(), failures);
    return failures == 0 ? 0 : 1;
}
