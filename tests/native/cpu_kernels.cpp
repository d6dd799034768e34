// SPDX-License-Identifier: Apache-2.0
// The CPU kernels on buffers of exactly their sizes, on several threads, against float64. Built with
// sanitizers.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "affine.hpp"
#include "draw.hpp"
#include "gate.hpp"
#include "gram.hpp"
#include "group_norm.hpp"
#include "layer_norm.hpp"
#include "nhwc_loops.hpp"
#include "pooling.hpp"
#include "threads.hpp"
#include "variation.hpp"

namespace {

using namespace gantk::cpu;
using std::int64_t;

int failures = 0;

void check(const char* what, const Features& shape, double found, double wanted, double scale,
           double tolerance) {
    if (std::abs(found - wanted) <= tolerance * scale + 6e-8) return;  // The smallest half.
    std::fprintf(stderr, "%s [%ld, %ld, %ld] element %d: %g, not %g\n", what, long(shape.count),
                 long(shape.channels), long(shape.places), int(shape.element), found, wanted);
    ++failures;
}

// A tensor in memory that ends where it ends, and what it holds.
struct Tensor {
    std::vector<unsigned char> bytes;
    std::vector<float> values;

    Tensor(Element element, int64_t count)
        : bytes(std::size_t(count) * std::size_t(gantk::kernels::element_bytes(element))),
          values(draw(count)) {
        narrow(element, values.data(), count, bytes.data(), 0);
        widen(element, bytes.data(), 0, count, values.data());
    }
};

std::vector<float> read(Element element, const std::vector<unsigned char>& bytes) {
    std::vector<float> values(bytes.size() / std::size_t(gantk::kernels::element_bytes(element)));
    widen(element, bytes.data(), 0, int64_t(values.size()), values.data());
    return values;
}

void test_gram(const Features& shape) {
    const auto [element, count, channels, places] = shape;
    const Tensor features(element, count * channels * places);
    std::vector<float> gram(std::size_t(count * channels * channels));
    std::vector<double> workspace(gram_workspace_bytes(shape) / sizeof(double) + 1);
    gram_matrix(shape, features.bytes.data(), 0.5, gram.data(), workspace.data(), kThreads);
    for (int64_t n = 0; n < count; ++n)
        for (int64_t i = 0; i < channels; ++i)
            for (int64_t j = 0; j < channels; ++j) {
                const float *a = &features.values[std::size_t((n * channels + i) * places)],
                            *b = &features.values[std::size_t((n * channels + j) * places)];
                double sum = 0, size = 1e-30;
                for (int64_t k = 0; k < places; ++k)
                    sum += 0.5 * a[k] * b[k], size += std::abs(0.5 * a[k] * b[k]);
                check("gram", shape, gram[std::size_t((n * channels + i) * channels + j)], sum, size, 1e-6);
            }

    const Tensor slopes(Element::float32, count * channels * channels);
    std::vector<unsigned char> made(features.bytes.size());
    workspace.assign(gram_gradient_workspace_bytes(shape) / sizeof(double) + 1, 0.0);
    gram_gradient(shape, slopes.values.data(), features.bytes.data(), 0.5, made.data(), workspace.data(),
                  kThreads);
    const std::vector<float> gradient = read(element, made);
    const double rounding = element == Element::float32 ? 1e-6 : element == Element::float16 ? 1e-3 : 1e-2;
    for (int64_t n = 0; n < count; ++n)
        for (int64_t i = 0; i < channels; ++i)
            for (int64_t k = 0; k < places; ++k) {
                double sum = 0, size = 1e-30;
                for (int64_t j = 0; j < channels; ++j) {
                    const double both =
                        0.5 * (double{slopes.values[std::size_t((n * channels + i) * channels + j)]} +
                               double{slopes.values[std::size_t((n * channels + j) * channels + i)]});
                    const double term = both * features.values[std::size_t((n * channels + j) * places + k)];
                    sum += term, size += std::abs(term);
                }
                check("gradient", shape, gradient[std::size_t((n * channels + i) * places + k)], sum, size,
                      rounding);
            }
}

void test_variation(const Pictures& shape, VariationKind kind) {
    const auto [element, count, channels, height, width] = shape;
    const Features named{element, count, channels * height, width};
    const Tensor pictures(element, count * channels * height * width);
    std::vector<float> value(static_cast<std::size_t>(count));
    std::vector<unsigned char> made(pictures.bytes.size());
    std::vector<double> workspace(variation_workspace_bytes(shape) / sizeof(double) + 1);
    total_variation(shape, pictures.bytes.data(), kind, 0.01f, value.data(), made.data(), workspace.data(),
                    kThreads);
    const std::vector<float> found = read(element, made);
    std::vector<double> gradient(found.size());
    for (int64_t n = 0; n < count; ++n) {
        double sum = 0;
        for (int64_t row = n * channels * height; row < (n + 1) * channels * height; ++row)
            for (int64_t x = 0; x < width; ++x) {
                const std::size_t at = std::size_t(row * width + x);
                const bool right = x + 1 < width, below = row % height + 1 < height;
                const double here = pictures.values[at];
                const double dx = right ? double{pictures.values[at + 1]} - here : 0;
                const double dy = below ? double{pictures.values[at + std::size_t(width)]} - here : 0;
                const double length = std::sqrt(dx * dx + dy * dy + 0.01);
                double slopes[2];
                for (int axis = 0; axis < 2; ++axis) {
                    const double d = axis == 0 ? dx : dy;
                    slopes[axis] = kind == VariationKind::l1   ? (d > 0) - (d < 0)
                                   : kind == VariationKind::l2 ? 2 * d
                                                               : d / length;
                }
                sum += kind == VariationKind::l1   ? std::abs(dx) + std::abs(dy)
                       : kind == VariationKind::l2 ? dx * dx + dy * dy
                                                   : length;
                gradient[at] -= slopes[0] + slopes[1];
                if (right) gradient[at + 1] += slopes[0];
                if (below) gradient[at + std::size_t(width)] += slopes[1];
            }
        check("variation", named, value[std::size_t(n)], sum, sum + 1e-30, 1e-6);
    }
    const double rounding = element == Element::float32 ? 1e-5 : element == Element::float16 ? 1e-3 : 1e-2;
    for (std::size_t at = 0; at < found.size(); ++at)
        check("slope", named, found[at], gradient[at], std::abs(gradient[at]) + 1, rounding);
}

// Windows of few different values, so that most have their maximum several times.
void test_pooling(const Pooling& shape) {
    const auto [element, planes, height, width] = shape;
    const int64_t down = height / 2, across = width / 2;
    Tensor features(element, planes * height * width);
    for (float& value : features.values) value = std::floor(value);
    narrow(element, features.values.data(), int64_t(features.values.size()), features.bytes.data(), 0);
    const Tensor gradient(element, planes * down * across);
    std::vector<unsigned char> pooled(gradient.bytes.size(), 0xff), made(features.bytes.size(), 0xff);
    max_pool(shape, features.bytes.data(), pooled.data(), kThreads);
    max_pool_gradient(shape, gradient.bytes.data(), features.bytes.data(), pooled.data(), made.data(), kThreads);
    const std::vector<float> maxima = read(element, pooled);
    std::vector<float> wanted(features.values.size(), 0.0f);
    for (int64_t window = 0; window < planes * down * across; ++window) {
        const int64_t x = window % across * 2, y = window / across % down * 2, plane = window / across / down;
        int64_t best = (plane * height + y) * width + x;
        for (const int64_t at : {best + 1, best + width, best + width + 1})
            if (features.values[std::size_t(at)] > features.values[std::size_t(best)]) best = at;
        check("maximum", {element, planes, height, width}, maxima[std::size_t(window)],
              features.values[std::size_t(best)], 0, 0);
        wanted[std::size_t(best)] = gradient.values[std::size_t(window)];
    }
    const std::vector<float> found = read(element, made);
    for (std::size_t at = 0; at < found.size(); ++at)
        check("gradient of pooling", {element, planes, height, width}, found[at], wanted[at], 0, 0);
}

void test_nhwc_pooling(const NhwcPooling& shape) {
    const auto [element, count, height, width, channels, ceil] = shape;
    const int64_t high = shape.result_height(), wide = shape.result_width();
    const Tensor features(element, count * height * width * channels);
    std::vector<unsigned char> pooled(std::size_t(count * high * wide * channels) *
                                          std::size_t(gantk::kernels::element_bytes(element)),
                                      0xff);
    nhwc_max_pool(shape, features.bytes.data(), pooled.data(), kThreads);
    const std::vector<float> found = read(element, pooled);
    for (int64_t at = 0; at < int64_t(found.size()); ++at) {
        const int64_t c = at % channels, x = at / channels % wide, row = at / channels / wide;
        float wanted = -INFINITY;
        for (int64_t i = 2 * (row % high); i < std::min(2 * (row % high) + 2, height); ++i)
            for (int64_t j = 2 * x; j < std::min(2 * x + 2, width); ++j) {
                const int64_t pixel = (row / high * height + i) * width + j;
                wanted = std::max(wanted, features.values[std::size_t(pixel * channels + c)]);
            }
        check("maximum", {element, height, width, channels}, found[std::size_t(at)], wanted, 0, 0);
    }
}

// Every combination of what features meet, by the loops of every processor that this one can be.
void test_affine(Affine shape, int combination) {
    const auto bit = [&](int which) { return (combination >> which & 1) != 0; };
    shape.own_factors = bit(0);
    shape.own_others = bit(1);
    shape.pixelwise = bit(2);
    shape.own_offsets = bit(6);
    shape.silu = bit(7);
    const auto [element, count, pixels, channels, own_factors, own_offsets, own_others, pixelwise, silu, clips, low,
                high] = shape;
    const bool scales = bit(3), adds = bit(4), rectifies = bit(5) && !silu;
    const int64_t width = pixelwise ? 1 : channels;
    const Tensor features(element, count * pixels * channels),
        factors(Element::float32, (own_factors ? count : 1) * channels),
        offsets(Element::float32, (own_offsets ? count : 1) * channels),
        others(element, (own_others ? count : 1) * pixels * width), slopes(Element::float32, channels);
    std::vector<unsigned char> made(features.bytes.size(), 0xff), replaced = features.bytes;
    AffineTensors tensors{features.bytes.data(), made.data()};
    if (scales) tensors.factors = factors.values.data(), tensors.offsets = offsets.values.data();
    if (adds) tensors.others = others.bytes.data();
    if (rectifies) tensors.slopes = slopes.values.data();
    affine(shape, tensors, kThreads);
    tensors.features = tensors.result = replaced.data();
    affine(shape, tensors, kThreads);
    const Features named{element, count, pixels, channels};
    check("affine in place", named, std::memcmp(made.data(), replaced.data(), made.size()), 0, 0, 0);

    const std::vector<float> found = read(element, made);
    const double rounding = element == Element::float32 ? 0 : element == Element::float16 ? 0x1p-11 : 0x1p-8;
    for (int64_t at = 0; at < int64_t(found.size()); ++at) {
        const int64_t c = at % channels, pixel = at / channels, picture = pixel / pixels;
        const std::size_t shared = std::size_t(c), own = std::size_t(picture * channels + c);
        const int64_t other = (own_others ? pixel : pixel % pixels) * width + (pixelwise ? 0 : c);
        const double factor = scales ? factors.values[own_factors ? own : shared] : 1;
        const double terms[] = {features.values[std::size_t(at)] * factor,
                                scales ? offsets.values[own_offsets ? own : shared] : 0,
                                adds ? others.values[std::size_t(other)] : 0};
        double wanted = terms[0] + terms[1] + terms[2];
        if (rectifies && wanted < 0) wanted *= slopes.values[std::size_t(c)];
        if (silu) wanted /= 1 + std::exp(-wanted);
        const double size = std::abs(terms[0]) + std::abs(terms[1]) + std::abs(terms[2]);
        check("affine", named, found[std::size_t(at)], wanted, 1, 3e-7 * size + rounding * std::abs(wanted));
    }
}

// Between bounds that are of the element's type or not, of which one may be missing or the lower one above the other.
void test_clip(const Affine& shape, float low, float high) {
    Affine what = shape;
    what.clips = true;
    what.low = low;
    what.high = high;
    Tensor features(shape.element, shape.count * shape.pixels * shape.channels);
    const float special[]{NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f};
    const int64_t count = int64_t(features.values.size()), given = std::min<int64_t>(count, 6);
    narrow(shape.element, special, given, features.bytes.data(), count - given);
    std::copy_n(special, given, features.values.end() - given);
    std::vector<unsigned char> made(features.bytes.size(), 0xff);
    affine(what, {features.bytes.data(), made.data()}, kThreads);
    std::vector<float> wanted = features.values;
    for (float& value : wanted) {
        if (value < low) value = low;
        if (value > high) value = high;
    }
    std::vector<unsigned char> rounded(made.size());
    narrow(shape.element, wanted.data(), count, rounded.data(), 0);
    wanted = read(shape.element, rounded);
    const Features named{shape.element, shape.count, shape.pixels, shape.channels};
    const std::vector<float> found = read(shape.element, made);
    for (std::size_t at = 0; at < found.size(); ++at) {
        const bool alike = std::isnan(wanted[at]) ? std::isnan(found[at])
                                                  : found[at] == wanted[at] &&
                                                        std::signbit(found[at]) == std::signbit(wanted[at]);
        check("a clipped value", named, alike, 1, 0, 0);
    }
    affine(what, {features.bytes.data(), features.bytes.data()}, kThreads);
    check("clipped in place", named, std::memcmp(made.data(), features.bytes.data(), made.size()), 0, 0, 0);
}

template <typename Function>
void on_every_processor(const Function& function) {
    for (const nhwc::Processor* processor : nhwc::processors()) {
        nhwc::choose(*processor);
        function();
    }
    nhwc::choose(*nhwc::processors().front());
}

void test_affine(const Affine& shape) {
    on_every_processor([&] {
        for (int combination = 0; combination < 256; ++combination) test_affine(shape, combination);
        constexpr float kBounds[][2]{{-0.3f, 0.7f}, {-INFINITY, 0.1f}, {0.0f, INFINITY}, {0.5f, -0.5f}, {NAN, 0.1f}};
        for (const auto& [low, high] : kBounds) test_clip(shape, low, high);
    });
}

// NaN stays, and so do infinities and the sign of zero, where nothing is scaled.
void test_rectified_specials(Element element) {
    const float values[]{NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1, -1}, slopes[8]{-2, -2, -2, -2, -2, -2, -2, -2};
    std::vector<unsigned char> features(8 * std::size_t(gantk::kernels::element_bytes(element)));
    narrow(element, values, 8, features.data(), 0);
    AffineTensors tensors{features.data(), features.data()};
    tensors.slopes = slopes;
    affine({element, 1, 1, 8}, tensors, kThreads);
    const std::vector<float> found = read(element, features);
    for (std::size_t i = 0; i < 8; ++i) {
        const float wanted = values[i] < 0 ? -2 * values[i] : values[i];
        const bool alike = std::isnan(wanted) ? std::isnan(found[i])
                                              : found[i] == wanted && std::signbit(found[i]) == std::signbit(wanted);
        check("a special value", {element, 1, 1, 8}, alike, 1, 0, 0);
    }
}

// From results that are all but 0 to the largest, and what is not finite.
void test_silu(Element element) {
    std::vector<float> values{NAN, INFINITY, -INFINITY, 0.0f, -0.0f};
    const float largest = element == Element::float16 ? 6e4f : 3e38f;
    for (float size = 0x1p-14f; size < largest; size *= 1.01f)
        for (const float value : {size, -size}) values.push_back(value);
    const auto count = int64_t(values.size());
    std::vector<unsigned char> features(values.size() * std::size_t(gantk::kernels::element_bytes(element)));
    narrow(element, values.data(), count, features.data(), 0);
    widen(element, features.data(), 0, count, values.data());
    Affine shape{element, 1, count, 1};
    shape.silu = true;
    affine(shape, {features.data(), features.data()}, kThreads);
    const std::vector<float> found = read(element, features);
    const double rounding = element == Element::float32 ? 6e-7 : element == Element::float16 ? 0x1.01p-11 : 0x1.01p-8;
    const Features named{element, 1, count, 1};
    for (std::size_t i = 3; i < values.size(); ++i) {
        const double wanted = values[i] / (1 + std::exp(-double{values[i]}));
        const double most = rounding * std::abs(wanted) + (element == Element::float16 ? 0x1p-25 : 3e-37);
        check("SiLU", named, std::abs(found[i] - wanted) <= most, 1, 0, 0);
        check("the sign of SiLU", named, std::signbit(found[i]), std::signbit(values[i]), 0, 0);
    }
    check("SiLU of NaN", named, std::isnan(found[0]) && std::isnan(found[2]), 1, 0, 0);
    check("SiLU of infinity", named, std::isinf(found[1]) && found[1] > 0, 1, 0, 0);
}

void test_group_norm(const GroupNorm& shape) {
    const auto [element, count, pixels, channels, groups, epsilon, silu] = shape;
    Tensor features(element, count * pixels * channels);
    for (float& value : features.values) value = 3 * value - 7;
    narrow(element, features.values.data(), int64_t(features.values.size()), features.bytes.data(), 0);
    widen(element, features.bytes.data(), 0, int64_t(features.values.size()), features.values.data());
    const Tensor scale(Element::float32, channels), offset(Element::float32, channels);
    std::vector<unsigned char> made(features.bytes.size(), 0xff), replaced = features.bytes;
    group_norm(shape, {features.bytes.data(), made.data(), scale.values.data(), offset.values.data()}, kThreads);
    group_norm(shape, {replaced.data(), replaced.data(), scale.values.data(), offset.values.data()}, kThreads);
    const Features named{element, count, channels, pixels};
    check("group norm in place", named, std::memcmp(made.data(), replaced.data(), made.size()), 0, 0, 0);
    const std::vector<float> found = read(element, made);
    const double rounding = element == Element::float32 ? 0 : element == Element::float16 ? 0x1p-10 : 0x1p-7;
    const int64_t each = channels / groups;
    for (int64_t picture = 0; picture < count; ++picture)
        for (int64_t group = 0; group < groups; ++group) {
            const auto at = [&, first = picture * pixels * channels + group * each, row = channels](int64_t i) {
                return std::size_t(first + i / each * row + i % each);
            };
            double mean = 0, squares = 0;
            for (int64_t i = 0; i < pixels * each; ++i) mean += features.values[at(i)] / double(pixels * each);
            for (int64_t i = 0; i < pixels * each; ++i) squares += std::pow(features.values[at(i)] - mean, 2);
            const double deviation = std::sqrt(squares / double(pixels * each) + double{epsilon});
            for (int64_t i = 0; i < pixels * each; ++i) {
                const auto c = std::size_t(group * each + i % each);
                double wanted = (features.values[at(i)] - mean) / deviation * scale.values[c] + offset.values[c];
                if (silu) wanted /= 1 + std::exp(-wanted);
                const double shift = 1e-7 * std::abs(mean / deviation * scale.values[c]);  // A mean is rounded.
                check("group norm", named, found[at(i)], wanted, 1, 5e-6 + shift + rounding * std::abs(wanted));
            }
        }
}

void test_group_norm(Element element, int64_t pixels, int64_t channels, int64_t groups) {
    on_every_processor([&] {
        for (const bool silu : {false, true}) test_group_norm({element, 2, pixels, channels, groups, 1e-5f, silu});
    });
}

// By the loops of every processor that this one can be; the mean is a hundred times the deviation.
void test_layer_norm(const LayerNorm& shape) {
    const auto [element, pixels, channels, epsilon, centred] = shape;
    Tensor features(element, pixels * channels);
    for (float& value : features.values) value = 100 + value;
    narrow(element, features.values.data(), pixels * channels, features.bytes.data(), 0);
    widen(element, features.bytes.data(), 0, pixels * channels, features.values.data());
    const Tensor scale(Element::float32, channels), offset(Element::float32, channels);
    const Features named{element, 1, channels, pixels};
    const double rounding = element == Element::float32 ? 0 : element == Element::float16 ? 0x1p-11 : 0x1p-8;
    for (const nhwc::Processor* processor : nhwc::processors()) {
        nhwc::choose(*processor);
        std::vector<unsigned char> made(features.bytes.size(), 0xff), replaced = features.bytes;
        layer_norm(shape, features.bytes.data(), scale.values.data(), offset.values.data(), made.data(), kThreads);
        layer_norm(shape, replaced.data(), scale.values.data(), offset.values.data(), replaced.data(), kThreads);
        check("layer normalisation in place", named, std::memcmp(made.data(), replaced.data(), made.size()), 0, 0, 0);
        const std::vector<float> found = read(element, made);
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
            const float* const given = features.values.data() + pixel * channels;
            double mean = 0, squares = 0;
            for (int64_t c = 0; c < channels && centred; ++c) mean += given[c] / double(channels);
            for (int64_t c = 0; c < channels; ++c) squares += (given[c] - mean) * (given[c] - mean);
            const double deviation = std::sqrt(squares / double(channels) + double{epsilon});
            for (int64_t c = 0; c < channels; ++c) {
                const double scaled = (given[c] - mean) / deviation * scale.values[std::size_t(c)];
                const double wanted = scaled + offset.values[std::size_t(c)];
                const double lost = std::abs(scaled) + std::abs(offset.values[std::size_t(c)]) +
                                    mean / deviation * std::abs(scale.values[std::size_t(c)]);
                check("layer normalisation", named, found[std::size_t(pixel * channels + c)], wanted, 1,
                      4e-7 * lost + rounding * std::abs(wanted));
            }
        }
    }
    nhwc::choose(*nhwc::processors().front());
}

void test_gate(const Gate& shape) {
    const auto [element, pixels, channels, sigmoid] = shape;
    const Tensor features(element, 2 * pixels * channels);
    const double own = element == Element::float32 ? 6e-8 : element == Element::float16 ? 0x1p-11 : 0x1p-8;
    const double rounding = own + (sigmoid ? 5e-7 : 0);
    for (const nhwc::Processor* processor : nhwc::processors()) {
        nhwc::choose(*processor);
        std::vector<unsigned char> made(features.bytes.size() / 2, 0xff);
        gate(shape, features.bytes.data(), made.data(), kThreads);
        const std::vector<float> found = read(element, made);
        for (int64_t at = 0; at < pixels * channels; ++at) {
            const float* const first = features.values.data() + at + at / channels * channels;
            const double by = sigmoid ? 1 / (1 + std::exp(-double{first[channels]})) : double{first[channels]};
            const double wanted = first[0] * by;
            check("gate", {element, 1, channels, pixels}, found[std::size_t(at)], wanted, std::abs(wanted), rounding);
        }
    }
    nhwc::choose(*nhwc::processors().front());
}

// Sigmoids from all but 0 to all but 1, times what is small and what is large; then what is not finite.
void test_sigmoid(Element element) {
    const float largest = element == Element::float16 ? 6e4f : 3e38f;
    std::vector<float> first, second;
    for (const float factor : {1.0f, -3.0f, 0x1p-10f, -6e4f, 0.0f, -0.0f})
        for (float size = 0x1p-14f; size < largest; size *= 1.01f)
            for (const float value : {size, -size, 0.0f}) first.push_back(factor), second.push_back(value);
    const std::size_t finite = first.size();
    float told;  // Of its bits some are the fraction's lowest.
    const std::uint32_t bits = 0x7fc00001;
    std::memcpy(&told, &bits, sizeof told);
    const float specials[][3]{{NAN, 1, NAN},           {1, NAN, NAN},
                              {-2, -NAN, NAN},         {3, told, NAN},
                              {told, 3, NAN},          {2, INFINITY, 2},
                              {-2, INFINITY, -2},      {2, -INFINITY, 0},
                              {-2, -INFINITY, -0.0f},  {INFINITY, -4, INFINITY},
                              {-INFINITY, 4, -INFINITY}, {INFINITY, -INFINITY, NAN}};
    for (const auto& [a, b, wanted] : specials) first.push_back(a), second.push_back(b);
    const auto count = int64_t(first.size());
    std::vector<float> values = first;
    values.insert(values.end(), second.begin(), second.end());
    std::vector<unsigned char> features(values.size() * std::size_t(gantk::kernels::element_bytes(element)));
    narrow(element, values.data(), 2 * count, features.data(), 0);
    widen(element, features.data(), 0, 2 * count, values.data());
    std::vector<unsigned char> made(features.size() / 2);
    gate({element, 1, count, true}, features.data(), made.data(), kThreads);
    const std::vector<float> found = read(element, made);
    const double rounding = element == Element::float32 ? 6e-7 : element == Element::float16 ? 0x1.01p-11 : 0x1.01p-8;
    const Features named{element, 1, count, 1};
    for (std::size_t i = 0; i < first.size(); ++i) {
        if (i < finite) {
            const double a = values[i], wanted = a / (1 + std::exp(-double{values[std::size_t(count) + i]}));
            // A sigmoid below 3e-39 is 0.
            const double least = element == Element::float16 ? 0x1p-25 : 0x1p-126 + 3e-39 * std::abs(a);
            check("a sigmoid", named, std::abs(found[i] - wanted) <= rounding * std::abs(wanted) + least, 1, 0, 0);
            check("its sign", named, std::signbit(found[i]), std::signbit(a), 0, 0);
        } else {
            const float wanted = specials[i - finite][2];
            const bool alike = std::isnan(wanted) ? std::isnan(found[i])
                                                  : found[i] == wanted && std::signbit(found[i]) == std::signbit(wanted);
            check("a special sigmoid", named, alike, 1, 0, 0);
        }
    }
}

}  // namespace

int main() {
    int shapes = 0;
    for (const Element element : {Element::float32, Element::float16, Element::bfloat16}) {
        for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{
                 {2, 2}, {3, 3}, {2, 17}, {17, 2}, {64, 31}, {67, 34}, {4, 511}, {3, 512}, {5, 1027}}) {
            test_pooling({element, 3, height, width});
            ++shapes;
        }
        for (const int64_t channels : {1, 3, 6, 7, 12, 25})
            for (const int64_t places : {1, 9, 63, 64, 65, 511, 512, 513, 1030}) {
                test_gram({element, 2, channels, places});
                ++shapes;
            }
        test_gram({element, 1, 130, 20});
        for (const auto& [height, width, channels] : std::vector<std::array<int64_t, 3>>{
                 {2, 2, 1}, {3, 3, 5}, {5, 41, 64}, {6, 7, 3000}, {2, 1500, 3}, {1, 1, 4}})
            for (const bool ceil : {false, true}) {
                if (!ceil && height < 2) continue;
                test_nhwc_pooling({element, 2, height, width, channels, ceil});
                ++shapes;
            }
        for (const auto& [count, pixels, channels] : std::vector<std::array<int64_t, 3>>{
                 {1, 1, 1}, {3, 1, 5}, {2, 5, 3}, {2, 40, 64}, {3, 70, 17}, {2, 3, 1500}}) {
            test_affine({element, count, pixels, channels});
            ++shapes;
        }
        for (const int64_t channels : {1, 3, 8, 13, 15, 16, 17, 24, 32, 33, 48, 57, 64, 65, 100, 512, 1500})
            for (const int64_t pixels : {1, 2, 4, 7, 23}) {
                for (const bool centred : {true, false})
                    test_layer_norm({element, pixels, channels, 1e-5f, centred});
                for (const bool sigmoid : {false, true}) test_gate({element, pixels, channels, sigmoid});
                ++shapes;
            }
        test_layer_norm({element, 30000, 3});  // More than a task.
        test_layer_norm({element, 3000, 40});
        for (const bool sigmoid : {false, true}) test_gate({element, 30000, 3, sigmoid});
        test_affine({element, 2, 30000, 3}, 0b1111111);  // More than a task.
        test_affine({element, 2, 30000, 3}, 0b0111000);
        test_clip({element, 2, 30000, 3}, -0.3f, 0.7f);
        on_every_processor([&] {
            test_silu(element);
            test_sigmoid(element);
        });
        for (const auto& [pixels, channels, groups] : std::vector<std::array<int64_t, 3>>{{1, 1, 1},
                                                                                          {1, 12, 4},
                                                                                          {5, 6, 3},
                                                                                          {37, 64, 32},
                                                                                          {70, 17, 1},
                                                                                          {3, 5000, 2},
                                                                                          {2700, 25, 5},
                                                                                          {1030, 192, 32}}) {
            test_group_norm(element, pixels, channels, groups);
            ++shapes;
        }
        test_rectified_specials(element);
        for (const VariationKind kind : {VariationKind::l1, VariationKind::l2, VariationKind::isotropic})
            for (const auto& [height, width] : std::vector<std::pair<int64_t, int64_t>>{{1, 1},
                                                                                        {1, 9},
                                                                                        {9, 1},
                                                                                        {63, 5},
                                                                                        {64, 5},
                                                                                        {65, 5},
                                                                                        {130, 7},
                                                                                        {3, 1023},
                                                                                        {3, 1024},
                                                                                        {3, 1025},
                                                                                        {2, 2100}}) {
                test_variation({element, 2, 3, height, width}, kind);
                ++shapes;
            }
    }
    std::printf("%d shapes, %d wrong values\n", shapes, failures);
    return failures == 0 ? 0 : 1;
}
