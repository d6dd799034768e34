// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string_view>

#include "gantk/manifest.hpp"

namespace gantk {

inline constexpr std::string_view manifest_name = "manifest.json";
inline constexpr std::array<std::string_view, 4> precisions = {"fp32", "fp16", "bf16", "int8"};
inline constexpr std::array<std::string_view, 5> forms = {"plain", "rewritten", "adam", "targets", "statistics"};

}  // namespace gantk
