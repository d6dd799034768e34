// SPDX-License-Identifier: Apache-2.0
// A stand-in for a TensorRT backend, as a library that GANTK_BACKENDS names: its engines are the values of one sample of
// a float32 output, which it yields for every sample.
#include "gantk/backend.hpp"

#include <cstdlib>
#include <cstring>
#include <string>

#include "profiles.hpp"

namespace {

// What the test says of the machine.
std::string machine(const char* variable, const char* otherwise = "") {
  const char* value = std::getenv(variable);
  return value == nullptr ? otherwise : value;
}

class Constant : public gantk::Session {
 public:
  explicit Constant(gantk::Model model) : model_(std::move(model)) {}

  void run(std::span<const gantk::TensorView> inputs, std::span<gantk::Slot> outputs) const override {
    gantk::choose_profile(model_, inputs);
    const std::int64_t batch = inputs[0].shape[0], size = model_.bytes.size();
    std::vector<std::int64_t> sizes = {batch};
    for (std::size_t axis = 1; axis < model_.interface.outputs[0].shape.size(); ++axis) {
      sizes.push_back(std::get<std::int64_t>(model_.interface.outputs[0].shape[axis]));
    }
    for (gantk::Slot& slot : outputs) {
      slot.fresh = gantk::Tensor(gantk::DType::float32, gantk::Shape(sizes));
      auto* memory = static_cast<std::byte*>(slot.fresh.mutable_view().data);
      for (std::int64_t i = 0; i < batch; ++i) std::memcpy(memory + i * size, model_.bytes.data(), size);
    }
  }

 private:
  mutable gantk::Model model_;
};

class StandIn : public gantk::Backend {
 public:
  std::string name() const override { return machine("STAND_IN_PRODUCT", "tensorrt-rtx"); }
  bool runs_engines() const override { return true; }
  gantk::BackendStatus probe() const override {
    const std::string target = machine("STAND_IN_TARGET"), version = machine("STAND_IN_VERSION", "1.7.1.116");
    if (target.empty()) return {version, {}, "no GPU", "get one"};
    return {version, {gantk::Device::cuda}, {}, {}, target};
  }
  std::optional<std::string> executed(const std::string& precision, gantk::Device) const override { return precision; }
  std::unique_ptr<gantk::Session> open(gantk::Model model, gantk::Device, const gantk::Options&) const override {
    return std::make_unique<Constant>(std::move(model));
  }
};

std::unique_ptr<gantk::Backend> make() { return std::make_unique<StandIn>(); }

}  // namespace

GANTK_BACKEND(make)
