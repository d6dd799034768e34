// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime: the default backend, on CPUs and NVIDIA GPUs.
#pragma once

#include <memory>

#include "gantk/backend.hpp"

namespace gantk::onnxruntime {

std::unique_ptr<Backend> make_backend();

}  // namespace gantk::onnxruntime
