// SPDX-License-Identifier: Apache-2.0
// TensorRT, or TensorRT for RTX: which of them, the headers say that it is compiled with.
#include "gantk/backend.hpp"

#include "cuda.hpp"
#include "driver.hpp"
#include "gantk/error.hpp"
#include "tensorrt/library.hpp"
#include "tensorrt/session.hpp"

namespace gantk::tensorrt {
namespace {

class TensorRt : public Backend {
 public:
  std::string name() const override { return product; }
  bool runs_engines() const override { return true; }

  BackendStatus probe() const override {
    const Library& loaded = library();
    if (loaded.version.empty()) return {{}, {}, loaded.fault, loaded.hint};
    // Without a driver the library's objects are not to be trusted.
    const std::string& fault = driver_fault();
    if (!fault.empty()) return {loaded.version, {}, fault, "run it on a machine with an NVIDIA GPU"};
    try {
      return {loaded.version, {Device::cuda}, {}, {}, cuda::gpu_target()};
    } catch (const Error& error) {
      return {loaded.version, {}, error.what(), error.hint()};
    }
  }

  std::optional<std::string> executed(const std::string& precision, Device) const override { return precision; }

  std::unique_ptr<Session> open(Model model, Device, const Options& options) const override {
    return open_session(std::move(model), options);
  }
};

std::unique_ptr<Backend> make_backend() { return std::make_unique<TensorRt>(); }

}  // namespace
}  // namespace gantk::tensorrt

GANTK_BACKEND(gantk::tensorrt::make_backend)
