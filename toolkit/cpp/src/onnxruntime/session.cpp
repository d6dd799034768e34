// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime/session.hpp"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <stdexcept>

#include "gantk/error.hpp"
#include "onnx_file.hpp"
#include "onnxruntime/interface.hpp"
#include "onnxruntime/types.hpp"
#include "operators.hpp"
#include "text.hpp"

namespace gantk::onnxruntime {
namespace {

const Ort::Env& environment() {
  // Errors only; they come as exceptions. Never destroyed: sessions of other static objects may outlive it.
  static const auto& env = *new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "gantk");
  return env;
}

// As gantk/runtime/backends/onnxruntime_settings.py has them.
constexpr std::array both_layouts = {"Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool", "Gemm"};
constexpr std::array one_layout = {"InstanceNormalization", "Pad", "Resize", "DepthToSpace"};

// Whether convolutions follow each other without operators between that want channels first.
bool suits_channels_last(const Model& model) {
  const auto kinds = operators_of(model.bytes.view());
  const auto has = [&](const char* kind) { return kinds.contains(kind); };
  return std::any_of(both_layouts.begin(), both_layouts.end(), has) &&
         std::none_of(one_layout.begin(), one_layout.end(), has);
}

// CUDA's default stream. Callers without streams work there; a stream that the provider made would not wait for them.
// The value is that of cudaStreamLegacy, whose header is not wanted here.
void* default_stream() { return reinterpret_cast<void*>(std::uintptr_t{1}); }

void add_cuda(Ort::SessionOptions& options, const Model& model, void* stream) {
  OrtCUDAProviderOptionsV2* cuda = nullptr;
  Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&cuda));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> owner(
      cuda, [](OrtCUDAProviderOptionsV2* taken) { Ort::GetApi().ReleaseCUDAProviderOptions(taken); });
  // Its default computes fp32 files with 10-bit mantissas; without, some convolutions of halves do without tensor cores
  // too. What cuDNN recommends was about as fast on an H100 as what is found by trying all.
  const bool halves = model.precision == "fp16" || model.precision == "bf16";
  const char* const keys[] = {"use_tf32", "cudnn_conv_algo_search", "prefer_nhwc"};
  const bool channels_last = model.channels_last || suits_channels_last(model);
  const char* const values[] = {halves ? "1" : "0", "HEURISTIC", channels_last ? "1" : "0"};
  Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptions(cuda, keys, values, std::size(keys)));
  void* const chosen = stream == nullptr ? default_stream() : stream;
  Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptionsWithValue(cuda, "user_compute_stream", chosen));
  options.AppendExecutionProvider_CUDA_V2(*cuda);
}

// ONNX Runtime takes them in place of the portable bodies that a file has for nodes of the domain `gantk`.
void add_operators(Ort::SessionOptions& options, Device device, const std::string& library) {
  if (library.empty()) return;
  if (std::error_code fault; !std::filesystem::is_regular_file(library, fault)) {
    const bool by_user = operators_by_user() != nullptr;
    throw Error("`" + library + "`, the library of native operators, does not exist",
                by_user ? operators_variable : "operators",
                "build it (kernels/onnxruntime/README.md), or " +
                    std::string(by_user ? "set the variable to nothing" : "leave the option empty") +
                    ": the file's own bodies do without");
  }
  // Some of them are for CPUs alone.
  if (device == Device::cuda) options.AddConfigEntry("gantk.cpu_only", "0");
  try {
    options.RegisterCustomOpsLibrary(std::filesystem::absolute(library).c_str());
  } catch (const Ort::Exception& error) {
    throw Error("ONNX Runtime cannot load the operators of `" + library + "`: " + message_of(error), library,
                "build them again (kernels/onnxruntime/README.md), or do without: " + std::string(operators_variable) +
                    "=");
  }
}

Ort::SessionOptions session_options(const Model& model, Device device, const Options& chosen) {
  Ort::SessionOptions options;
  add_operators(options, device, chosen.operators);
  options.SetIntraOpNumThreads(chosen.threads);
  options.SetExecutionMode(ORT_SEQUENTIAL);
  // A pattern is one more block for all tensors of a run, beside those that the arena had given to the first run.
  options.DisableMemPattern();
  options.SetLogSeverityLevel(4);  // Errors come as exceptions.
  // Further optimisations take fp8 for uint8: they drop ReLUs before a rounding, and fuse layers into int8 ones.
  if (model.precision == "fp8") options.SetGraphOptimizationLevel(ORT_ENABLE_BASIC);
  if (device == Device::cuda) {
    try {
      add_cuda(options, model, chosen.stream);
    } catch (const Ort::Exception& error) {
      throw Error("onnxruntime cannot use CUDAExecutionProvider here: " + message_of(error), {},
                  "pip install 'onnxruntime-gpu[cuda,cudnn]'; device='cpu' works without", ErrorKind::backend_missing);
    }
  }
  return options;
}

Ort::Session load(const Model& model, const Ort::SessionOptions& options) {
  try {
    return Ort::Session(environment(), model.bytes.view().data(), model.bytes.size(), options);
  } catch (const Ort::Exception& error) {
    throw Error("ONNX Runtime cannot load `" + model.where + "`: " + message_of(error), model.where);
  }
}

// Takes the array that ONNX Runtime made, with its memory.
Tensor take(Ort::Value value) {
  const auto info = value.GetTensorTypeAndShapeInfo();
  const auto dtype = dtype_of_element(info.GetElementType());
  if (!dtype) throw std::runtime_error("an output is of a type that gantk does not know");
  const auto place =
      value.GetTensorMemoryInfo().GetDeviceType() == OrtMemoryInfoDeviceType_GPU ? Device::cuda : Device::cpu;
  const MutableTensorView view{value.GetTensorMutableRawData(), *dtype, Shape(info.GetShape()), place};
  return Tensor(view, [raw = value.release()](void*) { Ort::GetApi().ReleaseValue(raw); });
}

class OrtNetwork : public Session {
 public:
  OrtNetwork(const Model& model, Device device, const Options& options)
      : device_(device), interface_(model.interface), session_(load(model, session_options(model, device, options))) {
    check_interface(session_, model);
    for (const TensorSpec& spec : interface_.inputs) inputs_.push_back(spec.name.c_str());
    for (const TensorSpec& spec : interface_.outputs) outputs_.push_back(spec.name.c_str());
  }

  void run(std::span<const TensorView> inputs, std::span<Slot> slots) const override {
    guard([&] { device_ == Device::cpu ? run_here(inputs, slots) : run_bound(inputs, slots); });
  }

  std::unique_ptr<Binding> bind(std::span<const TensorView> inputs, std::span<Slot> slots) const override;

 private:
  class Bound;

  template <class Work>
  static void guard(Work work) {
    try {
      work();
    } catch (const Ort::Exception& error) {
      throw std::runtime_error(message_of(error));
    }
  }

  void run_here(std::span<const TensorView> inputs, std::span<Slot> slots) const;
  void run_bound(std::span<const TensorView> inputs, std::span<Slot> slots) const;
  void bind_outputs(Ort::IoBinding& binding, std::span<const Slot> slots, bool on_gpu) const;
  Ort::Value wrap(const BasicView<const void>& view) const;

  Device device_;
  Interface interface_;  // The names below point into it.
  std::vector<const char*> inputs_, outputs_;
  // ONNX Runtime's own functions for running are not const, and are thread-safe.
  mutable Ort::Session session_;
  mutable std::mutex turn_;
  Ort::MemoryInfo here_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  Ort::MemoryInfo there_{"Cuda", OrtDeviceAllocator, 0, OrtMemTypeDefault};
};

Ort::Value OrtNetwork::wrap(const BasicView<const void>& view) const {
  // Inputs are only read, which ONNX Runtime's signature cannot say.
  const auto sizes = view.shape.sizes();
  return Ort::Value::CreateTensor(view.device == Device::cpu ? here_ : there_, const_cast<void*>(view.data),
                                  view.size_bytes(), sizes.data(), sizes.size(), element_of(view.dtype));
}

// On a CPU: feeds and memory for results go straight into one call.
void OrtNetwork::run_here(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  thread_local std::vector<Ort::Value> feeds, results;
  thread_local std::vector<const char*> names;
  feeds.clear(), results.clear(), names.clear();
  for (const TensorView& input : inputs) feeds.push_back(wrap(input));
  for (const Slot& slot : slots) {
    names.push_back(outputs_[slot.index]);
    results.push_back(slot.memory.data == nullptr ? Ort::Value(nullptr) : wrap(slot.memory));
  }
  session_.Run(Ort::RunOptions(nullptr), inputs_.data(), feeds.data(), feeds.size(), names.data(), results.data(),
               results.size());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].memory.data == nullptr) slots[i].fresh = take(std::move(results[i]));
  }
}

// On a GPU: bound, so that fresh outputs stay where the inputs are.
void OrtNetwork::run_bound(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  // On a stream that it was given the provider has one set of library handles, which are for one thread at a time.
  const std::lock_guard lock(turn_);
  Ort::IoBinding binding(session_);
  for (std::size_t i = 0; i < inputs.size(); ++i) binding.BindInput(inputs_[i], wrap(inputs[i]));
  bind_outputs(binding, slots, !inputs.empty() && inputs.front().device == Device::cuda);
  session_.Run(Ort::RunOptions(), binding);
  auto results = binding.GetOutputValues();
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].memory.data == nullptr) slots[i].fresh = take(std::move(results[i]));
  }
}

void OrtNetwork::bind_outputs(Ort::IoBinding& binding, std::span<const Slot> slots, bool on_gpu) const {
  for (const Slot& slot : slots) {
    const char* name = outputs_[slot.index];
    if (slot.memory.data != nullptr) binding.BindOutput(name, wrap(slot.memory));
    else binding.BindOutput(name, on_gpu ? there_ : here_);
  }
}

class OrtNetwork::Bound : public Binding {
 public:
  Bound(const OrtNetwork& network, std::span<const TensorView> inputs, std::span<Slot> slots)
      : network_(network), inputs_(inputs), binding_(network.session_) {
    // What is in main memory is copied to a GPU when it is bound.
    const std::lock_guard lock(network_.turn_);
    for (std::size_t i = 0; i < inputs_.size(); ++i) bind_input(i);
    network_.bind_outputs(binding_, slots, false);
  }

  void run() override {
    guard([&] {
      if (network_.device_ == Device::cpu) return network_.session_.Run(options_, binding_);
      const std::lock_guard lock(network_.turn_);
      for (std::size_t i = 0; i < inputs_.size(); ++i) {
        if (inputs_[i].device == Device::cpu) bind_input(i);
      }
      network_.session_.Run(options_, binding_);
    });
  }

 private:
  void bind_input(std::size_t i) { binding_.BindInput(network_.inputs_[i], network_.wrap(inputs_[i])); }

  const OrtNetwork& network_;
  std::span<const TensorView> inputs_;
  Ort::IoBinding binding_;
  Ort::RunOptions options_;
};

std::unique_ptr<Binding> OrtNetwork::bind(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  std::unique_ptr<Binding> bound;
  guard([&] { bound = std::make_unique<Bound>(*this, inputs, slots); });
  return bound;
}

}  // namespace

std::unique_ptr<Session> open_session(Model model, Device device, const Options& options) {
  return std::make_unique<OrtNetwork>(model, device, options);
}

}  // namespace gantk::onnxruntime
