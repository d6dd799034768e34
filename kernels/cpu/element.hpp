// SPDX-License-Identifier: Apache-2.0
// The types that tensors come in. Kernels compute in float32: they widen what they read and narrow what they
// write.
#pragma once

#include <cstddef>
#include <cstdint>

#include <gantk/kernels/launch.hpp>

namespace gantk::cpu {

using kernels::Element;

// Reads `count` elements of `from`, beginning with the one numbered `first`.
void widen(Element element, const void* from, std::int64_t first, std::int64_t count, float* to);

// Writes `count` elements of `to`, beginning with the one numbered `first`, rounded to nearest, ties to even.
void narrow(Element element, const float* from, std::int64_t count, void* to, std::int64_t first);

}  // namespace gantk::cpu
