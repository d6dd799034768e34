// SPDX-License-Identifier: Apache-2.0
// A backend that adds one, and can be made to fail.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "gantk/backend.hpp"
#include "gantk/error.hpp"

namespace gantk::testing {

extern std::atomic<long> allocations;  // of this program, through C++
extern std::atomic<bool> is_full;      // whether there is no memory for more

// y = x + 1, and z = its first size; a first value of -1 makes it fail, one of -2 fail as C++ programs do not.
class AddOne : public Session {
 public:
  void run(std::span<const TensorView> inputs, std::span<Slot> outputs) const override {
    const auto* x = static_cast<const float*>(inputs[0].data);
    read_from = x;
    if (x[0] == -1) throw std::runtime_error("it does not like minus one");
    if (x[0] == -2) throw -2;
    for (Slot& slot : outputs) {
      if (slot.memory.data == nullptr) {
        slot.fresh = slot.index == 0 ? Tensor(DType::float32, inputs[0].shape) : Tensor(DType::int64, {1});
      }
      void* memory = slot.memory.data == nullptr ? slot.fresh.mutable_view().data : slot.memory.data;
      if (slot.index == 1) {
        *static_cast<std::int64_t*>(memory) = inputs[0].shape[0];
        continue;
      }
      for (std::int64_t i = 0; i < inputs[0].shape.count(); ++i) static_cast<float*>(memory)[i] = x[i] + 1;
    }
  }

  std::optional<MemoryBytes> memory_bytes() const noexcept override { return MemoryBytes{1, 2, 3}; }

  static inline std::atomic<const void*> read_from = nullptr;  // by the last run
};

class AddOneBackend : public Backend {
 public:
  // Adds it to this process, once.
  static void add() {
    static const bool added = (add_backend(std::make_unique<AddOneBackend>()), true);
    (void)added;
  }

  std::string name() const override { return "add-one"; }
  BackendStatus probe() const override { return {"1.0", {Device::cpu}}; }
  std::optional<std::string> executed(const std::string& precision, Device) const override { return precision; }
  std::unique_ptr<Session> open(Model model, Device, const Options&) const override {
    if (model.bytes.text() == "bad network") throw Error("add-one refuses `" + model.where + "`", model.where);
    return std::make_unique<AddOne>();
  }
};

}  // namespace gantk::testing
