// SPDX-License-Identifier: Apache-2.0
// How ONNX Runtime is told to run a file, as the operators of the file want it.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <string>

#include "gantk/backend.hpp"

namespace gantk::onnxruntime {

// Of a session on the CPU, or, where there is a stream, on the GPU with all its work there. Throws Error where the
// library of native operators is missing or refused, or the CUDA provider does not work.
Ort::SessionOptions session_options(const Model& model, const Options& chosen, void* stream);

// Whether what a version enqueues of a file can be a CUDA graph, and the file does the same every time.
bool can_be_replayed(const Model& model, const std::string& version);

}  // namespace gantk::onnxruntime
