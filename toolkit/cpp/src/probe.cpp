// SPDX-License-Identifier: Apache-2.0
#include "probe.hpp"

#include <algorithm>
#include <array>

#include "gantk/error.hpp"
#include "json.hpp"

namespace gantk {
namespace {

// In the order of DType.
constexpr std::array<std::string_view, 9> safetensors_names = {"F32", "F16", "BF16", "F64", "U8",
                                                               "I8",  "I32", "I64",  "BOOL"};

constexpr std::size_t length_bytes = 8;
constexpr std::int64_t most_samples = 1'000'000;

[[noreturn]] void fail(const std::string& what, const std::string& where) {
  throw Error("the probe cannot be read: " + what, where);
}

std::size_t header_size(std::span<const std::byte> bytes) {
  if (bytes.size() < length_bytes) throw Error("it has no header");
  std::uint64_t size = 0;  // Little-endian, wherever this runs.
  for (std::size_t i = length_bytes; i-- > 0;) size = size << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  if (size > bytes.size() - length_bytes) throw Error("its header is longer than the file");
  return static_cast<std::size_t>(size);
}

TensorView read_array(const Json& data, std::span<const std::byte> memory) {
  const std::string type = take_string(data, "dtype");
  const auto* found = std::find(safetensors_names.begin(), safetensors_names.end(), type);
  if (found == safetensors_names.end()) throw Error("dtype " + repr(type) + " is not known");
  const std::vector<std::int64_t> sizes = take_list(data, "shape", integer);
  const std::vector<std::int64_t> ends = take_list(data, "data_offsets", integer);
  TensorView view{nullptr, static_cast<DType>(found - safetensors_names.begin()), Shape(sizes)};
  const auto size = static_cast<std::int64_t>(memory.size());
  if (ends.size() != 2 || ends[0] < 0 || ends[1] < ends[0] || ends[1] > size ||
      static_cast<std::uint64_t>(ends[1] - ends[0]) != view.size_bytes()) {
    throw Error("its place in the file is not one for " + view.shape.text() + " of " + type);
  }
  view.data = memory.data() + ends[0];
  return view;
}

std::map<std::string, TensorView> read_all(std::span<const std::byte> bytes) {
  const std::size_t size = header_size(bytes);
  const auto* text = reinterpret_cast<const char*>(bytes.data() + length_bytes);
  const Json header = parse_json({text, size}, false);
  if (!header.is_object()) throw Error("its header is no JSON object");
  std::map<std::string, TensorView> arrays;
  for (const auto& [name, data] : header.items()) {
    if (name == "__metadata__") continue;
    if (!data.is_object()) throw Error(repr(name) + " is no JSON object");
    try {
      arrays.emplace(name, read_array(data, bytes.subspan(length_bytes + size)));
    } catch (const Error& error) {
      throw Error(repr(name) + ": " + error.what());
    }
  }
  return arrays;
}

// The first `batch` samples of what has `count` of them; all of anything else.
TensorView cut(TensorView view, std::int64_t count, std::int64_t batch) {
  if (view.shape.rank() == 0 || view.shape[0] != count) return view;
  std::vector<std::int64_t> sizes(view.shape.sizes().begin(), view.shape.sizes().end());
  sizes[0] = batch;
  view.shape = Shape(sizes);
  return view;
}

// Those that are wanted, in their order; fewer where some are missing.
std::vector<TensorView> picked(const std::map<std::string, TensorView>& arrays, const std::string& kind,
                               const std::vector<TensorSpec>& specs) {
  std::vector<TensorView> views;
  for (const TensorSpec& spec : specs) {
    if (const auto found = arrays.find(kind + spec.name); found != arrays.end()) views.push_back(found->second);
  }
  return views;
}

bool is_served(const Model& model, const std::vector<TensorView>& inputs) {
  const auto serves = [&](const Profile& profile) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!profile.at(model.interface.inputs[i].name).holds(inputs[i].shape)) return false;
    }
    return true;
  };
  return std::any_of(model.engine->profiles.begin(), model.engine->profiles.end(), serves);
}

}  // namespace

std::map<std::string, TensorView> read_safetensors(std::span<const std::byte> bytes, const std::string& where) {
  try {
    return read_all(bytes);
  } catch (const Error& error) {
    fail(error.what(), where);
  }
}

const std::optional<FileRef>& probe_file(const Bundle& bundle, const Engine& engine) {
  return engine.probe ? engine.probe : bundle.manifest().probe;
}

std::optional<Probe> read_probe(const Bundle& bundle, const Model& model) {
  const std::optional<FileRef>& file = probe_file(bundle, *model.engine);
  if (!file) return std::nullopt;
  Probe probe{bundle.read_file(*file), {}, {}};
  const auto arrays = read_safetensors(probe.bytes.view(), file->path);
  const auto inputs = picked(arrays, "input.", model.interface.inputs);
  const auto outputs = picked(arrays, "output.", model.interface.outputs);
  if (inputs.size() != model.interface.inputs.size() || outputs.size() != model.interface.outputs.size()) {
    return std::nullopt;
  }
  const Shape& first = outputs.front().shape;
  const std::int64_t count = std::min(first.rank() == 0 ? 1 : first[0], most_samples);
  for (std::int64_t batch = count; batch > 0; --batch) {
    probe.inputs.clear(), probe.outputs.clear();
    for (const TensorView& view : inputs) probe.inputs.push_back(cut(view, count, batch));
    if (!is_served(model, probe.inputs)) continue;
    for (const TensorView& view : outputs) probe.outputs.push_back(cut(view, count, batch));
    return probe;
  }
  return std::nullopt;
}

}  // namespace gantk
