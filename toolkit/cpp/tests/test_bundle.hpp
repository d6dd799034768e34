// SPDX-License-Identifier: Apache-2.0
// A bundle on disk for tests, with no network in it.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "gantk/error.hpp"
#include "sha256.hpp"
#include "test_folder.hpp"

namespace gantk::testing {

// What an Error says of a piece of work that must be refused.
inline std::string refusal(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.text();
  }
  return "it was not refused";
}

inline std::string sha256(const std::string& data) {
  Sha256 hash;
  hash.add(std::as_bytes(std::span(data)));
  return hash.hex();
}

inline nlohmann::json tensor(const std::string& name, const nlohmann::json& shape, const std::string& dtype) {
  return {{"name", name}, {"dtype", dtype}, {"shape", shape}, {"range", nullptr}, {"layout", nullptr}};
}

// The manifest of one variant, in the file model.fp32.onnx with the content `data`: x[N, 3] -> y[N, 3], z[K].
inline nlohmann::json manifest(const std::string& data) {
  const nlohmann::json shape = {"N", 3};
  return {
      {"schema", 1},
      {"created", "2026-01-01T00:00:00Z"},
      {"model", {{"family", "any"}, {"name", "tiny"}, {"config", nlohmann::json::object()}}},
      {"inputs", {tensor("x", shape, "float32")}},
      {"outputs", {tensor("y", shape, "float32"), tensor("z", {"K"}, "int64")}},
      {"variants",
       {{{"file", {{"path", "model.fp32.onnx"}, {"sha256", sha256(data)}, {"size_bytes", data.size()}}},
         {"precision", "fp32"},
         {"form", "plain"},
         {"opset", 20},
         {"parity", nlohmann::json::array()},
         {"fastest_on", nlohmann::json::array()},
         {"rewrites", nlohmann::json::array()}}}},
      {"engines", nlohmann::json::array()},
      {"probe", nullptr},
      {"checkpoint", nullptr},
      {"tools", nlohmann::json::object()},
  };
}

// A whole bundle.
class TestBundle : public Folder {
 public:
  explicit TestBundle(const std::string& data = "network") {
    write("model.fp32.onnx", data);
    write("manifest.json", manifest(data).dump());
  }
};

}  // namespace gantk::testing
