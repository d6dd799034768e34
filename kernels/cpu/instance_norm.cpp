// SPDX-License-Identifier: Apache-2.0
// All is done by *runs*: neighbouring pixels of a row, whose channels lie one after another. Blocks of pixels end
// them.
#include "instance_norm.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "clones.hpp"
#include "nhwc_loops.hpp"
#include "tasks.hpp"

namespace gantk::cpu {
namespace {

using kernels::Border;
using kernels::InstanceNormParameters;
using nhwc::Bfloat;
using nhwc::Scaling;
using std::int64_t;

constexpr int64_t kRun = 4096;     // Floats of a run, unless one pixel has more: they stay in the first cache.
constexpr int64_t kRows = 1 << 16;  // Floats of a task's rows.

// Adds what a run's pixels are above the first ones, and its square.
GANTK_CLONES void add_moments(const float* values, int64_t pixels, int64_t channels, const float* first, float* sums,
                              float* squares) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel, values += channels)
        for (int64_t c = 0; c < channels; ++c) {
            const float above = values[c] - first[c];
            sums[c] += above;
            squares[c] += above * above;
        }
}

GANTK_CLONES void scale(float* values, int64_t pixels, int64_t channels, const Scaling& scaling) {
    const auto [means, factors, offsets, floor] = scaling;
    for (int64_t pixel = 0; pixel < pixels; ++pixel, values += channels)
        for (int64_t c = 0; c < channels; ++c) {
            const float value = (values[c] - means[c]) * factors[c] + offsets[c];
            values[c] = value < floor ? floor : value;  // NaN stays.
        }
}

GANTK_CLONES void add(const float* others, int64_t count, float* values) {
    for (int64_t i = 0; i < count; ++i) values[i] += others[i];
}

// Pictures that lie in blocks: where a pixel is, and how many lie one after another from there.
struct Blocks {
    int64_t columns, shift;  // Of blocks.

    int64_t at(int64_t y, int64_t x) const {
        const int64_t side = int64_t{1} << shift, inside = (y & (side - 1)) * side + (x & (side - 1));
        return ((y >> shift) * columns + (x >> shift)) * side * side + inside;
    }
    int64_t together(int64_t x, int64_t pixels) const {
        const int64_t side = int64_t{1} << shift;
        return shift == 0 ? pixels : std::min(pixels, side - (x & (side - 1)));
    }
};

class Norm {
  public:
    Norm(const kernels::InstanceNormPlan& plan, const kernels::NormData& data, Element element)
        : p_(plan.parameters),
          data_(data),
          element_(element),
          normalizes_(plan.normalizes),
          vectors_(element != Element::float16 && p_.channels % nhwc::kVector == 0),
          channels_(p_.channels),
          run_(std::max<int64_t>(1, kRun / channels_)),
          from_{p_.columns, p_.from_shift},
          to_{p_.result_columns, p_.to_shift},
          result_rows_(plan.result_shape[1] << p_.to_shift),
          rows_of_task_(divide_up(kRows, std::max<int64_t>(1, p_.width * channels_))),
          chunks_(divide_up(p_.height, rows_of_task_)) {
        factors_.assign(static_cast<std::size_t>(p_.pictures * channels_), 1.0f);
        means_.assign(factors_.size(), 0.0f);
    }

    // Means and squares of some rows each, then factors of all.
    void measure(const Parallel& parallel) {
        if (!normalizes_) return;
        std::vector<float> moments(static_cast<std::size_t>(2 * p_.pictures * chunks_ * channels_));
        for_each(parallel, p_.pictures * chunks_, [&](int64_t task) {
            measure_rows(task / chunks_, task % chunks_ * rows_of_task_, moments.data() + task * 2 * channels_);
        });
        for_each(parallel, p_.pictures, [&](int64_t picture) {
            join(picture, moments.data() + picture * chunks_ * 2 * channels_);
        });
    }

    int64_t row_groups() const { return divide_up(result_rows_, rows_of_task_); }
    std::size_t bytes() const { return static_cast<std::size_t>(2 * run_ * channels_) * sizeof(float); }

    void apply(int64_t task, float* memory) const {
        const int64_t picture = task / row_groups(), first = task % row_groups() * rows_of_task_;
        for (int64_t row = first; row < std::min(first + rows_of_task_, result_rows_); ++row)
            apply_row(picture, row, memory);
    }

  private:
    int64_t bytes_of_element() const { return kernels::element_bytes(element_); }
    int64_t whole_picture() const { return p_.picture_pixels * channels_; }

    void measure_rows(int64_t picture, int64_t first, float* moments) const {
        std::vector<float> values(static_cast<std::size_t>((run_ + 1) * channels_));
        float *const start = values.data() + run_ * channels_, *sums = moments, *squares = moments + channels_;
        const int64_t last = std::min<int64_t>(first + rows_of_task_, p_.height);
        widen(element_, data_.features, element_at(picture, first, 0), channels_, start);
        std::fill_n(moments, 2 * channels_, 0.0f);
        for (int64_t row = first; row < last; ++row)
            for (int64_t x = 0, pixels; x < p_.width; x += pixels) {
                pixels = from_.together(p_.left + x, std::min(run_, p_.width - x));
                const int64_t at = element_at(picture, row, x);
                if (vectors_ && element_ == Element::float32) {
                    measure_run<float>(at, pixels, start, moments);
                } else if (vectors_) {
                    measure_run<Bfloat>(at, pixels, start, moments);
                } else {
                    widen(element_, data_.features, at, pixels * channels_, values.data());
                    add_moments(values.data(), pixels, channels_, start, sums, squares);
                }
            }
        const float pixels = static_cast<float>((last - first) * p_.width);
        for (int64_t c = 0; c < channels_; ++c) {
            const float above = sums[c] / pixels;
            squares[c] = std::max(0.0f, squares[c] - above * sums[c]);  // About the rows' own mean.
            sums[c] = start[c] + above;
        }
    }

    template <typename Vectors>
    void measure_run(int64_t at, int64_t pixels, const float* start, float* moments) const {
        nhwc::loops<Vectors>().add_moments(static_cast<const Vectors*>(data_.features) + at, pixels, channels_, start,
                                           moments, moments + channels_);
    }

    int64_t element_at(int64_t picture, int64_t row, int64_t x) const {
        return picture * whole_picture() + from_.at(p_.top + row, p_.left + x) * channels_;
    }

    void join(int64_t picture, const float* moments) {
        const double all = static_cast<double>(p_.height) * p_.width;
        const auto pixels_of = [&](int64_t chunk) {
            return static_cast<double>(std::min<int64_t>(rows_of_task_, p_.height - chunk * rows_of_task_)) * p_.width;
        };
        for (int64_t c = 0; c < channels_; ++c) {
            double mean = 0, squares = 0;
            for (int64_t chunk = 0; chunk < chunks_; ++chunk)
                mean += moments[chunk * 2 * channels_ + c] * (pixels_of(chunk) / all);
            for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
                const double off = moments[chunk * 2 * channels_ + c] - mean;
                squares += moments[(chunk * 2 + 1) * channels_ + c] + off * off * pixels_of(chunk);
            }
            const double deviation = std::sqrt(squares / all + static_cast<double>(p_.epsilon));
            const auto at = static_cast<std::size_t>(picture * channels_ + c);
            means_[at] = static_cast<float>(mean);
            factors_[at] = static_cast<float>(data_.scale[picture * p_.scale_stride + c] / deviation);
        }
    }

    // The row or column that a place of the framed picture shows, or -1 where it is 0.
    int64_t source_of(int64_t at, int64_t border, int64_t size, int64_t framed) const {
        const int64_t inside = at - border;
        if (at >= framed) return -1;
        if (inside >= 0 && inside < size) return inside;
        switch (static_cast<Border>(p_.border)) {
            case Border::reflect:
                return inside < 0 ? -inside : 2 * size - 2 - inside;
            case Border::edge:
                return inside < 0 ? 0 : size - 1;
            case Border::constant:
                break;
        }
        return -1;
    }

    char* result_at(int64_t picture, int64_t row, int64_t x) const {
        return static_cast<char*>(data_.result) +
               (picture * p_.result_stride + to_.at(row, x) * channels_) * bytes_of_element();
    }

    void apply_row(int64_t picture, int64_t row, float* memory) const {
        const int64_t source = source_of(row, p_.border_top, p_.height, p_.framed_height);
        const int64_t wide = int64_t{p_.result_columns} << p_.to_shift;
        const std::size_t pixel_bytes = static_cast<std::size_t>(channels_ * bytes_of_element());
        if (source >= 0) compute_row(picture, row, source, memory);
        for (int64_t x = 0; x < wide; ++x) {
            if (source >= 0 && x == p_.border_left) x += p_.width;  // That much is done.
            if (x >= wide) break;
            const int64_t from = source < 0 ? -1 : source_of(x, p_.border_left, p_.width, p_.framed_width);
            if (from < 0)
                std::memset(result_at(picture, row, x), 0, pixel_bytes);
            else
                std::memcpy(result_at(picture, row, x), result_at(picture, row, p_.border_left + from), pixel_bytes);
        }
    }

    void compute_row(int64_t picture, int64_t row, int64_t source, float* values) const {
        float* const others = values + run_ * channels_;
        const Scaling scaling{means_.data() + picture * channels_, factors_.data() + picture * channels_,
                              data_.offset ? data_.offset + picture * p_.scale_stride : means_.data(),
                              p_.rectifies ? 0.0f : -std::numeric_limits<float>::infinity()};
        for (int64_t x = 0, pixels; x < p_.width; x += pixels) {
            pixels = from_.together(p_.left + x, std::min<int64_t>(run_, p_.width - x));
            pixels = to_.together(p_.border_left + x, pixels);
            const int64_t features = element_at(picture, source, x);
            const int64_t added = picture * p_.others_stride +
                                  ((p_.others_top + source) * p_.others_width + p_.others_left + x) * channels_;
            char* const result = result_at(picture, row, p_.border_left + x);
            if (vectors_ && element_ == Element::float32) {
                scale_run<float>(features, added, pixels, scaling, result);
                continue;
            }
            if (vectors_) {
                scale_run<Bfloat>(features, added, pixels, scaling, result);
                continue;
            }
            widen(element_, data_.features, features, pixels * channels_, values);
            if (normalizes_ || p_.rectifies || data_.offset)
                scale(values, pixels, channels_, scaling);
            if (data_.others != nullptr) {
                widen(element_, data_.others, added, pixels * channels_, others);
                add(others, pixels * channels_, values);
            }
            narrow(element_, values, pixels * channels_, result, 0);
        }
    }

    template <typename Vectors>
    void scale_run(int64_t features, int64_t added, int64_t pixels, const Scaling& scaling, char* result) const {
        const auto* const others = static_cast<const Vectors*>(data_.others);
        nhwc::loops<Vectors>().scale(static_cast<const Vectors*>(data_.features) + features,
                                     others ? others + added : nullptr, pixels, channels_, scaling,
                                     reinterpret_cast<Vectors*>(result));
    }

    const InstanceNormParameters& p_;
    const kernels::NormData& data_;
    Element element_;
    bool normalizes_, vectors_;  // Whether vectors are computed with as they are read.
    int64_t channels_, run_;
    Blocks from_, to_;
    int64_t result_rows_, rows_of_task_, chunks_;
    std::vector<float> means_, factors_;  // [pictures][channels]; of pixels that are only moved 0 and 1.
};

}  // namespace

void instance_norm(const kernels::InstanceNormPlan& plan, const kernels::NormData& data, Element element,
                   const Memory& memory, const Parallel& parallel) {
    Norm norm(plan, data, element);
    norm.measure(parallel);
    for_each_in_memory(parallel, memory, plan.parameters.pictures * norm.row_groups(), norm.bytes(),
                       [&](int64_t task, void* own) { norm.apply(task, static_cast<float*>(own)); });
}

}  // namespace gantk::cpu
