// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "gantk/backend.hpp"

namespace gantk::tensorrt {

// Loads an engine; `library()` must have been loaded and there must be a GPU. Threads may share the session: each run
// has a context of its own. On the caller's stream, runs from GPU memory to GPU memory are queued and not waited for.
// Throws Error where the library refuses the engine, or its tensors are not those of the manifest.
std::unique_ptr<Session> open_session(Model model, const Options& options);

}  // namespace gantk::tensorrt
