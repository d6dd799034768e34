// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime/settings.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <span>

#include "gantk/error.hpp"
#include "onnx_file.hpp"
#include "onnxruntime/types.hpp"
#include "operators.hpp"
#include "text.hpp"

namespace gantk::onnxruntime {
namespace {

// As gantk/runtime/backends/onnxruntime_settings.py has them.
constexpr std::array both_layouts = {"Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool", "Gemm"};
constexpr std::array one_layout = {"InstanceNormalization", "Pad", "Resize", "DepthToSpace"};

// What a CUDA graph, which repeats one run, would freeze: noise, and branches that depend on values.
constexpr std::array new_every_time = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "If", "Loop",
    "Scan"};

// For how long threads wait for more work with a loop that keeps a core busy; by default it is some 40 ms after each run,
// which whatever the program does next has a core less for. Releases that do not know it ignore it.
constexpr const char* spin_duration_us[] = {"session.intra_op.spin_duration_us", "200"};

// A program has no package that loads them beforehand, as Python's does.
constexpr const char* cuda_hint =
    "LD_LIBRARY_PATH names the folders of the CUDA and cuDNN that this build of ONNX Runtime wants, before the program "
    "starts (of `pip install 'onnxruntime-gpu[cuda,cudnn]'` site-packages/nvidia/*/lib); device='cpu' works without";

bool has_any(const std::set<std::string>& kinds, std::span<const char* const> wanted) {
  return std::any_of(wanted.begin(), wanted.end(), [&](const char* kind) { return kinds.contains(kind); });
}

// Whether convolutions follow each other without operators between that want channels first.
bool suits_channels_last(const std::set<std::string>& kinds) {
  return has_any(kinds, both_layouts) && !has_any(kinds, one_layout);
}

// Why the provider does not start. Of a library that does not load the loader's own words: what ONNX Runtime puts
// before them is so long that they would be cut off.
std::string reason_of(const Ort::Exception& error) {
  constexpr std::string_view before = "with error: ";
  const std::string_view text = error.what();
  const std::size_t at = text.rfind(before);
  return at == text.npos ? message_of(error) : shortened(text.substr(at + before.size()));
}

void add_cuda(Ort::SessionOptions& options, const Model& model, void* stream) {
  OrtCUDAProviderOptionsV2* provider = nullptr;
  Ort::ThrowOnError(Ort::GetApi().CreateCUDAProviderOptions(&provider));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> owner(
      provider, [](OrtCUDAProviderOptionsV2* taken) { Ort::GetApi().ReleaseCUDAProviderOptions(taken); });
  // Its default computes fp32 files with 10-bit mantissas; without, some convolutions of halves do without tensor cores
  // too. What cuDNN recommends was about as fast on an H100 as what is found by trying all.
  const bool halves = model.precision == "fp16" || model.precision == "bf16";
  const char* const keys[] = {"use_tf32", "cudnn_conv_algo_search", "prefer_nhwc"};
  const bool channels_last = model.channels_last || suits_channels_last(operators_of(model.bytes.view()));
  const char* const values[] = {halves ? "1" : "0", "HEURISTIC", channels_last ? "1" : "0"};
  Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptions(provider, keys, values, std::size(keys)));
  Ort::ThrowOnError(Ort::GetApi().UpdateCUDAProviderOptionsWithValue(provider, "user_compute_stream", stream));
  options.AppendExecutionProvider_CUDA_V2(*provider);
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
    throw Error(
        "ONNX Runtime cannot load the operators of `" + library + "`: " + message_of(error), library,
        "build them again (kernels/onnxruntime/README.md), or do without: " + std::string(operators_variable) + "=");
  }
}

}  // namespace

Ort::SessionOptions session_options(const Model& model, const Options& chosen, void* stream) {
  const Device device = stream == nullptr ? Device::cpu : Device::cuda;
  Ort::SessionOptions options;
  add_operators(options, device, chosen.operators);
  options.SetIntraOpNumThreads(chosen.threads);
  options.AddConfigEntry(spin_duration_us[0], spin_duration_us[1]);
  options.SetExecutionMode(ORT_SEQUENTIAL);
  // A pattern is one more block for all tensors of a run, beside those that the arena had given to the first run.
  options.DisableMemPattern();
  options.SetLogSeverityLevel(4);  // Errors come as exceptions.
  // Further optimisations take fp8 for uint8: they drop ReLUs before a rounding, and fuse layers into int8 ones.
  if (model.precision == "fp8") options.SetGraphOptimizationLevel(ORT_ENABLE_BASIC);
  if (device == Device::cuda) {
    try {
      add_cuda(options, model, stream);
    } catch (const Ort::Exception& error) {
      throw Error("onnxruntime cannot use CUDAExecutionProvider here: " + reason_of(error), {}, cuda_hint,
                  ErrorKind::backend_missing);
    }
  }
  return options;
}

bool repeats_itself(const Model& model) { return !has_any(operators_of(model.bytes.view()), new_every_time); }

}  // namespace gantk::onnxruntime
