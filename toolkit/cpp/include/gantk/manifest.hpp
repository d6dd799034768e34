// SPDX-License-Identifier: Apache-2.0
// The manifest of a bundle: the only thing that says what exists in it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gantk/export.hpp"
#include "gantk/spec.hpp"

namespace gantk {

// A file of the bundle.
struct FileRef {
  std::string path;    // relative to the bundle, with forward slashes, without ".."
  std::string sha256;  // of its bytes, in lower-case hexadecimal
  std::int64_t size_bytes = 0;

  bool operator==(const FileRef&) const = default;
};

// How far one backend's outputs for one file were from a reference when the bundle was made.
struct Parity {
  std::string backend, version, device;
  std::string executed;           // the precision it really computed in
  std::string reference;          // what it was compared with, e.g. "torch float32"
  std::optional<double> max_abs;  // the largest absolute difference; nothing where an output is not finite
  std::optional<double> psnr_db;  // [dB], 200 for equal outputs
  std::optional<double> cosine;   // the smallest cosine similarity
  bool loaded = true;  // whether the backend could load the file
  bool passed = false;
  std::string reason = {};  // why not, if it did not pass
};

struct Interface {
  std::vector<TensorSpec> inputs, outputs;
};

// One ONNX file: the network in one precision and one form.
struct GANTK_API Variant {
  FileRef file;
  std::string precision;  // "fp32", "fp16", "bf16", "int8" or "fp8"
  std::string form;       // "plain", "rewritten", or another computation: "adam", "targets", "statistics"
  std::int64_t opset = 0;
  std::vector<Parity> parity;
  std::vector<std::string> fastest_on;  // where it was measured faster, or alone runs: a backend, with " cuda" on a GPU
  std::vector<std::string> rewrites;
  std::optional<Interface> interface = {};  // where that differs from the manifest's

  bool is_native() const noexcept;                          // whether it is faster for gantk's native operators alone
  bool is_wholly_native() const noexcept;                   // whether these are all that is heavy in it
  std::string label() const;                                // what tells it from the others, in words
  // The verdict that forbids it on a backend's device, or null; those on other devices say nothing.
  const Parity* failed_on(std::string_view backend, std::string_view device) const;
};

// The shapes of one input that a profile of an engine serves.
struct GANTK_API ShapeRange {
  std::vector<std::int64_t> min, opt, max;  // axis by axis; the engine is tuned for `opt`

  bool holds(const Shape& shape) const noexcept;
  std::string text() const;  // e.g. "1x3x16 - 1x3x64 - 4x3x128"
};

using Profile = std::map<std::string, ShapeRange>;  // by the input's name

// A TensorRT engine, built from one of the variants.
struct GANTK_API Engine {
  FileRef file;
  std::string backend;               // "tensorrt" or "tensorrt-rtx": the product that built it, and alone runs it
  std::string version;               // of that product; no other runs it, but later ones what is version-compatible
  std::vector<std::string> targets;  // the GPU architectures that it was built for, e.g. "sm_89"
  std::string precision, form;       // those of its source
  std::string source;                // the sha256 of the variant's file that it was built from
  std::vector<Profile> profiles;     // the shapes that it serves; one or more
  bool tf32 = false;                 // whether fp32 layers may round their inputs to 10 bits of mantissa
  std::vector<std::string> options;  // "version-compatible", "hardware-compatible", "refit", "strip"
  std::vector<std::string> plugins;  // the names of the libraries that must be loaded first
  std::vector<Parity> parity;        // the verdicts of machines that could run it
  std::optional<FileRef> probe;      // of shapes that it serves, where the bundle's has none

  std::string executed() const;    // what it computes in: its precision, or "tf32"
  bool verified() const noexcept;  // whether a machine has run it and found its outputs right
  std::string label() const;       // what tells it from the others, in words
};

struct GANTK_API Manifest {
  std::string family, name;
  std::string created = {};  // UTC, ISO 8601
  std::vector<TensorSpec> inputs = {}, outputs = {};
  std::vector<Variant> variants = {};
  std::vector<Engine> engines = {};
  std::optional<FileRef> probe = {};       // a few inputs with PyTorch's float32 outputs, safetensors
  std::optional<FileRef> checkpoint = {};  // the network's weights, safetensors

  Interface interface(const Variant& variant) const;  // what goes into one of the variants, and what comes out
  const Variant& source(const Engine& engine) const;  // that it was built from; throws Error where it is not here

  // Parses the bytes of a manifest.json; throws Error where they are none that this version reads.
  static Manifest parse(std::string_view json);
};

}  // namespace gantk
