// SPDX-License-Identifier: Apache-2.0
#include "nhwc_rounding.hpp"

#include <algorithm>
#include <cmath>

#include "clones.hpp"
#include "element.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;
using Vector = double;
#include "winograd_points.inl"

// A A^T times B^T B, element by element, of six frequencies in one direction.
struct Weighing {
    double between[kReach][kReach] = {};

    Weighing() {
        double back[kReach][kSide], made[kReach][kReach];  // Of each frequency, and of each feature.
        for (int64_t i = 0; i < kReach; ++i) {
            double one[kReach] = {};
            one[i] = 1;
            to_results(one, back[i]);
            to_frequencies(one, made[i]);
        }
        for (int64_t i = 0; i < kReach; ++i)
            for (int64_t j = 0; j < kReach; ++j) {
                double results = 0, features = 0;
                for (int64_t k = 0; k < kSide; ++k) results += back[i][k] * back[j][k];
                for (int64_t k = 0; k < kReach; ++k) features += made[k][i] * made[k][j];
                between[i][j] = results * features;
            }
    }

    double operator()(int a, int b) const {
        return between[a / kReach][b / kReach] * between[a % kReach][b % kReach];
    }
};

}  // namespace

// M = L L^T, with the order turned around: what e^T M e has of a frequency is the square of its own error and of some
// of each before it, times the diagonal of L.
Rounding::Rounding(const std::vector<int>& frequencies) : order_(frequencies) {
    static const Weighing weighing;
    std::stable_sort(order_.begin(), order_.end(), [](int a, int b) { return weighing(a, a) > weighing(b, b); });
    const std::size_t count = order_.size();
    factors_.assign(count * count, 0.0);
    std::vector<double> lower(count * count, 0.0);
    const auto at = [&](std::size_t row, std::size_t column) -> double& { return lower[row * count + column]; };
    for (std::size_t row = 0; row < count; ++row)
        for (std::size_t column = 0; column <= row; ++column) {
            double rest = weighing(order_[count - 1 - row], order_[count - 1 - column]);
            for (std::size_t k = 0; k < column; ++k) rest -= at(row, k) * at(column, k);
            at(row, column) = row == column ? std::sqrt(rest) : rest / at(column, column);
        }
    for (std::size_t place = 0; place < count; ++place)
        for (std::size_t before = 0; before < place; ++before) {
            const std::size_t row = count - 1 - before, column = count - 1 - place;
            factors_[place * count + before] = at(row, column) / at(column, column);
        }
}

void Rounding::round(const double (&weights)[kFrequencies], Bfloat (&rounded)[kFrequencies]) const {
    double errors[kFrequencies];
    for (std::size_t place = 0; place < order_.size(); ++place) {
        const int frequency = order_[place];
        double wanted = weights[frequency];
        for (std::size_t before = 0; before < place; ++before)
            wanted -= factors_[place * order_.size() + before] * errors[before];
        const float value = static_cast<float>(wanted);
        float kept;
        narrow(Element::bfloat16, &value, 1, &rounded[frequency], 0);
        widen(Element::bfloat16, &rounded[frequency], 0, 1, &kept);
        errors[place] = kept - weights[frequency];
    }
}

}  // namespace gantk::cpu::nhwc
