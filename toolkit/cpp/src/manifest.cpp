// SPDX-License-Identifier: Apache-2.0
#include "manifest.hpp"

#include <algorithm>
#include <set>

#include "json.hpp"
#include "spec.hpp"

namespace gantk {
namespace {

constexpr std::int64_t schema_version = 1;
constexpr std::int64_t opset_limit = 1000;
constexpr std::size_t most_folders = 4;  // parts of a path

// A part of a path: it begins with a letter, a digit or _, so that "..", hidden files and roots are none.
bool is_part(std::string_view text) {
  const auto is_word = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !text.empty() && text.size() <= 100 && is_word(text[0]) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return is_word(c) || c == '.' || c == '+' || c == '-'; });
}

bool is_path(std::string_view path) {
  std::size_t parts = 0;
  for (std::size_t at = 0; at <= path.size(); ++parts) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    if (!is_part(path.substr(at, end - at))) return false;
    at = end + 1;
  }
  return parts <= most_folders && path != manifest_name;
}

bool is_sha256(std::string_view text) {
  return text.size() == 64 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

template <class Names>
bool holds(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void check_different(const std::string& what, std::vector<std::string> names, const char* how) {
  std::sort(names.begin(), names.end());
  if (std::adjacent_find(names.begin(), names.end()) != names.end()) throw Error(what + how + join(names));
}

FileRef read_file_ref(const Json& data) {
  FileRef ref{take_string(data, "path"), take_string(data, "sha256"), take_integer(data, "size_bytes")};
  if (!is_path(ref.path)) throw Error(repr(ref.path) + " is not the path of a file inside a bundle");
  if (!is_sha256(ref.sha256)) {
    throw Error("the sha256 of `" + ref.path + "` is " + repr(first(ref.sha256, 100)) +
                "; 64 hexadecimal digits are wanted");
  }
  if (ref.size_bytes < 0) throw Error("`" + ref.path + "` cannot have " + std::to_string(ref.size_bytes) + " bytes");
  return ref;
}

std::optional<FileRef> take_file(const Json& data, const char* key) {
  const Json* value = take_optional_object(data, key);
  return value == nullptr ? std::nullopt : std::optional(read_file_ref(*value));
}

void check_size(const Json& value) {
  if (!value.is_array() || value.size() != 2) throw Error("a size is a height and a width");
  integer(value[0]), integer(value[1]);
}

Parity read_parity(const Json& data) {
  Parity parity{
      .backend = take_string(data, "backend"),
      .version = take_string(data, "version"),
      .device = take_string(data, "device"),
      .executed = take_string(data, "executed"),
      .reference = take_string(data, "reference"),
      .max_abs = take_number(data, "max_abs"),
      .psnr_db = take_number(data, "psnr_db"),
      .cosine = take_number(data, "cosine"),
  };
  // What was compared is for those who read the manifest; here it is checked, not kept.
  take_integer(data, "samples");
  take_list(data, "batches", integer);
  parity.passed = take_bool(data, "passed");
  parity.reason = take_optional_string(data, "reason");
  if (data.contains("sizes")) take_list(data, "sizes", [](const Json& size) { return check_size(size), 0; });
  return parity;
}

std::vector<std::string> names_of(const std::vector<TensorSpec>& specs) {
  std::vector<std::string> names;
  for (const TensorSpec& spec : specs) names.push_back(spec.name);
  return names;
}

Interface read_interface(const Json& data) {
  Interface found{take_list(data, "inputs", read_spec), take_list(data, "outputs", read_spec)};
  if (found.inputs.empty() || found.outputs.empty()) throw Error("at least one input and one output are wanted");
  check_different("two inputs", names_of(found.inputs), " are called the same: ");
  check_different("two outputs", names_of(found.outputs), " are called the same: ");
  return found;
}

void check_gains(const Json* gains) {
  if (gains == nullptr) return;
  for (const auto& [backend, found] : gains->items()) {
    const Json& of_backend = take_object(*gains, backend.c_str());
    for (const auto& [name, value] : of_backend.items()) {
      take_text(name);
      take_number(of_backend, name.c_str());
    }
    take_text(backend);
  }
}

Variant read_variant(const Json& data) {
  const Json* interface = take_optional_object(data, "interface");
  Variant variant{
      .file = read_file_ref(take_object(data, "file")),
      .precision = take_string(data, "precision"),
      .form = take_string(data, "form"),
      .opset = take_integer(data, "opset"),
      .parity = take_list(data, "parity", read_parity),
      .fastest_on = take_list(data, "fastest_on", take_text),
      .rewrites = take_list(data, "rewrites", take_text),
  };
  check_gains(take_optional_object(data, "gains"));
  if (interface != nullptr) variant.interface = read_interface(*interface);
  if (!holds(precisions, variant.precision) || !holds(forms, variant.form)) {
    throw Error("`" + variant.file.path + "` is " + repr(first(variant.precision, 100)) + ", " +
                repr(first(variant.form, 100)) + "; known are fp32, fp16, bf16, int8 and plain, rewritten, adam, " +
                "targets, statistics");
  }
  if (variant.opset < 1 || variant.opset > opset_limit) {
    throw Error("`" + variant.file.path + "` has opset " + std::to_string(variant.opset) + "; 1 to " +
                std::to_string(opset_limit) + " are known");
  }
  return variant;
}

void check_schema(const Json& data) {
  const std::int64_t schema = take_integer(data, "schema");
  if (schema != schema_version) {
    throw Error("the manifest has schema " + std::to_string(schema) + "; this gantk reads schema " +
                    std::to_string(schema_version),
                {}, schema > schema_version ? "pip install -U gantk" : "export the bundle again");
  }
}

void check_whole(const Manifest& manifest) {
  std::vector<std::string> paths, labels;
  for (const Variant& variant : manifest.variants) {
    paths.push_back(variant.file.path);
    labels.push_back(variant.label());
  }
  for (const auto& ref : {manifest.probe, manifest.checkpoint}) {
    if (ref) paths.push_back(ref->path);
  }
  check_different("two entries", paths, " name one file: ");
  if (manifest.variants.empty()) throw Error("a bundle wants at least one variant");
  check_different("two variants", labels, " are called the same: ");
}

Manifest read_manifest(const Json& data) {
  check_schema(data);
  const Json& model = take_object(data, "model");
  const Json& tools = take_object(data, "tools");
  Interface interface = read_interface(data);
  Manifest manifest{.family = take_string(model, "family"), .name = take_string(model, "name")};
  take_object(model, "config");
  manifest.inputs = std::move(interface.inputs);
  manifest.outputs = std::move(interface.outputs);
  manifest.variants = take_list(data, "variants", read_variant);
  manifest.probe = take_file(data, "probe");
  manifest.checkpoint = take_file(data, "checkpoint");
  for (const auto& [name, version] : tools.items()) take_text(name), take_text(version);
  manifest.created = take_string(data, "created");
  check_whole(manifest);
  return manifest;
}

}  // namespace

std::string Variant::label() const {
  std::vector<std::string> parts = {form};
  parts.insert(parts.end(), rewrites.begin(), rewrites.end());
  return precision + " (" + join(parts, " + ") + ")";
}

const Parity* Variant::failed_on(std::string_view backend) const {
  const auto found = std::find_if(parity.begin(), parity.end(),
                                  [&](const Parity& verdict) { return verdict.backend == backend && !verdict.passed; });
  return found == parity.end() ? nullptr : &*found;
}

Manifest Manifest::parse(std::string_view json) {
  Json parsed;
  try {
    parsed = Json::parse(json);
  } catch (const Json::exception& error) {
    throw Error(std::string("the manifest is not JSON: ") + first(error.what(), 300));
  }
  return read_manifest(parsed);
}

}  // namespace gantk
