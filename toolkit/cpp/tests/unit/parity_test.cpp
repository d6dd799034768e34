// SPDX-License-Identifier: Apache-2.0
// Verdicts on outputs. Those of Python for the same arrays are compared in tests/cpp/test_engine_choice.py.
#include "parity.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace gantk {
namespace {

template <class T>
std::string fault(const std::vector<T>& output, const std::vector<T>& reference, const std::string& precision,
                  const std::string& family = "dcgan") {
  const TensorSpec spec{.name = "y", .dtype = dtype_of<T>()};
  const auto view = [](const std::vector<T>& values) {
    return TensorView(values, {static_cast<std::int64_t>(values.size())});
  };
  return fault_of(view(output), view(reference), spec, precision, family);
}

TEST(Parity, JudgesByThePrecision) {
  const std::vector<float> wanted = {0, 1, 2, 4};
  EXPECT_EQ(fault(wanted, wanted, "fp32"), "");
  // One of four is off by 1 % of the range: 10 log10(16 / (0.04^2 / 4)) = 46.0 dB.
  const std::vector<float> off = {0, 1, 2, 4.04f};
  EXPECT_EQ(fault(off, wanted, "fp32"), "46.0 dB PSNR, at least 80 dB wanted");
  EXPECT_EQ(fault(off, wanted, "fp16"), "46.0 dB PSNR, at least 50 dB wanted");
  EXPECT_EQ(fault(off, wanted, "bf16"), "");
  // Quiet on average, and one value far off.
  std::vector<float> many(100'000, 0.5f), spike = many;
  many[0] = spike[0] = 0, many[1] = spike[1] = 1;
  spike[2] = 0.75f;
  EXPECT_EQ(fault(spike, many, "fp16"), "a value differs by 0.25, at most 0.15 allowed");
}

TEST(Parity, JudgesAStepByItsSum) {
  std::vector<float> many(100'000, 0.5f), spike = many;
  many[0] = spike[0] = 0, many[1] = spike[1] = 1;
  spike[2] = 0.54f;
  EXPECT_EQ(fault(spike, many, "fp32"), "78.0 dB PSNR, at least 80 dB wanted");
  EXPECT_EQ(fault(spike, many, "fp32", "gatys-step"), "");
  EXPECT_EQ(fault(spike, many, "fp16", "gatys-step"), "");  // As any network.
}

TEST(Parity, JudgesASingleValueByItsSize) {
  EXPECT_EQ(fault<float>({1000.001f}, {1000}, "fp32"), "");
  EXPECT_EQ(fault<float>({0.00102f}, {0.001f}, "fp32"), "34.0 dB PSNR, at least 80 dB wanted");
}

TEST(Parity, JudgesLevelsByRounding) {
  std::vector<std::uint8_t> wanted(256), off;
  for (int i = 0; i < 256; ++i) wanted[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(i);
  off = wanted;
  off[0] = 1;
  EXPECT_EQ(fault(off, wanted, "fp32"), "");
  off[0] = 2;
  EXPECT_EQ(fault(off, wanted, "fp32"), "a value differs by 2, at most 1 allowed");
}

TEST(Parity, KnowsWhatNoNumberTells) {
  const std::vector<float> wanted = {0, 1, 2, 4};
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinite = std::numeric_limits<float>::infinity();
  EXPECT_EQ(fault({0, nan, -infinite, nan}, wanted, "int8"), "2 values are NaN and 1 infinite, of 4");
  EXPECT_EQ(fault({2, 2, 2, 2}, wanted, "int8"), "every output is one constant");
  EXPECT_EQ(fault({0, 1}, wanted, "int8"), "an output has shape [2], its reference [4]");
}

TEST(Parity, WidensHalves) {
  // 1, the largest, the smallest, minus two; and infinity.
  const std::vector<Float16> halves = {{0x3C00}, {0x7BFF}, {0x0001}, {0xC000}};
  EXPECT_EQ(fault(halves, halves, "fp16"), "");
  EXPECT_EQ(fault({{0x3C00}, {0x7C00}, {0x0001}, {0xC000}}, halves, "fp16"), "0 values are NaN and 1 infinite, of 4");
  // 65504 instead of 65472 is off by 32 in a range of 65506: 10 log10(65506^2 / (32^2 / 4)) = 72.2 dB.
  const std::vector<Float16> near = {{0x3C00}, {0x7BFE}, {0x0001}, {0xC000}};
  EXPECT_EQ(fault(near, halves, "fp32"), "72.2 dB PSNR, at least 80 dB wanted");
  const std::vector<BFloat16> brains = {{0x3F80}, {0x4000}}, other = {{0x3F80}, {0x4040}};
  EXPECT_EQ(fault(other, brains, "bf16"), "3.0 dB PSNR, at least 35 dB wanted");
}

}  // namespace
}  // namespace gantk
