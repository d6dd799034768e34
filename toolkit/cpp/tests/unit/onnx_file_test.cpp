// SPDX-License-Identifier: Apache-2.0
#include "onnx_file.hpp"

#include <gtest/gtest.h>

namespace gantk {
namespace {

// A field of a protobuf message that holds bytes, of which there are fewer than 128.
std::string field(int number, const std::string& bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}

std::set<std::string> operators_of(const std::string& file) {
  return gantk::operators_of(std::as_bytes(std::span(file)));
}

TEST(OnnxFile, HasTheOperatorsOfItsGraphAndItsFunctions) {
  const auto node = [](const std::string& kind) { return field(1, "x") + field(4, kind); };
  const std::string branch = field(1, "then_branch") + field(6, field(1, node("Pad")));
  const std::string graph = field(1, node("Conv")) + field(1, node("If") + field(5, branch));
  // A model's function has number 25, whose tag takes two bytes.
  const std::string body = field(7, node("Resize"));
  const std::string function = std::string("\xCA\x01") + static_cast<char>(body.size()) + body;
  EXPECT_EQ(operators_of(field(7, graph) + function), (std::set<std::string>{"Conv", "If", "Resize"}));
  EXPECT_TRUE(operators_of(field(7, graph) + "\x3A").empty());  // Cut short.
  EXPECT_TRUE(operators_of("").empty());
}

}  // namespace
}  // namespace gantk
