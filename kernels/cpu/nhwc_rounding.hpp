// SPDX-License-Identifier: Apache-2.0
// Transformed weights in bfloat16 whose errors cancel where they can.
//
// An error e of the frequencies of a kernel, by which features of variance 1 are multiplied, adds e^T M e to the
// square of the error of 4 x 4 results, where M is the element by element product of A A^T and B^T B, for rows and
// for columns. M is far from diagonal. So frequencies are rounded one by one, each to where it makes up best for
// those before it (Babai's nearest plane, Combinatorica 6, 1986), those that weigh most first: of the square that is
// left by rounding each to its nearest this leaves 0.4.
#pragma once

#include <vector>

#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {

class Rounding {
  public:
    // Of a kernel that has products for so many of all frequencies.
    explicit Rounding(const std::vector<int>& frequencies);

    // Frequencies without a product stay as they are.
    void round(const double (&weights)[kFrequencies], Bfloat (&rounded)[kFrequencies]) const;

  private:
    std::vector<int> order_;        // In which they are rounded.
    std::vector<double> factors_;   // [place in order_][place before it]: of the error there, what is made up for.
};

}  // namespace gantk::cpu::nhwc
