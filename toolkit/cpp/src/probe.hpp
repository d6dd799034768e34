// SPDX-License-Identifier: Apache-2.0
// Probes: a few inputs of a network and what it makes of them, in files of safetensors.
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

// The file of the probe that an engine of a bundle is judged by: its own, else the bundle's, where it has one.
const std::optional<FileRef>& probe_file(const Bundle& bundle, const Engine& engine);

// What an engine takes and yields of its probe, cut to a batch that it serves; nothing where there is none of a shape
// that it serves, or it is for other inputs.
std::optional<Probe> read_probe(const Bundle& bundle, const Model& model);

}  // namespace gantk
