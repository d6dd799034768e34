// SPDX-License-Identifier: Apache-2.0
// The inner loops of convolutions with channels last, compiled for several processors.
//
// A vector is 16 floats, or 16 channels of one pixel. Weights of up to kMostVectors of them lie as [pairs][vectors][16][2]:
// for a pair of channels, or of what is summed, and an output, two bfloat16 next to each other, which one instruction
// multiplies with two of a pixel and adds up.
#pragma once

#include <cstdint>

#include "nhwc.hpp"

namespace gantk::cpu::nhwc {

constexpr std::int64_t kVector = 16, kMostVectors = 4;
constexpr std::int64_t kReach = 6, kFrequencies = kReach * kReach, kSide = 4;

// Of one vector up to kMostVectors outputs, which one call sums.
constexpr std::int64_t vectors_of(std::int64_t outputs) { return divide_up(outputs, kVector); }

// What belongs to outputs: `bias` is padded to whole vectors.
struct Ending {
    const float* bias;
    float floor;  // The least that a result may be.
};

// Pixels that are summed: each has `segments` runs of 2 * `pairs` features, `stride` elements apart.
struct Runs {
    std::int64_t segments, stride, pairs;
};

// What normalises channels.
struct Scaling {
    const float *means, *factors, *offsets;
    float floor;
};

// Channels are multiples of kVector, but for those of `convolve`.
struct Loops {
    // Results of `count` pixels: `outputs` channels each, at `results`, from the features at `places`.
    void (*convolve)(const Bfloat* const* places, std::int64_t count, const Runs& runs, const Bfloat* weights,
                     std::int64_t outputs, const Ending& ending, Bfloat* const* results);

    // The product of `count` rows of 2 * `pairs` features, `stride` elements apart, with weights of `vectors`;
    // sums are `apart` floats apart.
    void (*multiply)(const Bfloat* rows, std::int64_t count, std::int64_t stride, std::int64_t pairs,
                     const Bfloat* weights, std::int64_t vectors, float* sums, std::int64_t apart);

    // B^T d B of the 6 x 6 pixels at `places`, for all channels; frequencies are `stride` elements apart.
    void (*transform_features)(const Bfloat* const* places, std::int64_t channels, Bfloat* frequencies,
                               std::int64_t stride);

    // A^T m A + bias of so many channels; sums of frequencies are `stride` floats apart. Of a transposed convolution
    // `phase` is 0 to 3, otherwise -1. Results go to 4 x 4 pixels; those that are null are dropped.
    void (*transform_sums)(const float* sums, std::int64_t stride, int phase, std::int64_t channels,
                           const Ending& ending, Bfloat* const* results);

    // Adds to each channel's sum what its values are above `first`, and to `squares` the square of that.
    void (*add_moments)(const Bfloat* values, std::int64_t pixels, std::int64_t channels, const float* first,
                        float* sums, float* squares);

    // (values - means) * factors + offsets, at least `floor`, + others unless they are null.
    void (*scale)(const Bfloat* values, const Bfloat* others, std::int64_t pixels, std::int64_t channels,
                  const Scaling& scaling, Bfloat* results);
};

// Those in use: the best for this processor, or what a test has chosen.
const Loops& loops();
void choose(const Loops& loops);

// What the loops are compiled to.
extern const Loops kPortableLoops;
#ifdef GANTK_HAS_AVX512
extern const Loops kAvx512Loops;
bool has_avx512();
#endif

}  // namespace gantk::cpu::nhwc
