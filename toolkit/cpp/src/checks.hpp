// SPDX-License-Identifier: Apache-2.0
// The one place where inputs, and memory for outputs, are checked before a backend has them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "gantk/backend.hpp"

namespace gantk {

// What a network takes and yields, ready to be compared with: symbols are numbered in the order in which they come.
class Checks {
 public:
  Checks(const Interface& interface, Device device);

  // Puts the inputs in the network's order, and learns what each symbol stands for; `sizes` is scratch.
  void take(std::span<const Feed> feeds, std::vector<TensorView>& inputs, std::vector<std::int64_t>& sizes) const;

  // Refuses values that a network must not have, of inputs in its order that were taken before.
  void check_values(std::span<const TensorView> inputs) const;

  // A slot for each target, whose shape must be what the symbols say, where they say it, and whose memory no input's and
  // no other target's.
  void take(std::span<const Target> targets, std::span<const TensorView> inputs, std::span<const std::int64_t> sizes,
            std::vector<Slot>& slots) const;

 private:
  struct Axis {
    std::int64_t size;  // where `symbol` is -1
    std::int32_t symbol;
  };
  struct Entry {
    TensorSpec spec;
    std::vector<Axis> axes;
  };

  Entry number(const TensorSpec& spec);
  void check(const Entry& entry, const TensorView& view, std::span<std::int64_t> sizes) const;
  void check_place(const Entry& entry, const char* what, Device place, const void* data) const;
  void check_target(const Entry& entry, const MutableTensorView& view, std::span<const std::int64_t> sizes) const;
  void check_apart(const Entry& entry, const MutableTensorView& view, std::span<const TensorView> inputs,
                   std::span<const Slot> slots) const;
  static std::int64_t resolved(const Axis& axis, std::span<const std::int64_t> sizes);
  [[noreturn]] void fail_names(std::span<const Feed> feeds) const;
  [[noreturn]] void fail_shape(const Entry& entry, const Shape& shape, std::span<const std::int64_t> sizes) const;

  std::vector<std::string> symbols_;
  std::vector<Entry> inputs_, outputs_;
  Device device_;
};

}  // namespace gantk
