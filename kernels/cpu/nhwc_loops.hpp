// SPDX-License-Identifier: Apache-2.0
// The inner loops of what has its channels last, compiled for several processors.
//
// A vector is 16 floats, or 16 channels of one pixel. A *word* is 32 bits: a float, or two bfloat16 that lie next to
// each other, which one instruction multiplies with two others and adds up. Weights of up to kMostVectors vectors of
// outputs lie as [words][vectors][16] words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "element.hpp"
#include "nhwc.hpp"

namespace gantk::cpu::nhwc {

constexpr std::int64_t kVector = 16, kMostVectors = 4;
constexpr std::int64_t kMostNarrow = 8, kMostBand = 8;  // Outputs, and rows of results at a time, of convolve_narrow.
constexpr std::int64_t kReach = 6, kFrequencies = kReach * kReach, kSide = 4;

template <typename Element>
constexpr std::int64_t kTogether = sizeof(float) / sizeof(Element);  // Elements of a word.

template <typename Element>
constexpr cpu::Element kElement = std::is_same_v<Element, float> ? cpu::Element::float32 : cpu::Element::bfloat16;

constexpr std::int64_t vectors_of(std::int64_t outputs) { return divide_up(outputs, kVector); }

// What becomes of sums, whose first output is that of `bias` and `slopes`; these are padded to whole vectors.
template <typename Element>
struct Ending {
    const float* bias;
    float floor;            // The least that a result may be, where there are no slopes.
    const float* slopes;    // What negative ones are multiplied with, or null.
    const Element* others;  // What is added to the results from `results` on, or null.
    const Element* results;
};

// What belongs to all outputs of a convolution, in float32 and in whole vectors.
template <typename Element>
class Endings {
  public:
    Endings(const Convolution& shape, const Tensors<Element>& tensors)
        : tensors_(tensors), bias_(padded(shape, tensors.bias)) {
        if (tensors.slopes != nullptr) slopes_ = padded(shape, tensors.slopes);
    }

    // From an output on.
    Ending<Element> from(std::int64_t output) const {
        return {bias_.data() + output, tensors_.relu ? 0.0f : -std::numeric_limits<float>::infinity(),
                slopes_.empty() ? nullptr : slopes_.data() + output, tensors_.others, tensors_.result};
    }

  private:
    static std::vector<float> padded(const Convolution& shape, const Element* values) {
        std::vector<float> made(static_cast<std::size_t>(vectors_of(shape.outputs) * kVector));
        if (values != nullptr) widen(kElement<Element>, values, 0, shape.outputs, made.data());
        return made;
    }

    const Tensors<Element>& tensors_;
    std::vector<float> bias_, slopes_;
};

// What is summed for a pixel: `count` runs of so many words of features; to the next it is so many elements.
struct Runs {
    std::int64_t count;
    const std::int64_t* steps;
    std::int64_t words;
};

// A convolution of planes: features are [rows][words][stride] words.
struct Planes {
    std::int64_t kernel_height, kernel_width, words, stride;
};

// What normalises channels.
struct Scaling {
    const float *means, *factors, *offsets;
    float floor;
};

// What pixels next to each other meet of features in a convolution of each channel by itself: a kernel of so many rows
// and taps in each, those that lie within the pictures. Distances are in elements.
struct Patches {
    std::int64_t rows, taps;
    std::int64_t kernel_height, kernel_width;     // With what lies outside.
    std::int64_t from_row, from_tap, from_pixel;  // To what the next one meets.
    std::int64_t from_result, from_result_row;    // To the next one.
    std::int64_t blocks, last;                    // Of kVector channels, and where the last one begins.
};

// What normalises each pixel over its channels, from one pixel to the next so many elements. Where channels are fewer
// than kVector, as much as these lack lies before those of each pixel, and before scale and offset.
struct PixelNorm {
    std::int64_t channels, apart;
    const float *scale, *offset;
    float epsilon;
    bool centred;  // Their mean is taken off before.
};

// Channels are multiples of kVector, but for those of `convolve`, `convolve_channels`, `normalize` and `gate`.
template <typename Element>
struct Loops {
    // Results of `count` pixels: `outputs` channels each, at `results`, from the features at `places`.
    void (*convolve)(const Element* const* places, std::int64_t count, const Runs& runs, const Element* weights,
                     std::int64_t outputs, const Ending<Element>& ending, Element* const* results);

    // Sums [narrow_rows(outputs)][outputs][kVector] of as many rows of results, kVector pixels each, from `planes` on.
    // Weights are [words][kernel_height][kernel_width][outputs] words.
    void (*convolve_narrow)(const Element* planes, const Planes& shape, const Element* weights, std::int64_t outputs,
                            float* sums);
    std::int64_t (*narrow_rows)(std::int64_t outputs);  // At most kMostBand.

    // The product of `count` rows of `words` of features, `stride` elements apart, with weights of `vectors`; sums are
    // `apart` floats apart.
    void (*multiply)(const Element* rows, std::int64_t count, std::int64_t stride, std::int64_t words,
                     const Element* weights, std::int64_t vectors, float* sums, std::int64_t apart);

    // B^T d B of the 6 x 6 pixels at `places`, for all channels; frequencies are `stride` elements apart.
    void (*transform_features)(const Element* const* places, std::int64_t channels, Element* frequencies,
                               std::int64_t stride);

    // A^T m A of so many channels, with its ending; sums of frequencies are `stride` floats apart. Of a transposed convolution
    // `phase` is 0 to 3, otherwise -1. Results go to 4 x 4 pixels; those that are null are dropped.
    void (*transform_sums)(const float* sums, std::int64_t stride, int phase, std::int64_t channels,
                           const Ending<Element>& ending, Element* const* results);

    // Adds to each channel's sum what its values are above `first`, and to `squares` the square of that.
    void (*add_moments)(const Element* values, std::int64_t pixels, std::int64_t channels, const float* first,
                        float* sums, float* squares);

    // (values - means) * factors + offsets, at least `floor`, + others unless they are null.
    void (*scale)(const Element* values, const Element* others, std::int64_t pixels, std::int64_t channels,
                  const Scaling& scaling, Element* results);

    // Results of `count` pixels, from `features` on. Weights are [blocks][kernel_height][kernel_width][kVector], from
    // the first tap on; they, the bias and the slopes are in the order of `lane_of`. Nothing is added.
    void (*convolve_channels)(const Element* features, const Patches& shape, const float* weights, std::int64_t count,
                              const Ending<Element>& ending, Element* results);

    // (values - mean) / sqrt(variance + epsilon) * scale + offset; results lie as values do, and may take their place.
    void (*normalize)(const Element* values, std::int64_t pixels, const PixelNorm& norm, Element* results);

    // The first half of each pixel's features times the second, which has so many channels, too, or its sigmoid.
    void (*gate)(const Element* features, std::int64_t pixels, std::int64_t channels, bool sigmoid, Element* results);
};

// Of a block of kVector channels: of bfloat16 the even ones come first, then the odd ones.
template <typename Element>
constexpr std::int64_t lane_of(std::int64_t place) {
    return kTogether<Element> == 1 ? place : place / 2 + place % 2 * (kVector / 2);
}

// Of both elements, for one kind of processor.
struct Processor {
    const char* name;
    bool (*is_here)();
    Loops<float> floats;
    Loops<Bfloat> bfloats;
};
extern const Processor kPortable;
#ifdef GANTK_X86_64
extern const Processor kAvx2, kAvx512, kAvx512Bf16;  // The last has AVX512-BF16 too.
#endif

// Those that this one can be, the best first.
std::vector<const Processor*> processors();

// The best that this processor is, or what a test has chosen.
const Processor& processor();
void choose(const Processor& processor);

template <typename Element>
const Loops<Element>& loops() {
    if constexpr (std::is_same_v<Element, float>)
        return processor().floats;
    else
        return processor().bfloats;
}

}  // namespace gantk::cpu::nhwc
