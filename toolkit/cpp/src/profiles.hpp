// SPDX-License-Identifier: Apache-2.0
// Which profile of an engine serves the shapes that come, and whether the engine is the one that was declared.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "gantk/backend.hpp"

namespace gantk {

// The index of the first profile that serves the inputs, which are in the order of the model's. Throws Error where none
// does: the ranges are told.
std::size_t choose_profile(const Model& model, std::span<const TensorView> inputs);

// A tensor that the vendor's library found in an engine.
struct FoundTensor {
  std::string name, dtype;
  bool is_input, on_gpu;
};

// Throws Error where an engine's tensors or profiles are not those that its manifest declares, or are not on the GPU.
void check_engine(const Model& model, const std::vector<FoundTensor>& found, std::size_t profiles);

}  // namespace gantk
