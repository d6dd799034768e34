// SPDX-License-Identifier: Apache-2.0
// The TensorRT engines of a bundle.
#pragma once

#include "gantk/manifest.hpp"
#include "json.hpp"

namespace gantk {

Engine read_engine(const Json& data);

// Refuses profiles that do not belong to the inputs of the engine's source.
void check_profiles(const Engine& engine, const Interface& interface);

}  // namespace gantk
