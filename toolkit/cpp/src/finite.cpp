// SPDX-License-Identifier: Apache-2.0
#include "finite.hpp"

#include <cstdint>
#include <cstring>

namespace gantk {
namespace {

// A float is not finite where all bits of its exponent are set. Blocks without branches, which compilers turn into
// vector instructions; memory may be unaligned.
template <class Bits>
std::size_t count(const void* data, std::size_t size, Bits exponent) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::size_t bad = 0;
  for (std::size_t i = 0; i < size; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
    bad += (bits & exponent) == exponent;
  }
  return bad;
}

template <class Integer>
std::size_t count_outside(const void* data, std::size_t size, double low, double high) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data);
  std::size_t bad = 0;
  for (std::size_t i = 0; i < size; ++i) {
    Integer value;
    std::memcpy(&value, bytes + i * sizeof value, sizeof value);
    bad += static_cast<double>(value) < low || static_cast<double>(value) > high;
  }
  return bad;
}

}  // namespace

std::size_t count_outside(const TensorView& view, double low, double high) {
  const auto size = view.size_bytes() / bytes_of(view.dtype);
  switch (view.dtype) {
    case DType::int8: return count_outside<std::int8_t>(view.data, size, low, high);
    case DType::int32: return count_outside<std::int32_t>(view.data, size, low, high);
    case DType::int64: return count_outside<std::int64_t>(view.data, size, low, high);
    default: return 0;
  }
}

std::size_t count_not_finite(const TensorView& view) {
  const auto size = view.size_bytes() / bytes_of(view.dtype);
  switch (view.dtype) {
    case DType::float32: return count<std::uint32_t>(view.data, size, 0x7F800000u);
    case DType::float16: return count<std::uint16_t>(view.data, size, 0x7C00u);
    case DType::bfloat16: return count<std::uint16_t>(view.data, size, 0x7F80u);
    case DType::float64: return count<std::uint64_t>(view.data, size, 0x7FF0000000000000u);
    default: return 0;
  }
}

}  // namespace gantk
