// SPDX-License-Identifier: Apache-2.0
// A bundle on disk for tests, with no network in it.
#pragma once

#include <functional>
#include <span>
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

// The manifest of one variant, in the file model.fp32.onnx with the content `data`: x[N, 3] -> y[N, 3], z[K].
inline std::string manifest(const std::string& data) {
  const std::string file = R"({"path": "model.fp32.onnx", "sha256": ")" + sha256(data) + R"(", "size_bytes": )" +
                           std::to_string(data.size()) + "}";
  return R"({
  "schema": 1,
  "created": "2026-01-01T00:00:00Z",
  "model": {"family": "any", "name": "tiny", "config": {}},
  "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3], "range": null, "layout": null}],
  "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", 3], "range": null, "layout": null},
              {"name": "z", "dtype": "int64", "shape": ["K"], "range": null, "layout": null}],
  "variants": [{"file": )" +
         file + R"(, "precision": "fp32", "form": "plain", "opset": 20, "parity": [], "fastest_on": [],
                "rewrites": []}],
  "engines": [],
  "probe": null,
  "checkpoint": null,
  "tools": {}
})";
}

// A manifest with another text in the place of one that it must have.
inline std::string forged(std::string manifest, const std::string& text, const std::string& other) {
  return manifest.replace(manifest.find(text), text.size(), other);  // std::out_of_range where it has none.
}

// A whole bundle.
class TestBundle : public Folder {
 public:
  explicit TestBundle(const std::string& data = "network") {
    write("model.fp32.onnx", data);
    write("manifest.json", manifest(data));
  }
};

}  // namespace gantk::testing
