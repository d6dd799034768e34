// SPDX-License-Identifier: Apache-2.0
// Every result is a sum over runs of features: a row of a kernel meets neighbouring pixels, whose channels lie one
// after another.
//
// Fewer than 16 outputs would leave lanes of a vector idle. So neighbouring results, which lie one after another too,
// are the outputs of one *group* with a wider kernel, in which each finds zeros where the others' weights are. The last
// group of a row overlaps the one before. A transposed convolution has a *part* for results of even and of odd rows,
// and of columns unless these are grouped.
#include <algorithm>
#include <limits>
#include <vector>

#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

constexpr int64_t kBlock = kVector * kMostVectors;  // Outputs summed at a time.
constexpr int64_t kChunk = 192;                     // Groups of a task.

// Depends on the kernel alone, and so do packed weights.
struct Groups {
    int64_t pixels = 1;        // Neighbouring features of which a group has the results.
    int64_t results = 1;       // Per pixel.
    int64_t rows, columns;     // Of the kernel.
    int64_t step;              // Features between neighbours.
    int64_t outputs, parts = 1;

    explicit Groups(const Convolution& shape) : rows(shape.kernel_height), step(shape.stride) {
        const bool narrow = shape.outputs < kVector;
        if (shape.transposed) {
            rows = 2;
            step = 1;
            results = narrow ? 2 : 1;
            parts = narrow ? 2 : 4;
        }
        if (narrow) pixels = std::max<int64_t>(1, kVector / (results * shape.outputs));
        columns = shape.transposed ? (narrow ? 3 : 2) : shape.kernel_width;
        columns += (pixels - 1) * step;
        outputs = pixels * results * shape.outputs;
    }

    // Of a row of the kernel.
    template <typename Element>
    int64_t words(const Convolution& shape) const {
        return divide_up(columns * shape.inputs, kTogether<Element>);
    }
    template <typename Element>
    bool is_odd(const Convolution& shape) const {
        return columns * shape.inputs % kTogether<Element> != 0;
    }
    template <typename Element>
    int64_t block_size(const Convolution& shape, int64_t count) const {
        return rows * words<Element>(shape) * vectors_of(count) * kVector * kTogether<Element>;
    }
    template <typename Element>
    int64_t part_size(const Convolution& shape) const {
        return block_size<Element>(shape, outputs);
    }
};

// A weight of a part: of its output, at a row, column and channel of its kernel.
template <typename Element>
Element weight_of(const Convolution& shape, const Groups& groups, const Element* weights, int64_t part, int64_t output,
                  int64_t row, int64_t column, int64_t input) {
    const int64_t result = output / shape.outputs, channel = output % shape.outputs;
    if (!shape.transposed) {
        const int64_t at = column - result * groups.step;
        if (at < 0 || at >= shape.kernel_width) return 0;
        return weights[((channel * shape.inputs + input) * shape.kernel_height + row) * shape.kernel_width + at];
    }
    // Even results meet the last and the second of four rows and columns, odd ones the third and the first.
    const bool grouped = groups.results > 1;
    const int64_t a = grouped ? part : part / 2, b = grouped ? result % 2 : part % 2;
    const int64_t at = grouped ? column - result / 2 - b : column;
    if (at < 0 || at >= 2) return 0;
    return weights[((input * shape.outputs + channel) * 4 + 3 - a - 2 * row) * 4 + 3 - b - 2 * at];
}

// Features with zeros around and behind them.
template <typename Element>
struct Bordered {
    const Element* first;
    int64_t height, width;
};

template <typename Element>
class Direct {
  public:
    Direct(const Convolution& shape, const Tensors<Element>& tensors)
        : shape_(shape), tensors_(tensors), groups_(shape), inner_{tensors.features, shape.height, shape.width} {
        high_ = shape.transposed ? shape.height + 2 * shape.border() - 2 : shape.result_height();
        wide_ = shape.transposed ? shape.width + 2 * shape.border() - 2 : shape.result_width();
        across_ = divide_up(wide_, groups_.pixels);
        bias_.resize(static_cast<std::size_t>(vectors_of(groups_.outputs) * kVector));
        for (int64_t first = 0; tensors.bias && first < groups_.outputs; first += shape.outputs)
            widen(kElement<Element>, tensors.bias, 0, shape.outputs, bias_.data() + first);
    }

    // Whether runs leave the features, or want a border.
    bool wants_copy() const {
        return shape_.border() > 0 || groups_.template is_odd<Element>(shape_) || wide_ < groups_.pixels;
    }
    std::size_t copy_bytes() const {
        return static_cast<std::size_t>(shape_.count * copied_picture() + behind()) * sizeof(Element);
    }
    void copy(Element* to, const Parallel& parallel) {
        const int64_t border = shape_.border(), line = shape_.width * shape_.inputs;
        const Bordered<Element> made{to, shape_.height + 2 * border, shape_.width + 2 * border};
        const int64_t wide = made.width * shape_.inputs;
        for_each(parallel, shape_.count * made.height, [&](int64_t row) {
            Element* const into = to + row * wide;
            const int64_t picture = row / made.height, y = row % made.height - border;
            if (y < 0 || y >= shape_.height) {
                std::fill_n(into, wide, Element{0});
                return;
            }
            std::fill_n(into, border * shape_.inputs, Element{0});
            std::copy_n(tensors_.features + (picture * shape_.height + y) * line, line, into + border * shape_.inputs);
            std::fill_n(into + wide - border * shape_.inputs, border * shape_.inputs, Element{0});
        });
        std::fill_n(to + shape_.count * copied_picture(), behind(), Element{0});
        inner_ = made;
    }

    void convolve(const Parallel& parallel) const {
        const int64_t all = shape_.count * high_ * across_, chunks = divide_up(all, kChunk);
        const int64_t blocks = divide_up(groups_.outputs, kBlock);
        for_each(parallel, chunks * groups_.parts * blocks, [&](int64_t task) {
            const int64_t first = task / (groups_.parts * blocks) * kChunk;
            convolve_chunk(task / blocks % groups_.parts, task % blocks * kBlock, first,
                           std::min(kChunk, all - first));
        });
    }

  private:
    int64_t copied_picture() const {
        const int64_t border = shape_.border();
        return (shape_.height + 2 * border) * (shape_.width + 2 * border) * shape_.inputs;
    }
    int64_t behind() const { return (groups_.columns + 1) * shape_.inputs; }

    void convolve_chunk(int64_t part, int64_t output, int64_t first, int64_t count) const {
        const int64_t inputs = shape_.inputs, outputs = shape_.outputs, scale = shape_.transposed ? 2 : 1;
        const bool grouped = groups_.results > 1;
        const int64_t a = !shape_.transposed ? 0 : grouped ? part : part / 2;
        const int64_t b = !shape_.transposed || grouped ? 0 : part % 2;
        const Element* places[kChunk];
        Element* results[kChunk];
        for (int64_t i = 0; i < count; ++i) {
            const int64_t row = (first + i) / across_, picture = row / high_, y = row % high_;
            const int64_t x =
                std::max<int64_t>(0, std::min((first + i) % across_ * groups_.pixels, wide_ - groups_.pixels));
            const int64_t from_row = picture * inner_.height + y * groups_.step + a;
            places[i] = inner_.first + (from_row * inner_.width + x * groups_.step + b) * inputs;
            const int64_t to_row = (picture * high_ + y) * scale + a;
            results[i] = tensors_.result + (to_row * wide_ * scale + x * scale + b) * outputs + output;
        }
        const int64_t here = std::min(kBlock, groups_.outputs - output);
        const int64_t written = std::min(here, wide_ * groups_.results * outputs - output);
        const Runs runs{groups_.rows, inner_.width * inputs, groups_.template words<Element>(shape_)};
        const Element* const weights = tensors_.packed + part * groups_.template part_size<Element>(shape_) +
                                       groups_.template block_size<Element>(shape_, output);
        loops<Element>().convolve(places, count, runs, weights, wide_ < groups_.pixels ? written : here,
                         {bias_.data() + output, tensors_.relu ? 0.0f : -std::numeric_limits<float>::infinity()},
                         results);
    }

    const Convolution& shape_;
    const Tensors<Element>& tensors_;
    Groups groups_;
    Bordered<Element> inner_;
    int64_t high_, wide_, across_;
    std::vector<float> bias_;
};

}  // namespace

template <typename Element>
std::size_t direct_weights_bytes(const Convolution& shape) {
    const Groups groups(shape);
    return static_cast<std::size_t>(groups.parts * groups.part_size<Element>(shape)) * sizeof(Element);
}

// [parts][blocks][rows][words][vectors][16] words.
template <typename Element>
void direct_weights(const Convolution& shape, const Element* weights, Element* packed, const Parallel& parallel) {
    const Groups groups(shape);
    const int64_t blocks = divide_up(groups.outputs, kBlock), words = groups.words<Element>(shape);
    for_each(parallel, groups.parts * blocks, [&](int64_t task) {
        const int64_t part = task / blocks, begin = task % blocks * kBlock;
        const int64_t wide = vectors_of(std::min(kBlock, groups.outputs - begin)) * kVector;
        Element* to = packed + part * groups.part_size<Element>(shape) + groups.block_size<Element>(shape, begin);
        for (int64_t row = 0; row < groups.rows; ++row)
            for (int64_t word = 0; word < words; ++word)
                for (int64_t output = begin; output < begin + wide; ++output)
                    for (int64_t i = 0; i < kTogether<Element>; ++i) {
                        const int64_t at = word * kTogether<Element> + i;
                        const int64_t column = at / shape.inputs, input = at % shape.inputs;
                        const bool exists = output < groups.outputs && column < groups.columns;
                        *to++ = exists ? weight_of(shape, groups, weights, part, output, row, column, input)
                                       : Element{0};
                    }
    });
}

template <typename Element>
void direct_convolution(const Convolution& shape, const Tensors<Element>& tensors, const Memory& memory,
                        const Parallel& parallel) {
    Direct<Element> direct(shape, tensors);
    Element* copied = nullptr;
    if (direct.wants_copy()) {
        copied = static_cast<Element*>(memory.take(memory.owner, direct.copy_bytes()));
        if (copied == nullptr) throw std::bad_alloc();
        direct.copy(copied, parallel);
    }
    direct.convolve(parallel);
    if (copied != nullptr) memory.give(memory.owner, copied);
}

template std::size_t direct_weights_bytes<float>(const Convolution&);
template std::size_t direct_weights_bytes<Bfloat>(const Convolution&);
template void direct_weights(const Convolution&, const float*, float*, const Parallel&);
template void direct_weights(const Convolution&, const Bfloat*, Bfloat*, const Parallel&);
template void direct_convolution(const Convolution&, const Tensors<float>&, const Memory&, const Parallel&);
template void direct_convolution(const Convolution&, const Tensors<Bfloat>&, const Memory&, const Parallel&);

}  // namespace gantk::cpu::nhwc
