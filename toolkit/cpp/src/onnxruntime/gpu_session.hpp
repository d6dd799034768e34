// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "gantk/backend.hpp"

namespace gantk::onnxruntime {

// As `open_session`, on the first GPU. Runs follow each other on a stream of the session's, in the order of the
// caller's.
std::unique_ptr<Session> open_gpu_session(const Model& model, const Options& options);

}  // namespace gantk::onnxruntime
