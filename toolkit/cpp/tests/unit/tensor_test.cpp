// SPDX-License-Identifier: Apache-2.0
#include "gantk/tensor.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "finite.hpp"
#include "gantk/error.hpp"

namespace gantk {
namespace {

TEST(Shape, CountsItsElements) {
  EXPECT_EQ(Shape({2, 3, 4}).count(), 24);
  EXPECT_EQ(Shape({}).count(), 1);
  EXPECT_EQ(Shape({2, 0}).count(), 0);
  EXPECT_EQ(Shape({2, 3}).text(), "[2, 3]");
  EXPECT_EQ(Shape({2, 3}), Shape({2, 3}));
  EXPECT_FALSE(Shape({2, 3}) == Shape({2, 3, 1}));
}

TEST(Shape, RefusesWhatCannotBe) {
  const std::vector<std::int64_t> many(17, 1);
  EXPECT_THROW(Shape{std::span(many)}, Error);
  EXPECT_THROW(Shape({2, -1}), Error);
  EXPECT_THROW(Shape({1LL << 31, 1LL << 31}).count(), Error);
  EXPECT_THROW(Shape({1LL << 60, 2}).count(), Error);
}

TEST(View, WantsAsManyElementsAsItsShape) {
  std::vector<float> values(6);
  const MutableTensorView view(values, {2, 3});
  EXPECT_EQ(view.dtype, DType::float32);
  EXPECT_EQ(view.size_bytes(), 24u);
  EXPECT_EQ(TensorView(view).data, values.data());
  EXPECT_THROW(MutableTensorView(values, {2, 4}), Error);
  const std::vector<std::uint8_t> bytes(4);
  EXPECT_EQ(TensorView(bytes, {4}).dtype, DType::uint8);
}

TEST(Tensor, OwnsItsMemoryOnce) {
  int released = 0;
  float value = 7;
  {
    Tensor taken({&value, DType::float32, Shape({1})}, [&](void* memory) { released += memory == &value; });
    Tensor moved = std::move(taken);
    EXPECT_EQ(moved.values<float>()[0], 7);
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 1);
}

TEST(Tensor, HasNothingBeforeItIsMadeAndAfterItWasMoved) {
  Tensor tensor(DType::uint8, {2, 3});
  Tensor moved = std::move(tensor);
  Tensor assigned;
  EXPECT_THROW(assigned.values<float>(), Error);
  assigned = std::move(moved);
  EXPECT_EQ(assigned.values<std::uint8_t>().size(), 6u);
  for (Tensor* empty : {&tensor, &moved}) {
    EXPECT_EQ(empty->view().data, nullptr);
    EXPECT_EQ(empty->mutable_view().data, nullptr);
    EXPECT_THROW(empty->values<std::uint8_t>(), Error);
    EXPECT_THROW(empty->values<float>(), Error);
  }
}

TEST(Tensor, RefusesAnotherType) {
  Tensor tensor(DType::int32, {2});
  tensor.values<std::int32_t>()[1] = 5;
  EXPECT_EQ(tensor.values<std::int32_t>()[1], 5);
  EXPECT_THROW(tensor.values<float>(), Error);
  EXPECT_EQ(Tensor(DType::float32, {0}).values<float>().size(), 0u);
  Tensor there({&tensor, DType::float32, {1}, Device::cuda}, [](void*) {});
  EXPECT_THROW(there.values<float>(), Error);
}

template <class T>
std::size_t not_finite(std::vector<T> values) {
  const auto size = static_cast<std::int64_t>(values.size());
  return count_not_finite(TensorView(std::as_const(values), {size}));
}

TEST(Finite, CountsNanAndInfinity) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  EXPECT_EQ(not_finite<float>({0, -0.0f, 1e38f, 1e-45f, inf, -inf, nan, -nan}), 4u);
  EXPECT_EQ(not_finite<double>({1e308, 5e-324, inf, nan}), 2u);
  EXPECT_EQ(not_finite<Float16>({{0x7BFF}, {0x7C00}, {0xFC00}, {0x7C01}, {0x8000}}), 3u);
  EXPECT_EQ(not_finite<BFloat16>({{0x7F7F}, {0x7F80}, {0xFF80}, {0xFFC0}}), 3u);
  EXPECT_EQ(not_finite<std::int64_t>({-1, 0x7FF0000000000000}), 0u);
  // Every place of a vector instruction, and what is left over.
  for (std::size_t size = 1; size < 40; ++size) {
    for (std::size_t at = 0; at < size; ++at) {
      std::vector<float> values(size, 1.0f);
      values[at] = nan;
      EXPECT_EQ(not_finite(values), 1u);
    }
  }
}

template <class T>
std::size_t outside(std::vector<T> values) {
  const auto size = static_cast<std::int64_t>(values.size());
  return count_outside(TensorView(std::as_const(values), {size}), 0, 9);
}

TEST(Finite, CountsIntegersOutsideARange) {
  EXPECT_EQ(outside<std::int64_t>({0, 9, 10, -1, INT64_MAX, INT64_MIN}), 4u);
  EXPECT_EQ(outside<std::int32_t>({0, 9, 10, -1, INT32_MIN}), 3u);
  EXPECT_EQ(outside<std::int8_t>({0, 9, 10, -1}), 2u);
  EXPECT_EQ(outside<float>({0, 9, 10, -1}), 0u);
}

TEST(Error, SaysAllOfItself) {
  EXPECT_EQ(Error("what").text(), "what");
  EXPECT_EQ(Error("what", "here", "do").text(), "what\n  in: here\n  hint: do");
  static_assert(std::is_nothrow_copy_constructible_v<Error>);
  Error given("what", "here");
  const Error taken = std::move(given);
  EXPECT_EQ(given.text(), taken.text());
}

}  // namespace
}  // namespace gantk
