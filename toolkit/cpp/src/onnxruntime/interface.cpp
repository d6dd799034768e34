// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime/interface.hpp"

#include <algorithm>

#include "gantk/error.hpp"
#include "onnxruntime/types.hpp"
#include "text.hpp"

namespace gantk::onnxruntime {
namespace {

std::string name_of_type(const Ort::TypeInfo& info) {
  if (info.GetONNXType() != ONNX_TYPE_TENSOR) return "no tensor";
  const auto element = info.GetTensorTypeAndShapeInfo().GetElementType();
  const auto dtype = dtype_of_element(element);
  return dtype ? std::string(name_of(*dtype)) : "type " + std::to_string(element);
}

void compare(const Model& model, const char* kind, std::vector<std::string> found,
             const std::vector<TensorSpec>& specs) {
  std::vector<std::string> declared;
  for (const TensorSpec& spec : specs) declared.push_back(spec.name + ": " + std::string(name_of(spec.dtype)));
  const std::string listed = join(found), wanted = join(declared);
  std::sort(found.begin(), found.end());
  std::sort(declared.begin(), declared.end());
  if (found == declared) return;
  throw Error(
      "`" + model.where + "` has " + kind + " " + (found.empty() ? "none" : listed) + "; declared are " + wanted,
      model.where, "the manifest does not belong to this file; export the bundle again");
}

}  // namespace

void check_interface(Ort::Session& session, const Model& model) {
  Ort::AllocatorWithDefaultOptions memory;
  std::vector<std::string> inputs, outputs;
  for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
    inputs.push_back(std::string(session.GetInputNameAllocated(i, memory).get()) + ": " +
                     name_of_type(session.GetInputTypeInfo(i)));
  }
  for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
    outputs.push_back(std::string(session.GetOutputNameAllocated(i, memory).get()) + ": " +
                      name_of_type(session.GetOutputTypeInfo(i)));
  }
  compare(model, "inputs", std::move(inputs), model.interface.inputs);
  compare(model, "outputs", std::move(outputs), model.interface.outputs);
}

}  // namespace gantk::onnxruntime
