// SPDX-License-Identifier: Apache-2.0
// Every result is a sum over runs of features: a row of a kernel meets neighbouring pixels, whose channels lie one
// after another. Those that a dilated one meets do not, and each is a run. A transposed convolution has a *part* for
// the results of even and of odd rows and columns.
#include <algorithm>
#include <utility>
#include <vector>

#include "nhwc_loops.hpp"
#include "nhwc_narrow.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

constexpr int64_t kBlock = kVector * kMostVectors;  // Outputs summed at a time.
constexpr int64_t kChunk = 192;                     // Pixels of a task.

// Depends on the kernel alone, and so do packed weights.
template <typename Element>
struct Kernel {
    int64_t rows, across = 1, parts = 1;  // Runs across a row of each part.
    int64_t columns, words;               // Of a run.

    explicit Kernel(const Convolution& shape) : rows(shape.kernel_height), columns(shape.kernel_width) {
        if (shape.transposed) rows = columns = 2, parts = 4;
        if (shape.dilation > 1) std::swap(across, columns);
        words = divide_up(columns * shape.inputs, kTogether<Element>);
    }

    int64_t runs() const { return rows * across; }
    // Of weights of so many outputs.
    int64_t size(int64_t count) const { return runs() * words * vectors_of(count) * kVector * kTogether<Element>; }
};

// Features, or a copy with zeros around and behind them.
template <typename Element>
struct Bordered {
    const Element* first;
    int64_t height, width;
};

template <typename Element>
class Direct {
  public:
    Direct(const Convolution& shape, const Tensors<Element>& tensors)
        : shape_(shape),
          tensors_(tensors),
          endings_(shape, tensors),
          kernel_(shape),
          inner_{tensors.features, shape.height, shape.width},
          copied_height_(shape.height + shape.border_before() + shape.border_after()),
          copied_width_(shape.width + shape.border_before() + shape.border_after()) {}

    // Whether runs leave the features, or want a border.
    bool wants_copy() const {
        return copied_width_ > shape_.width || kernel_.columns * shape_.inputs % kTogether<Element> != 0;
    }
    std::size_t copy_bytes() const {
        return static_cast<std::size_t>(copied() + kBehind) * sizeof(Element);
    }
    void copy(Element* to, const Parallel& parallel) {
        const int64_t line = shape_.width * shape_.inputs, wide = copied_width_ * shape_.inputs;
        const int64_t before = shape_.border_before(), left = before * shape_.inputs;
        for_each(parallel, shape_.count * copied_height_, [&](int64_t row) {
            Element* const into = to + row * wide;
            const int64_t picture = row / copied_height_, y = row % copied_height_ - before;
            if (y < 0 || y >= shape_.height) {
                std::fill_n(into, wide, Element{0});
                return;
            }
            std::fill_n(into, left, Element{0});
            std::copy_n(tensors_.features + (picture * shape_.height + y) * line, line, into + left);
            std::fill(into + left + line, into + wide, Element{0});
        });
        std::fill_n(to + copied(), kBehind, Element{0});
        inner_ = {to, copied_height_, copied_width_};
    }

    void convolve(const Parallel& parallel) const {
        const int64_t next = shape_.dilation * shape_.inputs, below = inner_.width - (kernel_.across - 1);
        std::vector<int64_t> steps;
        for (int64_t run = 1; run <= kernel_.runs(); ++run)
            steps.push_back(run % kernel_.across == 0 ? below * next : next);
        const Runs runs{kernel_.runs(), steps.data(), kernel_.words};
        const int64_t chunks = divide_up(pixels_of(0), kChunk), blocks = divide_up(shape_.outputs, kBlock);
        for_each(parallel, chunks * kernel_.parts * blocks, [&](int64_t task) {
            convolve_chunk(runs, task / blocks % kernel_.parts, task % blocks * kBlock,
                           task / (kernel_.parts * blocks) * kChunk);
        });
    }

  private:
    static constexpr int64_t kBehind = kTogether<Element> - 1;  // What the last run reads beyond the last feature.

    int64_t copied() const { return shape_.count * copied_height_ * copied_width_ * shape_.inputs; }

    // Rows and columns of the results of a part, of which the first has the most.
    int64_t high_of(int64_t part) const { return divide_up(shape_.result_height() - part / 2, shape_.scale()); }
    int64_t wide_of(int64_t part) const { return divide_up(shape_.result_width() - part % 2, shape_.scale()); }
    int64_t pixels_of(int64_t part) const { return shape_.count * high_of(part) * wide_of(part); }

    void convolve_chunk(const Runs& runs, int64_t part, int64_t output, int64_t first) const {
        const int64_t inputs = shape_.inputs, outputs = shape_.outputs;
        const int64_t step = shape_.transposed ? 1 : shape_.stride, scale = shape_.scale();
        const int64_t a = part / 2, b = part % 2, high = high_of(part), wide = wide_of(part);
        const int64_t all_high = shape_.result_height(), all_wide = shape_.result_width();
        int64_t picture = first / wide / high, y = first / wide % high, x = first % wide;
        const int64_t count = std::min(kChunk, pixels_of(part) - first);  // There may be none left.
        const Element* places[kChunk];
        Element* results[kChunk];
        for (int64_t i = 0; i < count; ++i) {
            const int64_t from_row = picture * inner_.height + y * step + a;
            places[i] = inner_.first + (from_row * inner_.width + x * step + b) * inputs;
            const int64_t to_row = picture * all_high + y * scale + a;
            results[i] = tensors_.result + (to_row * all_wide + x * scale + b) * outputs + output;
            if (++x < wide) continue;
            x = 0;
            if (++y == high) y = 0, ++picture;
        }
        loops<Element>().convolve(
            places, count, runs, tensors_.packed + part * kernel_.size(outputs) + kernel_.size(output),
            std::min(kBlock, outputs - output), endings_.from(output), results);
    }

    const Convolution& shape_;
    const Tensors<Element>& tensors_;
    Endings<Element> endings_;
    Kernel<Element> kernel_;
    Bordered<Element> inner_;
    int64_t copied_height_, copied_width_;
};

}  // namespace

template <typename Element>
std::size_t direct_weights_bytes(const Convolution& shape) {
    if (is_narrow(shape)) return narrow_weights_bytes<Element>(shape);
    const Kernel<Element> kernel(shape);
    return static_cast<std::size_t>(kernel.parts * kernel.size(shape.outputs)) * sizeof(Element);
}

// [parts][blocks][runs][words][vectors][16] words.
template <typename Element>
void direct_weights(const Convolution& shape, const Element* weights, Element* packed, const Parallel& parallel) {
    if (is_narrow(shape)) return narrow_weights(shape, weights, packed);
    const Kernel<Element> kernel(shape);
    const int64_t blocks = divide_up(shape.outputs, kBlock);
    for_each(parallel, kernel.parts * blocks, [&](int64_t task) {
        const int64_t part = task / blocks, begin = task % blocks * kBlock;
        const int64_t wide = vectors_of(std::min(kBlock, shape.outputs - begin)) * kVector;
        Element* to = packed + part * kernel.size(shape.outputs) + kernel.size(begin);
        for (int64_t run = 0; run < kernel.runs(); ++run)
            for (int64_t word = 0; word < kernel.words; ++word)
                for (int64_t output = begin; output < begin + wide; ++output)
                    for (int64_t i = 0; i < kTogether<Element>; ++i) {
                        const int64_t at = word * kTogether<Element> + i;
                        const int64_t row = run / kernel.across, input = at % shape.inputs;
                        const int64_t column = run % kernel.across + at / shape.inputs;
                        const bool exists = output < shape.outputs && at / shape.inputs < kernel.columns;
                        *to++ = exists ? weight_of(shape, weights, part, output, row, column, input) : Element{0};
                    }
    });
}

template <typename Element>
void direct_convolution(const Convolution& shape, const Tensors<Element>& tensors, const Memory& memory,
                        const Parallel& parallel) {
    if (is_narrow(shape)) return narrow_convolution(shape, tensors, memory, parallel);
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
