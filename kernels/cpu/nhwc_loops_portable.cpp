// SPDX-License-Identifier: Apache-2.0
// For any processor.
#include "clones.hpp"
#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

#define GANTK_ENTRY
#define GANTK_TARGET GANTK_ENTRY __attribute__((always_inline))

#ifdef __aarch64__  // 32 registers; compilers put vectors of two of them into memory.
constexpr int kLanes = 4, kMostAtOnce = 4, kMostSums = 24;
#else
constexpr int kLanes = 8, kMostAtOnce = 2, kMostSums = 12;
#endif
#include "nhwc_vectors.inl"
#include "nhwc_loops_widened.inl"

}  // namespace

const Processor kPortable{"portable", [] { return true; }, floats::kLoops, bfloats::kLoops};

}  // namespace gantk::cpu::nhwc
