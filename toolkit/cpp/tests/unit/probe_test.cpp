// SPDX-License-Identifier: Apache-2.0
// The reader of safetensors: what it takes, and what it refuses.
#include "probe.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "test_bundle.hpp"

namespace gantk {
namespace {

using testing::refusal;

std::string file_of(const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i) & 255);
  return file + header + data;
}

std::map<std::string, TensorView> read(const std::string& file) {
  return read_safetensors(std::as_bytes(std::span(file)), "probe.safetensors");
}

std::string refused(const std::string& file) {
  return refusal([&] { read(file); });
}

TEST(Probe, ReadsArrays) {
  const std::string file = file_of(
      R"({"__metadata__": {"a": "b"}, "x": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},)"
      R"( "n": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}})",
      std::string("\x07\0\0\x80\x3f\0\0\0\xc0", 9));
  const auto arrays = read(file);
  ASSERT_EQ(arrays.size(), 2u);
  EXPECT_EQ(arrays.at("x").shape, Shape({2}));
  float values[2];
  std::memcpy(values, arrays.at("x").data, sizeof values);
  EXPECT_EQ(values[0], 1);
  EXPECT_EQ(values[1], -2);
  EXPECT_EQ(arrays.at("n").dtype, DType::uint8);
  EXPECT_EQ(*static_cast<const char*>(arrays.at("n").data), 7);
}

TEST(Probe, RefusesWhatIsNone) {
  EXPECT_EQ(refused("probe"), "the probe cannot be read: it has no header\n  in: probe.safetensors");
  EXPECT_NE(refused(std::string(8, '\xff') + "{}").find("longer than the file"), std::string::npos);
  EXPECT_NE(refused(std::string("\x03\0\0\0\0\0\0\0{}", 10)).find("longer than the file"), std::string::npos);
  EXPECT_NE(refused(file_of("[1]", "")).find("no JSON object"), std::string::npos);
  EXPECT_NE(refused(file_of("{\"x", "")).find("no JSON object"), std::string::npos);
  EXPECT_NE(refused(file_of(R"({"x": 1})", "")).find("'x' is no JSON object"), std::string::npos);
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& ends) {
    return file_of(R"({"x": {"dtype": ")" + dtype + R"(", "shape": )" + shape + R"(, "data_offsets": )" + ends + "}}",
                   std::string(8, '\0'));
  };
  EXPECT_EQ(refused(entry("F32", "[2]", "[0, 8]")), "it was not refused");
  EXPECT_NE(refused(entry("F4", "[2]", "[0, 8]")).find("dtype 'F4' is not known"), std::string::npos);
  for (const char* ends : {"[0, 4]", "[4, 12]", "[-1, 7]", "[8, 0]", "[0]", "[0, 8, 8]"}) {
    EXPECT_NE(refused(entry("F32", "[2]", ends)).find("its place in the file"), std::string::npos) << ends;
  }
  EXPECT_NE(refused(entry("F32", "[-2]", "[0, 8]")).find("'x': "), std::string::npos);
  EXPECT_NE(refused(entry("F32", "[4611686018427387904, 4]", "[0, 8]")).find("'x': "), std::string::npos);
  EXPECT_NE(refused(entry("F32", "[4611686018427387906]", "[0, 8]")).find("'x': "), std::string::npos);
}

}  // namespace
}  // namespace gantk
