// SPDX-License-Identifier: Apache-2.0
// The library of native operators, which kernels/onnxruntime builds.
#pragma once

#include <cstdlib>
#include <string>

namespace gantk {

constexpr const char* operators_variable = "GANTK_ONNXRUNTIME_OPS";

// What the environment names; null where it names none. Nothing behind the `=` is a name: that of no library.
inline const char* operators_by_user() { return ::secure_getenv(operators_variable); }

// The library that sessions use, empty for none: what the environment says, else what the application does.
inline std::string operators_library(const std::string& by_application) {
  const char* by_user = operators_by_user();
  return by_user == nullptr ? by_application : by_user;
}

}  // namespace gantk
