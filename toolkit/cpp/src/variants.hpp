// SPDX-License-Identifier: Apache-2.0
// The ONNX files of a bundle, and how far each is from PyTorch.
#pragma once

#include <array>
#include <string_view>

#include "gantk/manifest.hpp"
#include "json.hpp"

namespace gantk {

inline constexpr std::array<std::string_view, 5> precisions = {"fp32", "fp16", "bf16", "int8", "fp8"};
inline constexpr std::array<std::string_view, 5> forms = {"plain", "rewritten", "adam", "targets", "statistics"};

Parity read_parity(const Json& data);
Interface read_interface(const Json& data);
Variant read_variant(const Json& data);

}  // namespace gantk
