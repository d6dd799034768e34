// SPDX-License-Identifier: Apache-2.0
// How far outputs may be from their reference: the twin of gantk/runtime/parity.py.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gantk/spec.hpp"
#include "gantk/tensor.hpp"

namespace gantk {

// Why an output of a file of a precision, of a network of a family, is wrong, in words; empty where it is right. Both are
// in main memory.
std::string fault_of(const TensorView& output, const TensorView& reference, const TensorSpec& spec,
                     std::string_view precision, std::string_view family);

}  // namespace gantk
