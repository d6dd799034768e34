// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime/session.hpp"

#include "onnxruntime/gpu_session.hpp"
#include "onnxruntime/network.hpp"

namespace gantk::onnxruntime {
namespace {

class CpuSession : public Session {
 public:
  CpuSession(const Model& model, const Options& options) : network_(model, options, nullptr) {}

  void run(std::span<const TensorView> inputs, std::span<Slot> slots) const override {
    guard([&] { run_unguarded(inputs, slots); });
  }

  std::unique_ptr<Binding> bind(std::span<const TensorView> inputs, std::span<Slot> slots) const override;

 private:
  void run_unguarded(std::span<const TensorView> inputs, std::span<Slot> slots) const;

  Network network_;
};

// Feeds and memory for results go straight into one call.
void CpuSession::run_unguarded(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  thread_local std::vector<Ort::Value> feeds, results;
  thread_local std::vector<const char*> names;
  feeds.clear(), results.clear(), names.clear();
  for (const TensorView& input : inputs) feeds.push_back(wrap(input));
  for (const Slot& slot : slots) {
    names.push_back(network_.outputs[slot.index]);
    results.push_back(slot.memory.data == nullptr ? Ort::Value(nullptr) : wrap(slot.memory));
  }
  network_.session.Run(Ort::RunOptions(nullptr), network_.inputs.data(), feeds.data(), feeds.size(), names.data(),
                       results.data(), results.size());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].memory.data == nullptr) slots[i].fresh = take(std::move(results[i]), Device::cpu);
  }
}

class BoundRun : public Binding {
 public:
  BoundRun(const Network& network, std::span<const TensorView> inputs, std::span<Slot> slots)
      : network_(network), binding_(network.session) {
    for (std::size_t i = 0; i < inputs.size(); ++i) binding_.BindInput(network.inputs[i], wrap(inputs[i]));
    for (const Slot& slot : slots) binding_.BindOutput(network.outputs[slot.index], wrap(slot.memory));
  }

  void run() override {
    guard([&] { network_.session.Run(options_, binding_); });
  }

 private:
  const Network& network_;
  Ort::IoBinding binding_;
  Ort::RunOptions options_;
};

std::unique_ptr<Binding> CpuSession::bind(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  std::unique_ptr<Binding> bound;
  guard([&] { bound = std::make_unique<BoundRun>(network_, inputs, slots); });
  return bound;
}

}  // namespace

std::unique_ptr<Session> open_session(Model model, Device device, const Options& options) {
  if (device == Device::cuda) return open_gpu_session(model, options);
  return std::make_unique<CpuSession>(model, options);
}

}  // namespace gantk::onnxruntime
