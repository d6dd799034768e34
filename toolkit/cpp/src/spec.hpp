// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "gantk/spec.hpp"

namespace gantk {

inline constexpr std::int64_t size_limit = (std::int64_t{1} << 31) - 1;  // of an axis

// Reads the description of a tensor in a manifest; throws Error where a field is missing, of the wrong type or not
// allowed.
TensorSpec read_spec(const nlohmann::json& data);

std::string text_of(const Size& size);

}  // namespace gantk
