// SPDX-License-Identifier: Apache-2.0
// The TensorRT engines of a bundle.
#pragma once

#include <array>
#include <string_view>

#include "gantk/manifest.hpp"
#include "json.hpp"

namespace gantk {

// What engines compute in: "tf32" is a way to compute fp32 files.
inline constexpr std::array<std::string_view, 6> engine_precisions = {"fp32", "tf32", "fp16", "bf16", "int8", "fp8"};

Engine read_engine(const Json& data);

// Refuses profiles that do not belong to the inputs of the engine's source.
void check_profiles(const Engine& engine, const Interface& interface);

}  // namespace gantk
