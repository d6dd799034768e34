// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime/types.hpp"

#include <array>

#include "text.hpp"

namespace gantk::onnxruntime {
namespace {

// In the order of DType.
constexpr std::array<ONNXTensorElementDataType, 9> elements = {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,   ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,   ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL};

const char* name_of_code(OrtErrorCode code) {
  switch (code) {
    case ORT_INVALID_ARGUMENT: return "INVALID_ARGUMENT";
    case ORT_NO_SUCHFILE: return "NO_SUCHFILE";
    case ORT_NO_MODEL: return "NO_MODEL";
    case ORT_ENGINE_ERROR: return "ENGINE_ERROR";
    case ORT_RUNTIME_EXCEPTION: return "RUNTIME_EXCEPTION";
    case ORT_INVALID_PROTOBUF: return "INVALID_PROTOBUF";
    case ORT_MODEL_LOADED: return "MODEL_LOADED";
    case ORT_NOT_IMPLEMENTED: return "NOT_IMPLEMENTED";
    case ORT_INVALID_GRAPH: return "INVALID_GRAPH";
    case ORT_EP_FAIL: return "EP_FAIL";
    default: return "FAIL";
  }
}

}  // namespace

ONNXTensorElementDataType element_of(DType dtype) noexcept { return elements[static_cast<std::size_t>(dtype)]; }

std::optional<DType> dtype_of_element(ONNXTensorElementDataType element) noexcept {
  for (std::size_t i = 0; i < elements.size(); ++i) {
    if (elements[i] == element) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::string message_of(const Ort::Exception& error) {
  return shortened(std::string(name_of_code(error.GetOrtErrorCode())) + " : " + error.what());
}

}  // namespace gantk::onnxruntime
