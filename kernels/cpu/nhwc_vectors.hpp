// SPDX-License-Identifier: Apache-2.0
// The vectors that loops with channels last work on: one AVX-512 register each, or two of AVX, or four. In memory they
// may stand at any address that their elements may.
#pragma once

#include <cstdint>

#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {

using Floats __attribute__((vector_size(kVector * sizeof(float)))) = float;
using Words __attribute__((vector_size(kVector * sizeof(float)))) = std::uint32_t;  // Two bfloat16 each.
using Halves __attribute__((vector_size(kVector * sizeof(Bfloat)))) = Bfloat;

using StoredFloats __attribute__((vector_size(kVector * sizeof(float)), aligned(alignof(float)), may_alias)) = float;
using StoredWords
    __attribute__((vector_size(kVector * sizeof(float)), aligned(alignof(Bfloat)), may_alias)) = std::uint32_t;
using StoredHalves
    __attribute__((vector_size(kVector * sizeof(Bfloat)), aligned(alignof(Bfloat)), may_alias)) = Bfloat;
using StoredWord __attribute__((aligned(alignof(Bfloat)), may_alias)) = std::uint32_t;

}  // namespace gantk::cpu::nhwc
