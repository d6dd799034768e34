// SPDX-License-Identifier: Apache-2.0
// Whether an engine computes what it should, found out when it is first opened on a kind of GPU.
#pragma once

#include <string>

#include "gantk/backend.hpp"

namespace gantk {

// Compares an engine that no machine has verified with its probe. The verdict is remembered in the user's cache, where
// Python's runner finds it too. False where it could not be told: there is no probe of a shape that it serves. Throws Error where the outputs are wrong, now or when the engine was opened before.
bool check_once(const Session& session, const Model& model, const Bundle& bundle, const std::string& target);

}  // namespace gantk
