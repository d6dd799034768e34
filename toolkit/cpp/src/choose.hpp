// SPDX-License-Identifier: Apache-2.0
// Which file of a bundle a backend should run.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "gantk/backend.hpp"

namespace gantk {

// Refuses a value that is not among those allowed; an empty one passes.
void check_choice(std::string_view what, std::string_view value, std::span<const std::string_view> allowed);

// What is run where nobody says: fp32 where the bundle has it, else what it has first.
std::string default_precision(const Bundle& bundle);

// The variant of a precision (by default fp32 where there is one, else the first) and form (by default the one
// measured fastest on `backend` and `device`, which with native operators may be one of theirs, else plain, and none
// whose inputs and outputs are not the bundle's). An empty `backend` asks only whether there is one.
const Variant& choose(const Bundle& bundle, std::string precision, const std::string& form, std::string_view backend,
                      Device device = Device::cpu, bool has_operators = false);

// Reads and checks the file of a variant; throws Error where `backend` was seen to compute it wrong on `device`.
Model load(const Bundle& bundle, const Variant& variant, std::string_view backend, Device device);

}  // namespace gantk
