// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime's types and errors, and ours.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <optional>
#include <string>

#include "gantk/tensor.hpp"

namespace gantk::onnxruntime {

ONNXTensorElementDataType element_of(DType dtype) noexcept;
std::optional<DType> dtype_of_element(ONNXTensorElementDataType element) noexcept;

// E.g. "INVALID_ARGUMENT : Got invalid dimensions ...", as its Python package says it, shortened.
std::string message_of(const Ort::Exception& error);

}  // namespace gantk::onnxruntime
