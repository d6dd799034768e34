// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime/network.hpp"

#include <mutex>
#include <set>
#include <shared_mutex>

#include "gantk/error.hpp"
#include "onnxruntime/interface.hpp"
#include "onnxruntime/settings.hpp"

namespace gantk::onnxruntime {
namespace {

const Ort::Env& environment() {
  // Errors only; they come as exceptions. Never destroyed: sessions of other static objects may outlive it.
  static auto& env = *new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "gantk");
  env.DisableTelemetryEvents();  // As far as that goes: see README.md.
  return env;
}

// The first session that brings a library's operators enters their domain into a table of the whole process, which
// every session reads while it is made. ONNX Runtime has no lock for that: the first one is made alone.
Ort::Session make_session(const Model& model, const Ort::SessionOptions& options, const std::string& operators) {
  static auto& table = *new std::shared_mutex;
  static auto& entered = *new std::set<std::string>{""};  // the libraries whose domains it has, or none
  const auto make = [&] { return Ort::Session(environment(), model.bytes.view().data(), model.bytes.size(), options); };
  {
    const std::shared_lock beside_others(table);
    if (entered.contains(operators)) return make();
  }
  const std::unique_lock alone(table);
  Ort::Session made = make();
  entered.insert(operators);
  return made;
}

Ort::Session load(const Model& model, const Options& chosen, void* stream) {
  environment();  // First: the CUDA provider is loaded with its options, and wants a log to write to.
  const Ort::SessionOptions options = session_options(model, chosen, stream);
  try {
    return make_session(model, options, chosen.operators);
  } catch (const Ort::Exception& error) {
    throw Error("ONNX Runtime cannot load `" + model.where + "`: " + message_of(error), model.where);
  }
}

}  // namespace

Network::Network(const Model& model, const Options& chosen, void* stream)
    : where(model.where), interface(model.interface), session(load(model, chosen, stream)) {
  check_interface(session, model);
  for (const TensorSpec& spec : interface.inputs) inputs.push_back(spec.name.c_str());
  for (const TensorSpec& spec : interface.outputs) outputs.push_back(spec.name.c_str());
}

const Ort::MemoryInfo& memory_of(Device device) {
  static const auto& here = *new auto(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault));
  static const auto& there = *new Ort::MemoryInfo("Cuda", OrtDeviceAllocator, 0, OrtMemTypeDefault);
  return device == Device::cpu ? here : there;
}

Ort::Value wrap(const TensorView& view) {
  // Inputs are only read, which ONNX Runtime's signature cannot say.
  const auto sizes = view.shape.sizes();
  return Ort::Value::CreateTensor(memory_of(view.device), const_cast<void*>(view.data), view.size_bytes(), sizes.data(),
                                  sizes.size(), element_of(view.dtype));
}

Tensor take(Ort::Value value, Device place) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  const auto dtype = dtype_of_element(info.GetElementType());
  if (!dtype) throw std::runtime_error("an output is of a type that gantk does not know");
  const MutableTensorView view{value.GetTensorMutableRawData(), *dtype, Shape(info.GetShape()), place};
  return Tensor(view, [raw = value.release()](void*) { Ort::GetApi().ReleaseValue(raw); });
}

}  // namespace gantk::onnxruntime
