// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "gantk/backend.hpp"

namespace gantk::onnxruntime {

// Loads a model into an inference session, which threads may share; `library()` must have been loaded. Throws Error
// where ONNX Runtime refuses the file, or the file's inputs and outputs are not those of the manifest.
std::unique_ptr<Session> open_session(Model model, Device device, const Options& options);

}  // namespace gantk::onnxruntime
