// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime/backend.hpp"

#include "driver.hpp"
#include "onnxruntime/library.hpp"
#include "onnxruntime/session.hpp"

namespace gantk::onnxruntime {
namespace {

class OnnxRuntime : public Backend {
 public:
  std::string name() const override { return "onnxruntime"; }

  BackendStatus probe() const override {
    const Library& loaded = library();
    if (loaded.version.empty()) return {{}, {}, loaded.fault, loaded.hint};
    if (!loaded.has_cuda) return {loaded.version, {Device::cpu}};
    const std::string& fault = driver_fault();
    if (!fault.empty()) return {loaded.version, {Device::cpu}, fault};
    return {loaded.version, {Device::cuda, Device::cpu}};
  }

  // The CPU provider casts fp16 to fp32 and has no bf16 convolutions. fp8 has no kernels: values are rounded to it, and
  // computed with in fp32.
  std::optional<std::string> executed(const std::string& precision, Device device) const override {
    if (precision == "fp8") return "fp32";
    if (device == Device::cuda) return precision;
    if (precision == "bf16") return std::nullopt;
    return precision == "fp16" ? "fp32" : precision;
  }

  std::optional<std::string> executed_natively(const std::string& precision, Device device) const override {
    return precision == "bf16" ? precision : executed(precision, device);
  }

  std::unique_ptr<Session> open(Model model, Device device, const Options& options) const override {
    return open_session(std::move(model), device, options);
  }
};

}  // namespace

std::unique_ptr<Backend> make_backend() { return std::make_unique<OnnxRuntime>(); }

}  // namespace gantk::onnxruntime
