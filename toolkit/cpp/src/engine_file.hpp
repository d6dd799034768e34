// SPDX-License-Identifier: Apache-2.0
// Which engine of a bundle runs on a GPU: everything that can be checked without the vendor's library.
#pragma once

#include <string>

#include "gantk/backend.hpp"

namespace gantk {

// Chooses an engine that `backend` built in the version that is `installed` for `target`, and reads and checks its file. Throws Error where
// there is none, its file is damaged, or a plugin library that it wants cannot be loaded: says what there is.
Model load_engine(const Bundle& bundle, const std::string& backend, const std::string& installed,
                  const std::string& target, const std::string& precision, const std::string& form);

}  // namespace gantk
