// SPDX-License-Identifier: Apache-2.0
#include "nhwc_narrow.hpp"

#include <algorithm>
#include <cstring>

#include "tasks.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

// A task makes a tile of the results of each part: of a larger one fewer features are copied twice.
constexpr int64_t kTileRows = 32, kTileColumns = 128;
constexpr int64_t kTasks = 16;  // If there are fewer, tiles are lower.

int64_t parts_of(const Convolution& shape) { return shape.transposed ? 4 : 1; }

// Of the weights of a part.
template <typename Element>
int64_t size_of(const Convolution& shape) {
    const int64_t taps = shape.transposed ? 4 : shape.kernel_height * shape.kernel_width;
    return taps * divide_up(shape.inputs, kTogether<Element>) * shape.outputs * kTogether<Element>;
}

template <typename Element>
class Narrow {
  public:
    Narrow(const Convolution& shape, const Tensors<Element>& tensors)
        : shape_(shape), tensors_(tensors), endings_(shape, tensors) {
        kernel_height_ = shape.transposed ? 2 : shape.kernel_height;
        kernel_width_ = shape.transposed ? 2 : shape.kernel_width;
        scale_ = shape.scale();
        high_ = divide_up(shape.result_height(), scale_);
        wide_ = divide_up(shape.result_width(), scale_);
        words_ = divide_up(shape.inputs, kTogether<Element>);
        band_ = loops<Element>().narrow_rows(shape.outputs);
        const auto bands = [&](int64_t rows) { return divide_up(rows, band_) * band_; };
        across_ = divide_up(wide_, kTileColumns);
        for (tile_ = bands(kTileRows); tile_ > band_ && shape.count * across_ * divide_up(high_, tile_) < kTasks;)
            tile_ = bands(tile_ / 2);
        down_ = divide_up(high_, tile_);
        // Part 3 begins one row and one column further.
        rows_ = tile_ + kernel_height_ - 1 + scale_ - 1;
        stride_ = divide_up(std::min(wide_, kTileColumns), kVector) * kVector + kernel_width_ - 1 + scale_ - 1;
    }

    int64_t tasks() const { return shape_.count * down_ * across_; }
    std::size_t bytes() const { return static_cast<std::size_t>(rows_ * words_ * stride_) * sizeof(float); }

    void convolve(int64_t task, Element* planes) const {
        const int64_t picture = task / across_ / down_, top = task / across_ % down_ * tile_;
        const int64_t left = task % across_ * kTileColumns, right = std::min(left + kTileColumns, wide_);
        for (int64_t row = 0; row < rows_; ++row)
            fill(picture, top + row - shape_.border_before(), left - shape_.border_before(), plane_row(planes, row));
        for (int64_t row = top; row < std::min(top + tile_, high_); row += band_)
            for (int64_t x = left; x < right; x += kVector)
                for (int64_t a = 0; a < scale_; ++a)
                    convolve_band(picture, row, x, a, plane_row(planes, row - top + a) + (x - left) * kOne);
    }

  private:
    static constexpr int64_t kOne = kTogether<Element>;

    Element* plane_row(Element* planes, int64_t row) const { return planes + row * words_ * stride_ * kOne; }

    // One row of features, from a column on, as planes [words][stride]; zeros where there are none.
    void fill(int64_t picture, int64_t y, int64_t left, Element* planes) const {
        std::memset(planes, 0, static_cast<std::size_t>(words_ * stride_) * sizeof(float));
        if (y < 0 || y >= shape_.height) return;
        const Element* const row = tensors_.features + (picture * shape_.height + y) * shape_.width * shape_.inputs;
        const int64_t first = std::max<int64_t>(left, 0), last = std::min(left + stride_, shape_.width);
        const Element* from = row + first * shape_.inputs;
        for (int64_t x = first; x < last; ++x, from += shape_.inputs)
            for (int64_t word = 0; word < words_; ++word) {
                Element* const to = planes + (word * stride_ + x - left) * kOne;
                if (kOne == 1 || word * kOne + kOne <= shape_.inputs)
                    std::memcpy(to, from + word * kOne, sizeof(float));
                else
                    to[0] = from[word * kOne];
            }
    }

    // Rows and kVector columns of results, even or odd ones of a transposed convolution.
    void convolve_band(int64_t picture, int64_t row, int64_t x, int64_t a, const Element* planes) const {
        float sums[2][kMostBand * kMostNarrow * kVector];
        for (int64_t b = 0; b < scale_; ++b)
            loops<Element>().convolve_narrow(
                planes + b * kOne, {kernel_height_, kernel_width_, words_, stride_},
                tensors_.packed + (a * scale_ + b) * size_of<Element>(shape_), shape_.outputs, sums[b]);
        const int64_t end = std::min(shape_.result_height(), (row + band_) * scale_);
        for (int64_t y = row * scale_ + a, i = 0; y < end; y += scale_, ++i) write(picture, y, x, sums, i);
    }

    // Pixels from `scale * x` on, of as many columns as there are.
    void write(int64_t picture, int64_t y, int64_t x, const float (&sums)[2][kMostBand * kMostNarrow * kVector],
               int64_t row) const {
        const int64_t outputs = shape_.outputs, count = std::min(kVector * scale_, shape_.result_width() - x * scale_);
        const int64_t at = (picture * shape_.result_height() + y) * shape_.result_width() + x * scale_;
        const Ending<Element> ending = endings_.from(0);
        float pixels[2 * kVector * kMostNarrow], others[2 * kVector * kMostNarrow];
        if (ending.others != nullptr)
            widen(kElement<Element>, ending.others, at * outputs, count * outputs, others);
        for (int64_t i = 0; i < count; ++i) {
            const float* const pixel = sums[i % scale_] + row * outputs * kVector + i / scale_;
            for (int64_t k = 0; k < outputs; ++k) {
                float value = pixel[k * kVector] + ending.bias[k];
                if (ending.slopes != nullptr)
                    value = value < 0 ? value * ending.slopes[k] : value;
                else
                    value = value < ending.floor ? ending.floor : value;  // NaN stays.
                pixels[i * outputs + k] = ending.others != nullptr ? value + others[i * outputs + k] : value;
            }
        }
        narrow(kElement<Element>, pixels, count * outputs, tensors_.result, at * outputs);
    }

    const Convolution& shape_;
    const Tensors<Element>& tensors_;
    Endings<Element> endings_;
    int64_t kernel_height_, kernel_width_, scale_;  // Of a part; results of a part lie so far apart.
    int64_t high_, wide_;                           // Results of the part that has the most.
    int64_t words_, band_, tile_, down_, across_;   // Rows of a band and of a tile; tiles.
    int64_t rows_, stride_;                         // Of planes.
};

}  // namespace

template <typename Element>
std::size_t narrow_weights_bytes(const Convolution& shape) {
    return static_cast<std::size_t>(parts_of(shape) * size_of<Element>(shape)) * sizeof(Element);
}

// [parts][words][rows][columns][outputs] words.
template <typename Element>
void narrow_weights(const Convolution& shape, const Element* weights, Element* packed) {
    const int64_t rows = shape.transposed ? 2 : shape.kernel_height;
    const int64_t columns = shape.transposed ? 2 : shape.kernel_width;
    const int64_t words = divide_up(shape.inputs, kTogether<Element>);
    for (int64_t part = 0; part < parts_of(shape); ++part)
        for (int64_t word = 0; word < words; ++word)
            for (int64_t row = 0; row < rows; ++row)
                for (int64_t column = 0; column < columns; ++column)
                    for (int64_t output = 0; output < shape.outputs; ++output)
                        for (int64_t i = 0; i < kTogether<Element>; ++i) {
                            const int64_t input = word * kTogether<Element> + i;
                            *packed++ = input < shape.inputs
                                            ? weight_of(shape, weights, part, output, row, column, input)
                                            : Element{0};
                        }
}

template <typename Element>
void narrow_convolution(const Convolution& shape, const Tensors<Element>& tensors, const Memory& memory,
                        const Parallel& parallel) {
    const Narrow<Element> narrow(shape, tensors);
    for_each_in_memory(parallel, memory, narrow.tasks(), narrow.bytes(),
                       [&](int64_t task, void* own) { narrow.convolve(task, static_cast<Element*>(own)); });
}

template std::size_t narrow_weights_bytes<float>(const Convolution&);
template std::size_t narrow_weights_bytes<Bfloat>(const Convolution&);
template void narrow_weights(const Convolution&, const float*, float*);
template void narrow_weights(const Convolution&, const Bfloat*, Bfloat*);
template void narrow_convolution(const Convolution&, const Tensors<float>&, const Memory&, const Parallel&);
template void narrow_convolution(const Convolution&, const Tensors<Bfloat>&, const Memory&, const Parallel&);

}  // namespace gantk::cpu::nhwc
