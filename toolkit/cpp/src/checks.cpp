// SPDX-License-Identifier: Apache-2.0
#include "checks.hpp"

#include <algorithm>

#include "finite.hpp"
#include "gantk/error.hpp"
#include "spec.hpp"
#include "text.hpp"

namespace gantk {
namespace {

constexpr std::int64_t unknown = -1;

void check_smallest(const TensorSpec& spec, const Shape& shape) {
  const auto [rows, columns] = *spec.picture_axes();
  if (std::min(shape[rows], shape[columns]) >= spec.smallest) return;
  const std::string smallest = std::to_string(spec.smallest);
  throw Error("input " + repr(spec.name) + " is a picture of " + std::to_string(shape[columns]) + " x " +
                  std::to_string(shape[rows]) + " pixels (width x height); the network wants at least " + smallest +
                  " x " + smallest,
              spec.text(), "enlarge it, or pad it, first");
}

void check_finite(const TensorSpec& spec, const TensorView& view) {
  const std::size_t bad = count_not_finite(view);
  if (bad == 0) return;
  throw Error("input " + repr(spec.name) + " has " + std::to_string(bad) + " of " + std::to_string(view.shape.count()) +
                  " values that are NaN or infinite",
              spec.text());
}

// Integers such as labels beyond their range would let a backend read what lies beside a table.
void check_range(const TensorSpec& spec, const TensorView& view) {
  const auto [low, high] = *spec.range;
  const std::size_t bad = count_outside(view, low, high);
  if (bad == 0) return;
  throw Error("input " + repr(spec.name) + " has " + std::to_string(bad) + " of " + std::to_string(view.shape.count()) +
                  " values outside " + formatted(low) + " to " + formatted(high),
              spec.text());
}

// Pixels are not 0 or 1, which is what a picture from 0 to 1 would become.
std::string with_range(const TensorSpec& spec) {
  if (!spec.range) return {};
  return ", with values from " + formatted(spec.range->first) + " to " + formatted(spec.range->second);
}

void check_content(const TensorSpec& spec, const TensorView& view) {
  if (view.device != Device::cpu) return;
  check_finite(spec, view);
  if (spec.range) check_range(spec, view);
}

}  // namespace

Checks::Checks(const Interface& interface, Device device) : device_(device) {
  for (const TensorSpec& spec : interface.inputs) inputs_.push_back(number(spec));
  for (const TensorSpec& spec : interface.outputs) outputs_.push_back(number(spec));
}

Checks::Entry Checks::number(const TensorSpec& spec) {
  Entry entry{spec, {}};
  for (const Size& size : spec.shape) {
    if (const auto* count = std::get_if<std::int64_t>(&size)) {
      entry.axes.push_back({*count, -1});
      continue;
    }
    const auto& symbol = std::get<std::string>(size);
    const auto found = std::find(symbols_.begin(), symbols_.end(), symbol);
    entry.axes.push_back({0, static_cast<std::int32_t>(found - symbols_.begin())});
    if (found == symbols_.end()) symbols_.push_back(symbol);
  }
  return entry;
}

void Checks::take(std::span<const Feed> feeds, std::vector<TensorView>& inputs,
                  std::vector<std::int64_t>& sizes) const {
  inputs.clear();
  sizes.assign(symbols_.size(), unknown);
  if (feeds.size() != inputs_.size()) fail_names(feeds);
  for (const Entry& entry : inputs_) {
    const auto feed =
        std::find_if(feeds.begin(), feeds.end(), [&](const Feed& f) { return f.name == entry.spec.name; });
    if (feed == feeds.end()) fail_names(feeds);
    inputs.push_back(feed->tensor);
  }
  for (std::size_t i = 0; i < inputs_.size(); ++i) check(inputs_[i], inputs[i], sizes);
}

void Checks::check(const Entry& entry, const TensorView& view, std::span<std::int64_t> sizes) const {
  const TensorSpec& spec = entry.spec;
  check_place(entry, "input", view.device, view.data);
  if (view.dtype != spec.dtype) {
    const std::string wanted(name_of(spec.dtype));
    throw Error(
        "input " + repr(spec.name) + " has dtype " + std::string(name_of(view.dtype)) + "; the network wants " + wanted,
        spec.text(), "array.astype('" + wanted + "')" + with_range(spec));
  }
  if (view.shape.rank() != entry.axes.size()) fail_shape(entry, view.shape, {});
  for (std::size_t axis = 0; axis < entry.axes.size(); ++axis) {
    const Axis& wanted = entry.axes[axis];
    const std::int64_t size = view.shape[axis];
    if (resolved(wanted, sizes) == unknown) sizes[static_cast<std::size_t>(wanted.symbol)] = size;
    if (size != resolved(wanted, sizes) || size == 0) fail_shape(entry, view.shape, sizes);
  }
  if (spec.smallest > 1) check_smallest(spec, view.shape);
  check_content(spec, view);
}

void Checks::check_values(std::span<const TensorView> inputs) const {
  for (std::size_t i = 0; i < inputs_.size(); ++i) check_content(inputs_[i].spec, inputs[i]);
}

void Checks::check_place(const Entry& entry, const char* what, Device place, const void* data) const {
  const TensorSpec& spec = entry.spec;
  if (data == nullptr) throw Error(std::string(what) + " " + repr(spec.name) + " has no memory", spec.text());
  if (place == Device::cuda && device_ == Device::cpu) {
    throw Error(std::string(what) + " " + repr(spec.name) + " is in GPU memory and the runner is on the CPU",
                spec.text(), "copy it to the CPU first, or open the bundle with device='cuda'");
  }
}

void Checks::take(std::span<const Target> targets, std::span<const TensorView> inputs,
                  std::span<const std::int64_t> sizes, std::vector<Slot>& slots) const {
  for (const Target& target : targets) {
    const auto entry =
        std::find_if(outputs_.begin(), outputs_.end(), [&](const Entry& e) { return e.spec.name == target.name; });
    if (entry == outputs_.end()) {
      std::vector<std::string> names;
      for (const Entry& output : outputs_) names.push_back(output.spec.name);
      throw Error("the network has no output " + repr(target.name) + "; it has " + join(names));
    }
    const auto index = static_cast<std::size_t>(entry - outputs_.begin());
    if (std::any_of(slots.begin(), slots.end(), [&](const Slot& slot) { return slot.index == index; })) {
      throw Error("output " + repr(target.name) + " is given memory twice", entry->spec.text());
    }
    check_target(*entry, target.tensor, sizes);
    check_apart(*entry, target.tensor, inputs, slots);
    slots.push_back({index, target.tensor, {}});
  }
}

void Checks::check_target(const Entry& entry, const MutableTensorView& view,
                          std::span<const std::int64_t> sizes) const {
  const TensorSpec& spec = entry.spec;
  check_place(entry, "output", view.device, view.data);
  if (view.dtype != spec.dtype) {
    throw Error("`out` for " + repr(spec.name) + " has dtype " + std::string(name_of(view.dtype)) +
                    "; the output has " + std::string(name_of(spec.dtype)),
                spec.text());
  }
  bool fits = view.shape.rank() == entry.axes.size();
  std::vector<std::string> wanted;  // Stays empty, and so costs nothing, until there is something to say.
  for (std::size_t axis = 0; fits && axis < entry.axes.size(); ++axis) {
    const std::int64_t size = resolved(entry.axes[axis], sizes);
    fits = size == unknown || view.shape[axis] == size;
  }
  if (fits) return;
  for (std::size_t axis = 0; axis < entry.axes.size(); ++axis) {
    const std::int64_t size = resolved(entry.axes[axis], sizes);
    wanted.push_back(size == unknown ? text_of(spec.shape[axis]) : std::to_string(size));
  }
  throw Error("`out` for " + repr(spec.name) + " has shape " + view.shape.text() + "; the output has [" + join(wanted) +
              "]");
}

// A backend writes to it while it still reads inputs, and writes others.
void Checks::check_apart(const Entry& entry, const MutableTensorView& view, std::span<const TensorView> inputs,
                         std::span<const Slot> slots) const {
  const auto check = [&](const auto& other, const Entry& whose) {
    const auto first = reinterpret_cast<std::uintptr_t>(view.data), next = reinterpret_cast<std::uintptr_t>(other.data);
    if (first >= next + other.size_bytes() || next >= first + view.size_bytes()) return;
    throw Error("`out` for " + repr(entry.spec.name) + " and " + repr(whose.spec.name) + " share memory",
                entry.spec.text());
  };
  for (std::size_t i = 0; i < inputs.size(); ++i) check(inputs[i], inputs_[i]);
  for (const Slot& slot : slots) check(slot.memory, outputs_[slot.index]);
}

std::int64_t Checks::resolved(const Axis& axis, std::span<const std::int64_t> sizes) {
  return axis.symbol < 0 ? axis.size : sizes[static_cast<std::size_t>(axis.symbol)];
}

void Checks::fail_names(std::span<const Feed> feeds) const {
  std::vector<std::string> got, wanted;
  for (const Feed& feed : feeds) got.push_back(repr(feed.name));
  for (const Entry& entry : inputs_) wanted.push_back(entry.spec.text());
  throw Error("the inputs given are " + (got.empty() ? "none" : join(got)) + "; the network wants " + join(wanted));
}

void Checks::fail_shape(const Entry& entry, const Shape& shape, std::span<const std::int64_t> sizes) const {
  std::vector<std::string> wanted, bound;
  for (const Size& size : entry.spec.shape) wanted.push_back(text_of(size));
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] != unknown) bound.push_back(symbols_[i] + " = " + std::to_string(sizes[i]));
  }
  const auto all = shape.sizes();
  const bool empty = std::find(all.begin(), all.end(), 0) != all.end();
  throw Error("input " + repr(entry.spec.name) + " has shape " + shape.text() + "; the network wants [" + join(wanted) +
                  "]" + (bound.empty() ? "" : " with " + join(bound)) + (empty ? ", each at least 1" : ""),
              entry.spec.text());
}

}  // namespace gantk
