// SPDX-License-Identifier: Apache-2.0
// Convolutions with channels last on buffers of exactly their sizes, on several threads, against float64, with the
// loops of every processor that this one can be. Built with sanitizers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "draw.hpp"
#include "element.hpp"
#include "nhwc_loops.hpp"
#include "rounded.hpp"
#include "threads.hpp"
#include "watched.hpp"

namespace {

using namespace gantk::cpu;
using nhwc::Bfloat;
using nhwc::Convolution;
using std::int64_t;

int failures = 0;

void check(bool holds, const char* what, const Convolution& s, double found) {
    if (holds) return;
    std::fprintf(stderr, "%s: [%ld, %ld, %ld, %ld] to %ld channels, %ld x %ld, stride %ld, dilation %ld, "
                 "pads %ld and %ld: %g\n",
                 what, long(s.count), long(s.height), long(s.width), long(s.inputs), long(s.outputs),
                 long(s.kernel_height), long(s.kernel_width), long(s.stride), long(s.dilation), long(s.before),
                 long(s.after), found);
    ++failures;
}

template <typename T>
const T kNaN = rounded<T>({NAN})[0];

// NaN too.
template <typename T>
bool are_equal(const std::vector<T>& a, const std::vector<T>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// One of the ways to convolve, and how far it may be from float64: its largest and its root mean square error, of the
// results' root mean square. A bfloat16 result's own rounding is up to 2^-9 of it, and 2^-9 / sqrt(3) on average.
template <typename T>
struct Way {
    const char* name;
    std::size_t (*bytes)(const Convolution&);
    void (*pack)(const Convolution&, const T*, T*, const Parallel&);
    void (*convolve)(const Convolution&, const nhwc::Tensors<T>&, const Memory&, const Parallel&);
    double largest, mean;
};
template <typename T>
constexpr bool kWide = sizeof(T) == sizeof(float);
template <typename T>
constexpr Way<T> kDirect{"direct",
                         nhwc::direct_weights_bytes<T>,
                         nhwc::direct_weights<T>,
                         nhwc::direct_convolution<T>,
                         kWide<T> ? 1e-5 : 0.02,
                         kWide<T> ? 1.5e-6 : 2.9e-3};
template <typename T>
constexpr Way<T> kWinograd{"Winograd",
                           nhwc::winograd_weights_bytes<T>,
                           nhwc::winograd_weights<T>,
                           nhwc::winograd_convolution<T>,
                           kWide<T> ? 2.5e-5 : 0.13,
                           kWide<T> ? 3e-6 : 2.5e-2};

struct End {
    bool relu, slopes, others;
};
constexpr End kPlain{false, false, false}, kRelu{true, false, false}, kSlopes{false, true, false};
constexpr End kEnds[]{kPlain, kRelu, kSlopes, {false, false, true}, {false, true, true}};

template <typename T>
struct Case {
    Convolution shape;
    Way<T> way;
    std::vector<T> features, weights, bias, slopes, others, packed;

    Case(const Convolution& given, const Way<T>& by)
        : shape(given),
          way(by),
          features(rounded<T>(draw(shape.count * shape.height * shape.width * shape.inputs))),
          weights(rounded<T>(draw(shape.outputs * shape.inputs * shape.kernel_height * shape.kernel_width,
                               std::sqrt(2.0 / double(shape.inputs * taps()))))),
          bias(rounded<T>(draw(shape.outputs, 0.3))),
          slopes(rounded<T>(draw(shape.outputs, 0.3))),
          others(rounded<T>(draw(int64_t(size())))) {
        pack(by);
    }

    void pack(const Way<T>& by) {
        way = by;
        packed.assign(way.bytes(kernel()) / sizeof(T), kNaN<T>);
        way.pack(kernel(), weights.data(), packed.data(), kThreads);
    }

    // What is packed may not depend on the features.
    Convolution kernel() const {
        Convolution made = shape;
        made.count = made.height = made.width = 1;
        return made;
    }
    int64_t taps() const { return shape.transposed ? 4 : shape.kernel_height * shape.kernel_width; }
    std::size_t size() const {
        return std::size_t(shape.count * shape.result_height() * shape.result_width() * shape.outputs);
    }

    std::vector<T> run(bool biased, const End& end, const Parallel& parallel, const Memory& memory = kMemory) const {
        std::vector<T> result(size(), kNaN<T>);
        way.convolve(shape,
                     {features.data(), packed.data(), result.data(), biased ? bias.data() : nullptr, end.relu,
                      end.slopes ? slopes.data() : nullptr, end.others ? others.data() : nullptr},
                     memory, parallel);
        return result;
    }

    // What becomes of the sum for the result of this number.
    double ended(double sum, std::size_t i, const End& end) const {
        if (end.relu) sum = std::max(sum, 0.0);
        if (end.slopes && sum < 0) sum *= value_of(slopes[i % std::size_t(shape.outputs)]);
        return end.others ? sum + value_of(others[i]) : sum;
    }

    std::vector<double> reference() const {
        std::vector<double> result;
        for (int64_t n = 0; n < shape.count; ++n)
            for (int64_t y = 0; y < shape.result_height(); ++y)
                for (int64_t x = 0; x < shape.result_width(); ++x)
                    for (int64_t k = 0; k < shape.outputs; ++k) result.push_back(at(n, k, y, x));
        return result;
    }

    // The feature, a row or a column, that a tap of a result meets, or -1.
    int64_t met(int64_t result, int64_t tap, int64_t features_here) const {
        const int64_t at = result * shape.stride + tap * shape.dilation - shape.before;
        if (!shape.transposed) return at < 0 || at >= features_here ? -1 : at;
        const int64_t twice = result + shape.before - tap;
        return twice < 0 || twice % 2 != 0 || twice / 2 >= features_here ? -1 : twice / 2;
    }

    double at(int64_t n, int64_t k, int64_t y, int64_t x) const {
        double sum = 0;
        for (int64_t i = 0; i < shape.kernel_height; ++i)
            for (int64_t j = 0; j < shape.kernel_width; ++j) {
                const int64_t row = met(y, i, shape.height), column = met(x, j, shape.width);
                if (row < 0 || column < 0) continue;
                for (int64_t c = 0; c < shape.inputs; ++c) {
                    const int64_t from = ((n * shape.height + row) * shape.width + column) * shape.inputs + c;
                    const int64_t pair = shape.transposed ? c * shape.outputs + k : k * shape.inputs + c;
                    const int64_t tap = (pair * shape.kernel_height + i) * shape.kernel_width + j;
                    sum += value_of(features[std::size_t(from)]) * value_of(weights[std::size_t(tap)]);
                }
            }
        return sum;
    }
};

template <typename T>
void test_values(const Case<T>& given, const std::vector<double>& products) {
    const Convolution& shape = given.shape;
    for (const bool biased : {false, true})
        for (const End& end : kEnds) {
            const std::vector<T> found = given.run(biased, end, kThreads);
            double size = 0, worst = 0, squares = 0;
            for (std::size_t i = 0; i < found.size(); ++i) {
                const double sum = products[i] + (biased ? value_of(given.bias[i % std::size_t(shape.outputs)]) : 0);
                const double wanted = given.ended(sum, i, end), off = std::abs(value_of(found[i]) - wanted);
                worst = std::isfinite(off) ? std::max(worst, off) : HUGE_VAL;
                const double rounded = std::max(std::abs(sum), std::abs(wanted));
                size += rounded * rounded, squares += off * off;
            }
            const double rms = std::sqrt(size / double(found.size())) + 1e-2;  // Of a single result next to 0.
            check(worst <= given.way.largest * rms, given.way.name, shape, worst / rms);
            const double mean = std::sqrt(squares / double(found.size()));
            check(mean <= given.way.mean * rms || found.size() < 64, given.way.name, shape, mean / rms);
            if (!biased || &end != kEnds) continue;  // Neither decides in which order sums are taken.
            check(are_equal(given.run(biased, end, kBackwards), found), "bits differ with one thread", shape, 0);
        }
    check(taken == 0, "memory is kept", shape, taken);
}

// By each way that there is, on each processor that this one can be.
template <typename T>
void test_shape(const Convolution& shape) {
    Case<T> given(shape, kDirect<T>);
    const std::vector<double> products = given.reference();
    for (const Way<T>& way : {kDirect<T>, kWinograd<T>}) {
        if (way.name == kWinograd<T>.name && !nhwc::has_winograd(shape)) continue;
        given.pack(way);
        for (const nhwc::Processor* each : nhwc::processors()) {
            nhwc::choose(*each);
            test_values(given, products);
        }
    }
}

template <typename T>
void test_no_memory(const Convolution& shape, const Way<T>& way) {
    const Case<T> given(shape, way);
    bool thrown = false;
    try {
        given.run(true, kRelu, kThreads, kNone);
    } catch (const std::bad_alloc&) {
        thrown = true;
    }
    check(thrown, "no memory is no error", shape, 0);
}

// NaN stays NaN through the ReLU and through slopes, and spoils no result that is further from it than `reach` pixels.
template <typename T>
void test_not_finite(const Convolution& shape, const Way<T>& way, const End& end, int64_t reach) {
    Case<T> given(shape, way);
    const std::vector<T> before = given.run(true, end, kThreads);
    const int64_t y = shape.height / 2, x = shape.width / 2, scale = shape.transposed ? 2 : 1;
    given.features[std::size_t((y * shape.width + x) * shape.inputs + shape.inputs / 2)] = kNaN<T>;
    const std::vector<T> after = given.run(true, end, kThreads);
    const int64_t wide = shape.result_width(), off = shape.transposed ? 0 : shape.reach_of(shape.kernel_width) / 2;
    bool any = false;
    for (int64_t i = 0; i < int64_t(after.size()); ++i) {
        const int64_t row = i / shape.outputs / wide / scale, column = i / shape.outputs % wide / scale;
        const bool near = std::abs(row + off - y) <= reach && std::abs(column + off - x) <= reach;
        const double found = value_of(after[std::size_t(i)]);
        any = any || std::isnan(found);
        if (!near) check(after[std::size_t(i)] == before[std::size_t(i)], "a distant result changed", shape, found);
    }
    check(any, "NaN is lost", shape, 0);
}

// Weights are rounded so that their errors cancel: by rounding each to its nearest the error would be 1.1 to
// 1.2 times as large.
void test_rounding(const Convolution& shape, double most) {
    const Case<Bfloat> given(shape, kWinograd<Bfloat>);
    const std::vector<double> products = given.reference();
    const std::vector<Bfloat> found = given.run(false, kPlain, kThreads);
    double size = 0, squares = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double off = value_of(found[i]) - products[i];
        size += products[i] * products[i], squares += off * off;
    }
    check(std::sqrt(squares / size) < most, "rounding of weights", shape, std::sqrt(squares / size));
}

Convolution plain(int64_t count, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t kernel_height,
                  int64_t kernel_width, int64_t stride = 1) {
    return {count, height, width, inputs, outputs, kernel_height, kernel_width, stride};
}

Convolution padded(Convolution shape, int64_t before, int64_t after) {
    shape.before = before;
    shape.after = after;
    return shape;
}
Convolution dilated(Convolution shape, int64_t dilation, int64_t padding = 0) {
    shape.dilation = dilation;
    shape.before = shape.after = padding;
    return shape;
}
Convolution padded(const Convolution& shape, int64_t padding) { return padded(shape, padding, padding); }

Convolution transposed(int64_t count, int64_t height, int64_t width, int64_t inputs, int64_t outputs, int64_t before,
                       int64_t after) {
    return padded({count, height, width, inputs, outputs, 4, 4, 2, true}, before, after);
}
Convolution transposed(int64_t count, int64_t height, int64_t width, int64_t inputs, int64_t outputs,
                       int64_t padding) {
    return transposed(count, height, width, inputs, outputs, padding, padding);
}

template <typename T>
int test_all() {
    const std::vector<Convolution> shapes{
        plain(1, 1, 1, 1, 1, 1, 1),      plain(3, 1, 1, 100, 70, 1, 1),   plain(1, 3, 3, 5, 3, 3, 3),
        plain(2, 11, 13, 3, 32, 9, 9),   plain(1, 17, 15, 32, 3, 9, 9),   plain(1, 9, 10, 3, 1, 5, 2),
        plain(1, 12, 11, 16, 64, 3, 3, 2), plain(2, 5, 6, 16, 20, 3, 3, 2), plain(1, 9, 23, 4, 5, 3, 3, 2),
        plain(1, 7, 40, 2, 7, 1, 3, 3),  plain(1, 6, 7, 3, 130, 3, 3),    plain(2, 20, 21, 32, 48, 3, 3),
        plain(1, 3, 3, 16, 16, 3, 3),    plain(3, 8, 6, 48, 80, 3, 3),    plain(1, 40, 35, 16, 32, 3, 3),
        plain(1, 40, 140, 5, 4, 3, 5),   plain(2, 35, 20, 6, 6, 3, 3),   plain(1, 9, 30, 2, 8, 1, 1),
        padded(plain(1, 1, 1, 16, 16, 3, 3), 1),    padded(plain(2, 13, 9, 32, 48, 3, 3), 1),
        padded(plain(1, 6, 40, 16, 16, 3, 3), 2),   padded(plain(1, 11, 13, 3, 32, 9, 9), 4),
        padded(plain(2, 12, 11, 5, 20, 4, 4, 2), 1), padded(plain(1, 17, 15, 32, 3, 9, 9), 4),
        padded(plain(2, 35, 20, 7, 6, 3, 3), 1),    padded(plain(1, 3, 140, 2, 1, 3, 5), 7),
        padded(plain(2, 13, 9, 32, 48, 3, 3), 2, 0), padded(plain(2, 12, 11, 5, 20, 4, 4, 2), 0, 3),
        padded(plain(2, 35, 20, 7, 6, 3, 3), 0, 1),
    };
    const std::vector<Convolution> apart{
        dilated(plain(1, 5, 5, 16, 16, 3, 3), 2),        dilated(plain(2, 13, 9, 32, 48, 3, 3), 2, 2),
        dilated(plain(1, 20, 23, 16, 80, 3, 3), 3, 3),   dilated(plain(1, 17, 40, 16, 16, 3, 3), 4, 4),
        dilated(plain(1, 9, 7, 16, 32, 3, 3), 8, 8),     dilated(plain(2, 35, 20, 6, 6, 3, 3), 2, 2),
        dilated(plain(1, 9, 33, 3, 130, 3, 3), 4, 4),    dilated(plain(1, 12, 11, 5, 20, 4, 2), 3, 1),
        dilated(plain(2, 15, 12, 7, 20, 3, 3, 2), 2, 2), dilated(plain(1, 3, 3, 16, 16, 1, 1), 5),
        dilated(plain(1, 9, 23, 4, 5, 1, 3, 3), 2, 1),   dilated(plain(1, 1, 1, 16, 16, 3, 3), 16, 16),
    };
    const std::vector<Convolution> doubled{
        transposed(1, 1, 1, 1, 1, 1),    transposed(1, 3, 3, 1, 1, 3),   transposed(2, 7, 9, 48, 3, 1),
        transposed(2, 5, 4, 7, 5, 1),    transposed(1, 3, 4, 4, 2, 3),   transposed(1, 4, 5, 6, 9, 1),
        transposed(2, 7, 7, 32, 32, 1),  transposed(2, 7, 9, 32, 32, 3), transposed(1, 1, 1, 16, 16, 1),
        transposed(17, 4, 4, 48, 80, 1), transposed(1, 21, 18, 16, 16, 3), transposed(1, 2, 9, 20, 70, 1),
        transposed(1, 40, 70, 3, 8, 1),  transposed(2, 6, 140, 2, 4, 3),
        // One row and column more: of a tile, of a task, of a vector or of a band of its own too.
        transposed(1, 1, 1, 1, 1, 1, 0),   transposed(2, 7, 9, 48, 3, 1, 0),  transposed(2, 5, 4, 7, 5, 1, 0),
        transposed(1, 4, 5, 6, 9, 1, 0),   transposed(2, 7, 7, 32, 32, 1, 0), transposed(1, 1, 1, 16, 16, 1, 0),
        transposed(3, 8, 12, 16, 80, 1, 0), transposed(17, 4, 4, 48, 80, 1, 0), transposed(1, 2, 9, 20, 70, 1, 0),
        transposed(2, 31, 127, 2, 8, 1, 0), transposed(1, 32, 128, 3, 2, 1, 0), transposed(1, 3, 63, 1, 20, 1, 0),
    };
    for (const auto* list : {&shapes, &apart, &doubled})
        for (const Convolution& shape : *list) test_shape<T>(shape);
    test_no_memory(transposed(1, 4, 4, 16, 16, 1), kDirect<T>);
    if (!kWide<T>) test_no_memory(plain(1, 8, 8, 3, 16, 3, 3), kDirect<T>);  // An odd number of channels is copied.
    test_no_memory(plain(1, 8, 8, 16, 16, 3, 3), kWinograd<T>);
    for (const End& end : {kRelu, kSlopes}) {
        test_not_finite(plain(1, 21, 45, 16, 16, 3, 3), kDirect<T>, end, 1);
        test_not_finite(transposed(1, 21, 25, 16, 16, 1), kDirect<T>, end, 1);
        test_not_finite(transposed(1, 21, 25, 16, 16, 1, 0), kDirect<T>, end, 1);
        test_not_finite(plain(1, 21, 45, 3, 3, 3, 3), kDirect<T>, end, 1);
        test_not_finite(plain(1, 21, 45, 3, 16, 3, 3), kDirect<T>, end, kWide<T> ? 1 : 2);
        test_not_finite(dilated(plain(1, 21, 45, 16, 16, 3, 3), 3), kDirect<T>, end, 3);
        test_not_finite(plain(1, 21, 45, 16, 16, 3, 3), kWinograd<T>, end, 5);
        test_not_finite(dilated(plain(1, 21, 45, 16, 16, 3, 3), 2), kWinograd<T>, end, 10);
        test_not_finite(transposed(1, 21, 25, 16, 16, 1), kWinograd<T>, end, 5);
    }
    return int(shapes.size() + apart.size() + doubled.size());
}

}  // namespace

int main() {
    const int run = test_all<float>() + test_all<Bfloat>();
    for (const nhwc::Processor* each : nhwc::processors()) {
        nhwc::choose(*each);
        test_rounding(plain(1, 26, 26, 32, 32, 3, 3), 1.1e-2);
        test_rounding(transposed(1, 14, 14, 32, 32, 3), 1e-2);
    }
    std::printf("%d shapes on %zu kinds of processors, %d wrong\n", run, nhwc::processors().size(), failures);
    return failures == 0 ? 0 : 1;
}
