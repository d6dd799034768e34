// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <onnxruntime_cxx_api.h>

#include "gantk/backend.hpp"

namespace gantk::onnxruntime {

// Refuses a file whose inputs and outputs, name and dtype, are not those that its manifest declares.
void check_interface(Ort::Session& session, const Model& model);

}  // namespace gantk::onnxruntime
