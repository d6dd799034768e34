// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "gantk/spec.hpp"

namespace gantk {

// Reads the description of a tensor in a manifest; throws Error where a field is missing, of the wrong type or not
// allowed.
TensorSpec read_spec(const nlohmann::json& data);

std::string text_of(const Size& size);

}  // namespace gantk
