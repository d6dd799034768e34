// SPDX-License-Identifier: Apache-2.0
#include "gantk/manifest.hpp"

#include <algorithm>

#include "engines.hpp"
#include "fileref.hpp"
#include "json.hpp"
#include "variants.hpp"

namespace gantk {
namespace {

constexpr std::int64_t schema_version = 1;

void check_schema(const Json& data) {
  const std::int64_t schema = take_integer(data, "schema");
  if (schema != schema_version) {
    throw Error("the manifest has schema " + std::to_string(schema) + "; this gantk reads schema " +
                    std::to_string(schema_version),
                {}, schema > schema_version ? "pip install -U gantk" : "export the bundle again");
  }
}

void check_paths(const Manifest& manifest) {
  std::vector<std::string> paths;
  for (const Variant& variant : manifest.variants) paths.push_back(variant.file.path);
  std::vector<FileRef> probes;  // Engines may share one.
  for (const Engine& engine : manifest.engines) {
    paths.push_back(engine.file.path);
    if (!engine.probe || std::find(probes.begin(), probes.end(), *engine.probe) != probes.end()) continue;
    probes.push_back(*engine.probe);
  }
  for (const FileRef& probe : probes) paths.push_back(probe.path);
  for (const auto& ref : {manifest.probe, manifest.checkpoint}) {
    if (ref) paths.push_back(ref->path);
  }
  if (has_twins(paths)) throw Error("two entries name one file: " + join(paths));
}

template <class Entries>
std::vector<std::string> labels_of(const Entries& entries) {
  std::vector<std::string> labels;
  for (const auto& entry : entries) labels.push_back(entry.label());
  return labels;
}

void check_whole(const Manifest& manifest) {
  check_paths(manifest);
  if (manifest.variants.empty()) throw Error("a bundle wants at least one variant");
  check_different("variants", labels_of(manifest.variants));
  check_different("engines", labels_of(manifest.engines));
  for (const Engine& engine : manifest.engines) {
    check_profiles(engine, manifest.interface(manifest.source(engine)));
  }
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
  // Bundles of before there were engines may lack the list.
  if (data.contains("engines")) manifest.engines = take_list(data, "engines", read_engine);
  check_whole(manifest);
  return manifest;
}

}  // namespace

Interface Manifest::interface(const Variant& variant) const {
  return variant.interface.value_or(Interface{inputs, outputs});
}

const Variant& Manifest::source(const Engine& engine) const {
  for (const Variant& variant : variants) {
    if (variant.file.sha256 == engine.source && variant.precision == engine.precision && variant.form == engine.form) {
      return variant;
    }
  }
  throw Error("`" + engine.file.path + "` was built from a " + engine.precision + " (" + engine.form +
              ") file with sha256 " + engine.source.substr(0, 12) + "..., which the manifest does not have");
}

Manifest Manifest::parse(std::string_view json) {
  Json parsed;
  try {
    parsed = parse_json(json);
  } catch (const Error& error) {
    throw Error(std::string("the manifest is not JSON: ") + error.what());
  } catch (const Json::parse_error& error) {  // Whose own words quote the bytes, which may be anything.
    throw Error("the manifest is not JSON: byte " + std::to_string(error.byte) + " is not what must come there");
  } catch (const Json::exception&) {
    throw Error("the manifest is not JSON: a number is too large");
  }
  return read_manifest(parsed);
}

}  // namespace gantk
