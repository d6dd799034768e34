// SPDX-License-Identifier: Apache-2.0
// Arrays that enter and leave a network: views of memory that is the caller's, and arrays that own theirs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "gantk/export.hpp"

namespace gantk {

enum class DType : std::uint8_t { float32, float16, bfloat16, float64, uint8, int8, int32, int64, boolean };

enum class Device : std::uint8_t { cpu, cuda };

// IEEE binary16 and the upper half of binary32, as bits: gantk carries them and computes with neither.
struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

GANTK_API std::string_view name_of(DType dtype) noexcept;  // e.g. "float32", as in the manifest
GANTK_API std::string_view name_of(Device device) noexcept;
GANTK_API std::size_t bytes_of(DType dtype) noexcept;

template <class T>
constexpr DType dtype_of() noexcept {
  using V = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<V, float>) return DType::float32;
  else if constexpr (std::is_same_v<V, Float16>) return DType::float16;
  else if constexpr (std::is_same_v<V, BFloat16>) return DType::bfloat16;
  else if constexpr (std::is_same_v<V, double>) return DType::float64;
  else if constexpr (std::is_same_v<V, std::uint8_t>) return DType::uint8;
  else if constexpr (std::is_same_v<V, std::int8_t>) return DType::int8;
  else if constexpr (std::is_same_v<V, std::int32_t>) return DType::int32;
  else if constexpr (std::is_same_v<V, std::int64_t>) return DType::int64;
  else {
    static_assert(std::is_same_v<V, bool>, "gantk has no tensors of this type");
    return DType::boolean;
  }
}

// The sizes of an array's axes, outermost first. A plain value: it never allocates and never dangles.
class GANTK_API Shape {
 public:
  static constexpr std::size_t most_axes = 16;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes)
      : Shape(std::span<const std::int64_t>(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const std::int64_t> sizes);  // throws Error past `most_axes`, or where a size is negative

  std::size_t rank() const noexcept { return rank_; }
  std::int64_t operator[](std::size_t axis) const noexcept { return sizes_[axis]; }
  std::span<const std::int64_t> sizes() const noexcept { return {sizes_.data(), rank_}; }
  std::int64_t count() const;  // of elements; throws Error where it does not fit 63 bits
  std::string text() const;    // e.g. "[1, 3, 256, 256]"

  friend bool operator==(const Shape& a, const Shape& b) noexcept = default;  // Sizes past the rank are 0.

 private:
  std::array<std::int64_t, most_axes> sizes_{};
  std::size_t rank_ = 0;
};

// Contiguous, row-major memory that is somebody else's and must outlive the call that it is given to. On a GPU it begins
// at a multiple of 256 bytes, as what CUDA allocates does: TensorRT wants that, ONNX Runtime multiples of 16.
template <class Void>
struct BasicView {
  Void* data = nullptr;
  DType dtype = DType::float32;
  Shape shape;
  Device device = Device::cpu;  // where `data` points to; a pointer of CUDA's is never dereferenced here

  BasicView() = default;
  BasicView(Void* memory, DType type, Shape sizes, Device place = Device::cpu)
      : data(memory), dtype(type), shape(sizes), device(place) {}

  // The elements of a std::vector, array or span; throws Error where their number is not that of the shape.
  template <std::ranges::contiguous_range Elements>
  requires std::ranges::borrowed_range<Elements> &&
      std::is_convertible_v<std::add_pointer_t<std::ranges::range_reference_t<Elements>>, Void*>
      BasicView(Elements&& elements, Shape sizes)
      : BasicView(std::ranges::data(elements), dtype_of<std::ranges::range_value_t<Elements>>(), sizes) {
    check_count(std::ranges::size(elements), sizes);
  }

  // A view to write to is also one to read from.
  operator BasicView<const void>() const noexcept requires(!std::is_const_v<Void>) {
    return {data, dtype, shape, device};
  }

  std::size_t size_bytes() const { return static_cast<std::size_t>(shape.count()) * bytes_of(dtype); }

 private:
  GANTK_API static void check_count(std::size_t count, const Shape& sizes);
};

using TensorView = BasicView<const void>;
using MutableTensorView = BasicView<void>;

// An array that owns its memory, in main memory or on a GPU. Movable, not copyable; one that was moved has no memory,
// and neither has the default one.
class GANTK_API Tensor {
 public:
  Tensor() = default;
  Tensor(Tensor&& other) noexcept : memory_(std::move(other.memory_)), view_(std::exchange(other.view_, {})) {}
  Tensor& operator=(Tensor&& other) noexcept {
    memory_ = std::move(other.memory_);
    view_ = std::exchange(other.view_, {});
    return *this;
  }
  Tensor(DType dtype, Shape shape);  // in main memory, not set

  // Takes over memory that somebody else made; `release` is called once with `view.data`.
  Tensor(MutableTensorView view, std::function<void(void*)> release);

  DType dtype() const noexcept { return view_.dtype; }
  const Shape& shape() const noexcept { return view_.shape; }
  Device device() const noexcept { return view_.device; }
  TensorView view() const noexcept { return view_; }
  MutableTensorView mutable_view() noexcept { return view_; }

  // The elements; throws Error where they are of another type, or on a GPU, or there is no memory.
  template <class T>
  std::span<const T> values() const {
    return {static_cast<const T*>(checked(dtype_of<T>())), static_cast<std::size_t>(view_.shape.count())};
  }
  template <class T>
  std::span<T> values() {
    return {static_cast<T*>(checked(dtype_of<T>())), static_cast<std::size_t>(view_.shape.count())};
  }

 private:
  void* checked(DType wanted) const;

  std::unique_ptr<void, std::function<void(void*)>> memory_;
  MutableTensorView view_;
};

}  // namespace gantk
