// SPDX-License-Identifier: Apache-2.0
#include "staging.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "gantk/error.hpp"
#include "text.hpp"

namespace gantk {

void check_alignment(const TensorSpec& spec, const TensorView& array, std::size_t alignment) {
  if (array.device != Device::cuda || reinterpret_cast<std::uintptr_t>(array.data) % alignment == 0) return;
  throw Error(repr(spec.name) + " does not begin at a multiple of " + std::to_string(alignment) +
                  " bytes, as this backend wants",
              spec.text(), "copy it first: part of a larger array may begin anywhere");
}

bool touches_main_memory(std::span<const TensorView> inputs, std::span<Slot> slots) {
  const auto is_fed = [](const TensorView& input) { return input.device == Device::cpu; };
  const auto is_wanted = [](Slot& slot) { return target_of(slot).device == Device::cpu; };
  return std::any_of(inputs.begin(), inputs.end(), is_fed) || std::any_of(slots.begin(), slots.end(), is_wanted);
}

Staging::Staging(const Interface& interface, std::string where, std::size_t alignment)
    : interface_(interface),
      where_(std::move(where)),
      alignment_(alignment),
      twins_(std::make_unique<cuda::Buffer[]>(interface.inputs.size() + interface.outputs.size())) {}

void* Staging::input(std::size_t index, const TensorView& array, cuda::StreamHandle stream) {
  return twin(index, interface_.inputs[index], array, stream);
}

void* Staging::output(std::size_t index, const TensorView& array, cuda::StreamHandle stream) {
  return twin(interface_.inputs.size() + index, interface_.outputs[index], array, stream);
}

void* Staging::twin(std::size_t index, const TensorSpec& spec, const TensorView& array, cuda::StreamHandle stream) {
  check_alignment(spec, array, alignment_);
  // Inputs are only read, which the libraries' signatures cannot say.
  if (array.device == Device::cuda) return const_cast<void*>(array.data);
  if (!twins_[index].holds(array.size_bytes())) {
    cuda::synchronize(stream);
    twins_[index].reserve(array.size_bytes(), repr(spec.name) + " of `" + where_ + "`");
  }
  return reinterpret_cast<void*>(twins_[index].device());
}

std::size_t Staging::size_bytes() const noexcept {
  std::size_t sum = 0;
  for (const cuda::Buffer& twin : twins()) sum += twin.size_bytes();
  return sum;
}

bool Staging::keeps(const void* address) const {
  const auto all = twins();
  return std::any_of(all.begin(), all.end(), [&](const auto& twin) { return twin.host() == address; });
}

void Staging::stage(std::span<const TensorView> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].device == Device::cpu) std::memcpy(twins_[i].host(), inputs[i].data, inputs[i].size_bytes());
  }
}

void Staging::copy_in(std::span<const TensorView> inputs, cuda::StreamHandle stream) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].device == Device::cuda) continue;
    cuda::copy_in(twins_[i].device(), twins_[i].host(), inputs[i].size_bytes(), stream);
  }
}

void Staging::copy_out(std::span<Slot> slots, cuda::StreamHandle stream) {
  for (Slot& slot : slots) {
    if (target_of(slot).device == Device::cuda) continue;
    cuda::copy_out(twin_of(slot).host(), twin_of(slot).device(), target_of(slot).size_bytes(), stream);
  }
}

void Staging::deliver(std::span<Slot> slots) {
  for (Slot& slot : slots) {
    const MutableTensorView target = target_of(slot);
    if (target.device == Device::cpu) std::memcpy(target.data, twin_of(slot).host(), target.size_bytes());
  }
}

}  // namespace gantk
