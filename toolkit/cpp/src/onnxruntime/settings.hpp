// SPDX-License-Identifier: Apache-2.0
// How ONNX Runtime is told to run a file, as the operators of the file want it.
#pragma once

#include <onnxruntime_cxx_api.h>

#include "gantk/backend.hpp"

namespace gantk::onnxruntime {

// Of a session on the CPU, or, where there is a stream, on the GPU with all its work there. Throws Error where the
// library of native operators is missing or refused, or the CUDA provider does not work.
Ort::SessionOptions session_options(const Model& model, const Options& chosen, void* stream);

// Whether a file does the same every time, as a CUDA graph does.
bool repeats_itself(const Model& model);

}  // namespace gantk::onnxruntime
