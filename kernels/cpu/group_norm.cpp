// SPDX-License-Identifier: Apache-2.0
// Moments are those of *rows*: as few neighbouring pixels as have whole vectors of values together.
#include "group_norm.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "affine.hpp"
#include "nhwc_loops.hpp"

namespace gantk::cpu {
namespace {

using nhwc::Bfloat;
using std::int64_t;

constexpr int64_t kRun = 4096;      // Values that are summed at a time, unless a row has more.
constexpr int64_t kTask = 1 << 16;  // Of a task.

// What some pixels of one group come to.
struct Moments {
    double mean = 0, squares = 0;  // About the mean.
};

// T is float or Bfloat, which are computed with where they lie; float16 is widened to float run by run.
template <typename T>
class Measure {
  public:
    Measure(const GroupNorm& shape, const void* features)
        : s_(shape),
          features_(features),
          widens_(shape.element == Element::float16),
          period_(nhwc::kVector / std::gcd(nhwc::kVector, shape.channels)),
          row_(period_ * shape.channels),
          run_(std::max<int64_t>(kRun / row_, 1) * row_),
          task_(std::max<int64_t>(kTask / row_, 1) * period_),
          tasks_(divide_up(shape.pixels, task_)),
          found_(static_cast<std::size_t>(shape.count * tasks_ * shape.groups)) {}

    int64_t tasks() const { return s_.count * tasks_; }

    void measure(int64_t task) {
        const int64_t picture = task / tasks_, first = task % tasks_ * task_;
        const int64_t pixels = pixels_of(task % tasks_), at = (picture * s_.pixels + first) * s_.channels;
        Sums sums(*this, at);
        const int64_t count = pixels * s_.channels, whole = count / row_ * row_;
        for (int64_t done = 0; done < whole; done += run_) add(at + done, std::min(run_, whole - done), sums);
        if (whole < count) add_rest(at + whole, count - whole, sums);
        Moments* const found = found_.data() + task * s_.groups;
        for (int64_t group = 0; group < s_.groups; ++group) found[group] = moments(group, sums, pixels);
    }

    // Factors and offsets [count, channels], from all that was measured.
    void join(int64_t picture, const GroupNormTensors& tensors, float* factors, float* offsets) const {
        const int64_t channels = s_.channels / s_.groups;
        for (int64_t group = 0; group < s_.groups; ++group) {
            const Moments whole = joined(picture, group);
            const double values = static_cast<double>(s_.pixels) * static_cast<double>(channels);
            const double deviation = std::sqrt(whole.squares / values + static_cast<double>(s_.epsilon));
            for (int64_t c = group * channels; c < (group + 1) * channels; ++c) {
                const auto factor = static_cast<float>(tensors.scale[c] / deviation);
                factors[picture * s_.channels + c] = factor;
                // With the factor as it is rounded, so that a large mean does not show that.
                offsets[picture * s_.channels + c] = static_cast<float>(tensors.offset[c] - whole.mean * factor);
            }
        }
    }

  private:
    static constexpr bool kWide = std::is_same_v<T, float>;

    // Of the values of a row, what they are above those of the first pixel, and its square.
    struct Sums {
        std::vector<T> row, run;  // The first pixel again and again, and what cannot be read where it lies.
        std::vector<float> first, sums, squares;

        Sums(const Measure& measure, int64_t at)
            : row(measure.size(measure.row_)),
              run(measure.size(measure.widens_ ? measure.run_ : 0)),
              first(row.size()),
              sums(row.size()),
              squares(row.size()) {
            const int64_t channels = measure.s_.channels;
            std::copy_n(measure.read(at, channels, run), channels, row.data());
            for (int64_t pixel = 1; pixel < measure.period_; ++pixel)
                std::copy_n(row.data(), channels, row.data() + pixel * channels);
            widen(nhwc::kElement<T>, row.data(), 0, measure.row_, first.data());
        }
    };

    static std::size_t size(int64_t count) { return static_cast<std::size_t>(count); }

    // Of a task of a picture.
    int64_t pixels_of(int64_t task) const { return std::min(task_, s_.pixels - task * task_); }

    const T* read(int64_t at, int64_t count, std::vector<T>& room) const {
        if constexpr (kWide)
            if (widens_) {
                widen(s_.element, features_, at, count, room.data());
                return room.data();
            }
        return static_cast<const T*>(features_) + at;
    }

    void add(int64_t at, int64_t count, Sums& sums) const { add(read(at, count, sums.run), count / row_, sums); }

    // Less than a row: the others are what the first pixel is, and add nothing.
    void add_rest(int64_t at, int64_t count, Sums& sums) const {
        std::copy_n(read(at, count, sums.run), count, sums.row.data());
        add(sums.row.data(), 1, sums);
    }

    void add(const T* values, int64_t rows, Sums& sums) const {
        loops_.add_moments(values, rows, row_, sums.first.data(), sums.sums.data(), sums.squares.data());
    }

    // Of a group of a task, whose channels have a first value each.
    Moments moments(int64_t group, const Sums& sums, int64_t pixels) const {
        const int64_t channels = s_.channels / s_.groups;
        const double each = 1 / static_cast<double>(pixels);
        double mean = 0, squares = 0, about = 0;
        const auto mean_of = [&](int64_t channel) {
            return static_cast<double>(sums.first[size(channel)]) + total(sums.sums, channel) * each;
        };
        for (int64_t c = group * channels; c < (group + 1) * channels; ++c) mean += mean_of(c);
        mean /= static_cast<double>(channels);
        for (int64_t c = group * channels; c < (group + 1) * channels; ++c) {
            const double above = total(sums.sums, c), off = mean_of(c) - mean;
            squares += std::max(0.0, total(sums.squares, c) - above * above * each);
            about += off * off;
        }
        return {mean, squares + about * static_cast<double>(pixels)};
    }

    // Of a channel, of all pixels of a row.
    double total(const std::vector<float>& sums, int64_t channel) const {
        double all = 0;
        for (int64_t at = channel; at < row_; at += s_.channels) all += static_cast<double>(sums[size(at)]);
        return all;
    }

    // Of a group of a whole picture.
    Moments joined(int64_t picture, int64_t group) const {
        const Moments* const found = found_.data() + picture * tasks_ * s_.groups + group;
        const auto channels = static_cast<double>(s_.channels / s_.groups), all = static_cast<double>(s_.pixels);
        Moments whole;
        for (int64_t task = 0; task < tasks_; ++task)
            whole.mean += found[task * s_.groups].mean * (static_cast<double>(pixels_of(task)) / all);
        for (int64_t task = 0; task < tasks_; ++task) {
            const auto [mean, squares] = found[task * s_.groups];
            const double off = mean - whole.mean;
            whole.squares += squares + off * off * static_cast<double>(pixels_of(task)) * channels;
        }
        return whole;
    }

    const GroupNorm& s_;
    const void* features_;
    const nhwc::Loops<T>& loops_ = nhwc::loops<T>();
    bool widens_;
    int64_t period_, row_, run_;  // Pixels of a row, and values of it and of a run.
    int64_t task_, tasks_;        // Pixels of a task, and tasks of a picture.
    std::vector<Moments> found_;  // [count][tasks][groups].
};

template <typename T>
void factors_and_offsets(const GroupNorm& shape, const GroupNormTensors& tensors, const Parallel& parallel,
                         float* factors, float* offsets) {
    Measure<T> measure(shape, tensors.features);
    for_each(parallel, measure.tasks(), [&](int64_t task) { measure.measure(task); });
    for_each(parallel, shape.count, [&](int64_t picture) { measure.join(picture, tensors, factors, offsets); });
}

}  // namespace

void group_norm(const GroupNorm& shape, const GroupNormTensors& tensors, const Parallel& parallel) {
    std::vector<float> factors(static_cast<std::size_t>(shape.count * shape.channels)), offsets(factors.size());
    const auto find = shape.element == Element::bfloat16 ? factors_and_offsets<Bfloat> : factors_and_offsets<float>;
    find(shape, tensors, parallel, factors.data(), offsets.data());
    Affine pass{shape.element, shape.count, shape.pixels, shape.channels};
    pass.own_factors = pass.own_offsets = true;
    pass.silu = shape.silu;
    affine(pass, {tensors.features, tensors.result, factors.data(), offsets.data()}, parallel);
}

}  // namespace gantk::cpu
