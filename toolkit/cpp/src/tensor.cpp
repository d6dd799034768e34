// SPDX-License-Identifier: Apache-2.0
#include "gantk/tensor.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <new>

#include "gantk/error.hpp"

namespace gantk {
namespace {

constexpr std::array<std::string_view, 9> dtype_names = {"float32", "float16", "bfloat16", "float64", "uint8",
                                                         "int8",    "int32",   "int64",    "bool"};
constexpr std::array<std::size_t, 9> dtype_bytes = {4, 2, 2, 8, 1, 1, 4, 8, 1};

}  // namespace

std::string_view name_of(DType dtype) noexcept { return dtype_names[static_cast<std::size_t>(dtype)]; }

std::string_view name_of(Device device) noexcept { return device == Device::cpu ? "cpu" : "cuda"; }

std::size_t bytes_of(DType dtype) noexcept { return dtype_bytes[static_cast<std::size_t>(dtype)]; }

Shape::Shape(std::span<const std::int64_t> sizes) : rank_(sizes.size()) {
  if (sizes.size() > most_axes) {
    throw Error("a shape of " + std::to_string(sizes.size()) + " axes; at most " + std::to_string(most_axes) +
                " are known");
  }
  std::copy(sizes.begin(), sizes.end(), sizes_.begin());
  if (std::any_of(sizes.begin(), sizes.end(), [](std::int64_t size) { return size < 0; })) {
    throw Error("a shape " + text() + "; sizes are at least 0");
  }
}

std::int64_t Shape::count() const {
  std::int64_t count = 1;
  for (const std::int64_t size : sizes()) {
    // Room for 8 bytes an element, so that a number of bytes fits too.
    if (__builtin_mul_overflow(count, size, &count) || count > std::numeric_limits<std::int64_t>::max() / 8) {
      throw Error("a shape " + text() + " has more elements than can be counted");
    }
  }
  return count;
}

std::string Shape::text() const {
  std::string text = "[";
  for (std::size_t axis = 0; axis < rank_; ++axis) {
    text += (axis == 0 ? "" : ", ") + std::to_string(sizes_[axis]);
  }
  return text + "]";
}

template <class Void>
void BasicView<Void>::check_count(std::size_t count, const Shape& sizes) {
  if (static_cast<std::int64_t>(count) != sizes.count()) {
    throw Error("an array of " + std::to_string(count) + " elements cannot have the shape " + sizes.text());
  }
}

template struct BasicView<const void>;
template struct BasicView<void>;

Tensor::Tensor(DType dtype, Shape shape) : view_(nullptr, dtype, shape) {
  // Never null, also where there are no elements.
  void* memory = std::malloc(std::max<std::size_t>(view_.size_bytes(), 1));
  if (memory == nullptr) throw std::bad_alloc();
  memory_ = {memory, [](void* taken) { std::free(taken); }};
  view_.data = memory;
}

Tensor::Tensor(MutableTensorView view, std::function<void(void*)> release)
    : memory_(view.data, std::move(release)), view_(view) {}

void* Tensor::checked(DType wanted) const {
  if (view_.data == nullptr && view_.shape.count() > 0) {
    throw Error("the tensor has no memory: it was moved to another variable, or never given a shape");
  }
  if (view_.dtype != wanted) {
    throw Error("the tensor holds " + std::string(name_of(view_.dtype)) + ", not " + std::string(name_of(wanted)));
  }
  if (view_.device != Device::cpu) {
    throw Error("the tensor is in GPU memory", {}, "copy it to the CPU first, or take its view()");
  }
  return view_.data;
}

}  // namespace gantk
