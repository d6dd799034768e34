// SPDX-License-Identifier: Apache-2.0
// The probe of a bundle: a few inputs with PyTorch's outputs, in a file of safetensors.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gantk/backend.hpp"

namespace gantk {

// The arrays of a file of safetensors, as views of its bytes, which need not be aligned. Throws Error where the bytes
// are no such file; `where` names it.
std::map<std::string, TensorView> read_safetensors(std::span<const std::byte> bytes, const std::string& where);

struct Probe {
  Bytes bytes;  // The views point into them.
  std::vector<TensorView> inputs, outputs;
};

// A bundle's probe for an engine, cut to a batch that the engine serves; nothing where it is for other inputs or none
// of its shapes is served.
std::optional<Probe> read_probe(const Bundle& bundle, const Model& model);

}  // namespace gantk
