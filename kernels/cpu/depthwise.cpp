// SPDX-License-Identifier: Apache-2.0
// Lanes are channels, and what few of them would leave empty is filled with the pixels next to them: that many are done
// as one, whose neighbours its kernel meets, too.
#include "depthwise.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

static_assert(sizeof(DepthwiseLanes) == kVector * sizeof(float));

constexpr int64_t kFew = 32;  // Pixels that are copied at a time.
constexpr int64_t kTaskProducts = 1 << 18, kTaskRows = 4;  // The least that a task makes.

// Blocks of lanes. The last one shares with the one before what channels it lacks.
template <typename Element>
class Blocks {
  public:
    Blocks(const Depthwise& shape, const DepthwisePlaces& places) : channels_(shape.channels) {
        const bool side_by_side = shape.across == 1 && places.across == 1;
        if (channels_ < kVector && side_by_side) pixels_ = kVector / std::gcd(channels_, kVector);
    }

    int64_t pixels() const { return pixels_; }  // That are done as one.
    int64_t lanes() const { return pixels_ * channels_; }
    int64_t count() const { return divide_up(lanes(), kVector); }
    int64_t first(int64_t block) const {
        return std::max<int64_t>(std::min(block * kVector, lanes() - kVector), 0);
    }

    // Values [channels][taps] as lanes [count()][taps].
    std::vector<DepthwiseLanes> packed(const Element* values, int64_t taps) const {
        std::vector<float> given(static_cast<std::size_t>(channels_ * taps));
        std::vector<DepthwiseLanes> made(static_cast<std::size_t>(count() * taps));
        if (values != nullptr) widen(kElement<Element>, values, 0, channels_ * taps, given.data());
        for (int64_t block = 0; block < count(); ++block)
            for (int64_t place = 0; place < std::min(kVector, lanes()); ++place) {
                const float* const from = given.data() + (first(block) + place) % channels_ * taps;
                DepthwiseLanes* const to = made.data() + block * taps;
                for (int64_t tap = 0; tap < taps; ++tap) to[tap].values[lane_of<Element>(place)] = from[tap];
            }
        return made;
    }

  private:
    int64_t channels_, pixels_ = 1;
};

// Taps of a row or a column of a kernel that lie within the features.
struct Taps {
    int64_t first, count, place;  // The feature that the first one meets.

    Taps(int64_t start, int64_t kernel, int64_t features)
        : first(std::clamp<int64_t>(-start, 0, kernel)),
          count(std::clamp<int64_t>(features - start, first, kernel) - first),
          place(count == 0 ? 0 : start + first) {}
};

template <typename Element>
class Convolving {
  public:
    Convolving(const Depthwise& shape, const DepthwisePlaces& places, const DepthwiseTensors<Element>& tensors)
        : shape_(shape),
          places_(places),
          tensors_(tensors),
          blocks_(shape, places),
          bias_(blocks_.packed(tensors.bias, 1)),
          high_(shape.result_height()),
          wide_(shape.result_width()) {
        if (tensors.slopes != nullptr) slopes_ = blocks_.packed(tensors.slopes, 1);
        ending_ = {bias_.front().values, tensors.relu ? 0.0f : -std::numeric_limits<float>::infinity(),
                   tensors.slopes != nullptr ? slopes_.front().values : nullptr, nullptr, nullptr};
        const int64_t products = wide_ * shape.channels * shape.kernel_height * shape.kernel_width;
        rows_ = std::max(divide_up(kTaskProducts, products), kTaskRows);
        first_ = std::min(divide_up(std::max<int64_t>(shape.left, 0), shape.across), wide_);
        const int64_t room = shape.left + shape.width - shape.kernel_width;
        last_ = room < 0 ? first_ : std::clamp(room / shape.across + 1, first_, wide_);
    }

    int64_t tasks() const { return shape_.count * tasks_of_picture(); }

    void convolve(int64_t task) const {
        const int64_t picture = task / tasks_of_picture(), top = task % tasks_of_picture() * rows_;
        for (int64_t y = top; y < std::min(top + rows_, high_); ++y) convolve_row(picture, y);
    }

  private:
    int64_t tasks_of_picture() const { return divide_up(high_, rows_); }

    // Pixels from `first_` to `last_` have all taps of a row within the features.
    void convolve_row(int64_t picture, int64_t y) const {
        const int64_t pixels = blocks_.pixels(), inner = last_ - first_;
        const bool few = blocks_.lanes() < kVector || inner < pixels;
        if (few && shape_.channels < kVector) return convolve_few(picture, y, 0, wide_);
        convolve_border(picture, y, 0, first_);
        convolve_pixels(picture, y, first_, inner / pixels);
        if (inner % pixels != 0) convolve_pixels(picture, y, last_ - pixels, 1);  // Some of them once more.
        convolve_border(picture, y, last_, wide_);
    }

    void convolve_border(int64_t picture, int64_t y, int64_t left, int64_t right) const {
        if (shape_.channels < kVector) return convolve_few(picture, y, left, right);
        for (int64_t x = left; x < right; ++x) convolve_pixels(picture, y, x, 1);
    }

    // `count` times as many as are done as one, which meet the same taps.
    void convolve_pixels(int64_t picture, int64_t y, int64_t x, int64_t count) const {
        const Taps down = taps_down(y), across = taps_across(x);
        const int64_t channels = shape_.channels, lanes = blocks_.lanes();
        Patches patches = patches_of(down.count, across.count);
        patches.from_row = shape_.width * channels;
        patches.from_tap = channels;
        patches.from_pixel = shape_.across * lanes;
        patches.from_result = places_.across * lanes;
        patches.from_result_row = places_.down * places_.width * channels;
        patches.blocks = blocks_.count();
        patches.last = blocks_.first(blocks_.count() - 1);
        loops<Element>().convolve_channels(feature_at(picture, down.place, across.place), patches,
                                           weights_at(down.first, across.first), count, ending_,
                                           result_at(picture, y, x));
    }

    // Pixels whose channels do not fill a block: from copies that do, zeros around the pictures included.
    void convolve_few(int64_t picture, int64_t y, int64_t left, int64_t right) const {
        const Taps down = taps_down(y);
        const int64_t most = (std::min(kFew, right - left) - 1) * shape_.across + shape_.kernel_width;
        std::vector<Element> met(static_cast<std::size_t>((down.count + 1) * most * kVector));  // One is but fetched.
        std::vector<Element> made(static_cast<std::size_t>(kFew * kVector));
        Patches patches = patches_of(down.count, shape_.kernel_width);
        patches.from_row = most * kVector;
        patches.from_tap = patches.from_result = kVector;
        patches.from_pixel = shape_.across * kVector;
        for (int64_t x = left; x < right; x += kFew) {
            const int64_t count = std::min(kFew, right - x);
            const int64_t columns = (count - 1) * shape_.across + shape_.kernel_width;
            for (int64_t i = 0; i < down.count; ++i)
                copy_row(picture, down.place + i, x * shape_.across - shape_.left, columns,
                         met.data() + i * patches.from_row);
            loops<Element>().convolve_channels(met.data(), patches, weights_at(down.first, 0), count, ending_,
                                               made.data());
            for (int64_t p = 0; p < count; ++p)
                std::copy_n(made.data() + p * kVector, shape_.channels, result_at(picture, y, x + p));
        }
    }

    void copy_row(int64_t picture, int64_t y, int64_t left, int64_t columns, Element* to) const {
        for (int64_t x = left; x < left + columns; ++x, to += kVector)
            if (x >= 0 && x < shape_.width)
                std::copy_n(feature_at(picture, y, x), shape_.channels, to);
            else
                std::fill_n(to, shape_.channels, Element{});
    }

    // Of features that lie in any way.
    Patches patches_of(int64_t rows, int64_t taps) const {
        Patches patches{};
        patches.rows = rows;
        patches.taps = taps;
        patches.kernel_height = shape_.kernel_height;
        patches.kernel_width = shape_.kernel_width;
        patches.blocks = 1;
        return patches;
    }

    Taps taps_down(int64_t y) const { return {y * shape_.down - shape_.top, shape_.kernel_height, shape_.height}; }
    Taps taps_across(int64_t x) const { return {x * shape_.across - shape_.left, shape_.kernel_width, shape_.width}; }

    const Element* feature_at(int64_t picture, int64_t y, int64_t x) const {
        return tensors_.features + ((picture * shape_.height + y) * shape_.width + x) * shape_.channels;
    }
    Element* result_at(int64_t picture, int64_t y, int64_t x) const {
        const int64_t row = places_.top + y * places_.down, column = places_.left + x * places_.across;
        return tensors_.result + ((picture * places_.height + row) * places_.width + column) * shape_.channels;
    }
    const float* weights_at(int64_t i, int64_t j) const {
        return tensors_.packed[i * shape_.kernel_width + j].values;
    }

    const Depthwise& shape_;
    const DepthwisePlaces& places_;
    const DepthwiseTensors<Element>& tensors_;
    Blocks<Element> blocks_;
    std::vector<DepthwiseLanes> bias_, slopes_;
    Ending<Element> ending_;
    int64_t high_, wide_, rows_, first_, last_;
};

DepthwisePlaces one_by_one(const Depthwise& shape) { return {shape.result_height(), shape.result_width()}; }

// The taps of a row or a column of a transposed kernel that results at `phase` and strides behind that meet: tap
// `first + i * -stride` meets the feature `i + place` behind the one of the result's stride.
struct PhaseTaps {
    int64_t first, count, place;

    PhaseTaps(int64_t phase, int64_t before, int64_t stride, int64_t kernel) {
        const int64_t last = phase + before;  // Of the feature at the result's stride.
        place = last < kernel ? -((kernel - 1 - last) / stride) : divide_up(last - kernel + 1, stride);
        first = last - stride * place;
        count = first < 0 ? 0 : first / stride + 1;
    }
};

// A convolution of the features that makes the results of one row and column of a stride.
struct Phase {
    PhaseTaps down, across;
    Depthwise shape;
    DepthwisePlaces places;

    Phase(const DepthwiseTransposed& whole, int64_t index)
        : down(index / whole.across, whole.top, whole.down, whole.kernel_height),
          across(index % whole.across, whole.left, whole.across, whole.kernel_width),
          places{whole.result_height, whole.result_width,         whole.down,
                 whole.across,        index / whole.across, index % whole.across} {
        shape = {whole.count, whole.height, whole.width, whole.channels};
        shape.kernel_height = std::max<int64_t>(down.count, 1);
        shape.kernel_width = std::max<int64_t>(across.count, 1);
        // Without taps what is met lies outside.
        shape.top = down.count > 0 ? -down.place : -whole.height;
        shape.left = across.count > 0 ? -across.place : -whole.width;
        // So that there are as many results as lie within the whole.
        const int64_t high = divide_up(whole.result_height - places.top, whole.down);
        const int64_t wide = divide_up(whole.result_width - places.left, whole.across);
        shape.bottom = high - 1 + shape.kernel_height - shape.top - whole.height;
        shape.right = wide - 1 + shape.kernel_width - shape.left - whole.width;
    }
};

}  // namespace

template <typename Element>
std::vector<DepthwiseLanes> depthwise_weights(const Depthwise& shape, const DepthwisePlaces& places,
                                              const Element* weights) {
    return Blocks<Element>(shape, places).packed(weights, shape.kernel_height * shape.kernel_width);
}

template <typename Element>
std::vector<DepthwiseLanes> depthwise_weights(const Depthwise& shape, const Element* weights) {
    return depthwise_weights(shape, one_by_one(shape), weights);
}

template <typename Element>
void depthwise_convolution(const Depthwise& shape, const DepthwiseTensors<Element>& tensors, const Parallel& parallel) {
    const DepthwisePlaces places = one_by_one(shape);
    const Convolving<Element> convolving(shape, places, tensors);
    for_each(parallel, convolving.tasks(), [&](int64_t task) { convolving.convolve(task); });
}

template <typename Element>
std::vector<std::vector<DepthwiseLanes>> depthwise_phases(const DepthwiseTransposed& shape, const Element* weights) {
    std::vector<std::vector<DepthwiseLanes>> made;
    for (int64_t index = 0; index < shape.down * shape.across; ++index) {
        const Phase phase(shape, index);
        const int64_t taps = phase.shape.kernel_height * phase.shape.kernel_width;
        std::vector<Element> kernels(static_cast<std::size_t>(shape.channels * taps), Element{});
        for (int64_t channel = 0; channel < shape.channels; ++channel)
            for (int64_t i = 0; i < phase.down.count; ++i)
                for (int64_t j = 0; j < phase.across.count; ++j) {
                    const int64_t row = phase.down.first - i * shape.down, column = phase.across.first - j * shape.across;
                    kernels[static_cast<std::size_t>(channel * taps + i * phase.shape.kernel_width + j)] =
                        weights[(channel * shape.kernel_height + row) * shape.kernel_width + column];
                }
        made.push_back(depthwise_weights(phase.shape, phase.places, kernels.data()));
    }
    return made;
}

template <typename Element>
void depthwise_transposed(const DepthwiseTransposed& shape, const std::vector<std::vector<DepthwiseLanes>>& phases,
                          DepthwiseTensors<Element> tensors, const Parallel& parallel) {
    for (int64_t index = 0; index < shape.down * shape.across; ++index) {
        const Phase phase(shape, index);
        if (phase.places.top >= shape.result_height || phase.places.left >= shape.result_width) continue;
        tensors.packed = phases[static_cast<std::size_t>(index)].data();
        const Convolving<Element> convolving(phase.shape, phase.places, tensors);
        for_each(parallel, convolving.tasks(), [&](int64_t task) { convolving.convolve(task); });
    }
}

template std::vector<DepthwiseLanes> depthwise_weights(const Depthwise&, const float*);
template std::vector<DepthwiseLanes> depthwise_weights(const Depthwise&, const Bfloat*);
template void depthwise_convolution(const Depthwise&, const DepthwiseTensors<float>&, const Parallel&);
template void depthwise_convolution(const Depthwise&, const DepthwiseTensors<Bfloat>&, const Parallel&);
template std::vector<std::vector<DepthwiseLanes>> depthwise_phases(const DepthwiseTransposed&, const float*);
template std::vector<std::vector<DepthwiseLanes>> depthwise_phases(const DepthwiseTransposed&, const Bfloat*);
template void depthwise_transposed(const DepthwiseTransposed&, const std::vector<std::vector<DepthwiseLanes>>&,
                                   DepthwiseTensors<float>, const Parallel&);
template void depthwise_transposed(const DepthwiseTransposed&, const std::vector<std::vector<DepthwiseLanes>>&,
                                   DepthwiseTensors<Bfloat>, const Parallel&);

}  // namespace gantk::cpu::nhwc
