// SPDX-License-Identifier: Apache-2.0
// The library of native operators, which kernels/onnxruntime builds.
#pragma once

#include <cstdlib>

namespace gantk {

constexpr const char* operators_variable = "GANTK_ONNXRUNTIME_OPS";

// What the environment names; null if nothing.
inline const char* operators_library() {
  const char* named = ::secure_getenv(operators_variable);
  return named == nullptr || *named == '\0' ? nullptr : named;
}

}  // namespace gantk
