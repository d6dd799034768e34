// SPDX-License-Identifier: Apache-2.0
#include "engines.hpp"

#include <algorithm>
#include <array>

#include "fileref.hpp"
#include "spec.hpp"
#include "variants.hpp"

namespace gantk {
namespace {

constexpr std::array<std::string_view, 2> products = {"tensorrt", "tensorrt-rtx"};
constexpr std::array<std::string_view, 4> build_options = {"version-compatible", "hardware-compatible", "refit",
                                                           "strip"};
constexpr std::array<std::string_view, 12> layer_types = {"fp32", "fp16",  "bf16",  "int8",  "fp8",  "int4",
                                                          "fp4",  "uint8", "int32", "int64", "bool", "other"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// E.g. "sm_89".
bool is_target(std::string_view text) {
  return text.starts_with("sm_") && (text.size() == 5 || text.size() == 6) && text[3] != '0' &&
         std::all_of(text.begin() + 3, text.end(), is_digit);
}

// A number, then one to five parts of digits, letters, + and -, after a point each.
bool is_version(std::string_view text) {
  std::size_t points = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool ends = i == 0 || i + 1 == text.size() || text[i - 1] == '.';
    if (text[i] == '.' && (ends || ++points > 5)) return false;
    if (text[i] != '.' && !is_digit(text[i]) &&
        (points == 0 || !(is_letter(text[i]) || text[i] == '+' || text[i] == '-'))) {
      return false;
    }
  }
  return points > 0;
}

std::string text_of_sizes(const std::vector<std::int64_t>& sizes) {
  std::vector<std::string> parts;
  for (const std::int64_t size : sizes) parts.push_back(std::to_string(size));
  return parts.empty() ? "scalar" : join(parts, "x");
}

ShapeRange read_range(const Json& data) {
  ShapeRange range{take_list(data, "min", integer), take_list(data, "opt", integer), take_list(data, "max", integer)};
  const auto& [min, opt, max] = range;
  bool good = min.size() == opt.size() && opt.size() == max.size() && max.size() <= Shape::most_axes;
  for (std::size_t axis = 0; good && axis < min.size(); ++axis) {
    good = 1 <= min[axis] && min[axis] <= opt[axis] && opt[axis] <= max[axis] && max[axis] <= size_limit;
  }
  if (!good) {
    throw Error(range.text() +
                " is no range of shapes: of each axis a smallest, a usual and a largest size are "
                "wanted, in this order, at least 1");
  }
  return range;
}

Profile read_profile(const Json& data) {
  if (!data.is_object()) throw Error("a profile is an object, not " + type_name(data));
  Profile profile;
  for (const auto& [name, shapes] : data.items()) profile.emplace(take_text(name), read_range(shapes));
  return profile;
}

// Whether an input of this kind can have these shapes.
bool suits(const ShapeRange& range, const TensorSpec& spec) {
  if (range.min.size() != spec.shape.size()) return false;
  for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
    const auto* size = std::get_if<std::int64_t>(&spec.shape[axis]);
    if (size != nullptr && (range.min[axis] != *size || range.max[axis] != *size)) return false;
  }
  return true;
}

void check_layer_type(const std::string& kind) {
  if (!holds(layer_types, kind)) {
    throw Error("a layer computes in " + repr(first(kind, 100)) + "; known are " + join(layer_types));
  }
}

// What was audited is for those who read the manifest; here it is checked, not kept.
void check_heavy_layer(const Json& data) {
  take_string(data, "name"), take_string(data, "kind");
  check_layer_type(take_string(data, "precision"));
}

template <class Names>
void check_known(const std::string& path, const std::string& what, const std::string& value, const Names& known) {
  if (!holds(known, value)) {
    throw Error("`" + path + "` has " + what + " " + repr(first(value, 100)) + "; known are " + join(known));
  }
}

// As Python shows a tuple of texts.
std::string tuple_text(const std::vector<std::string>& texts) {
  std::vector<std::string> parts;
  for (const std::string& text : texts) parts.push_back(repr(text));
  return "(" + join(parts) + (parts.size() == 1 ? ",)" : ")");
}

void check_engine(const Engine& engine) {
  const std::string& path = engine.file.path;
  check_known(path, "backend", engine.backend, products);
  check_known(path, "precision", engine.precision, precisions);
  check_known(path, "form", engine.form, forms);
  for (const std::string& option : engine.options) check_known(path, "option", option, build_options);
  if (!is_version(engine.version)) {
    throw Error("`" + path + "` is of version " + repr(first(engine.version, 100)) + "; one such as '1.7.1' is wanted");
  }
  if (engine.targets.empty() || !std::all_of(engine.targets.begin(), engine.targets.end(), is_target)) {
    throw Error("`" + path + "` is for " + first(tuple_text(engine.targets), 100) +
                "; targets such as 'sm_89' are wanted");
  }
  if (engine.profiles.empty()) {
    throw Error("`" + path + "` has no profile; the shapes that it serves are wanted");
  }
  check_different("targets of `" + path + "`", engine.targets);
  check_sha256(engine.source, "the source of `" + path + "`");
}

void check_audit(const Json& data, const Engine& engine) {
  const std::string& path = engine.file.path;
  if (const auto cache = take_optional_string(data, "timing_cache")) {
    check_sha256(*cache, "the timing cache of `" + path + "`");
  }
  const std::int64_t workspace = take_optional_integer(data, "workspace_bytes").value_or(1);
  if (workspace < 1) {
    throw Error("`" + path + "` cannot have been built in " + std::to_string(workspace) + " bytes of scratch memory");
  }
  for (const std::string& library : engine.plugins) {
    if (is_part(library)) continue;  // A path would load a file that came with the bundle.
    throw Error("`" + path + "` wants the plugin library " + repr(first(library, 100)) +
                "; a name without a folder is wanted");
  }
  for (const auto& [kind, count] : data["layers"].items()) {
    check_layer_type(kind);
    if (integer(count) < 0) {
      throw Error("`" + path + "` cannot have " + count.dump() + " layers of " + kind);
    }
  }
}

}  // namespace

Engine read_engine(const Json& data) {
  const Json& layers = take_object(data, "layers");
  Engine engine{
      .file = read_file_ref(take_object(data, "file")),
      .backend = take_string(data, "backend"),
      .version = take_string(data, "version"),
      .targets = take_list(data, "targets", take_text),
      .precision = take_string(data, "precision"),
      .form = take_string(data, "form"),
      .source = take_string(data, "source"),
      .profiles = take_list(data, "profiles", read_profile),
      .tf32 = take_bool(data, "tf32"),
      .options = take_list(data, "options", take_text),
      .plugins = {},
      .parity = {},
      .probe = {},
  };
  take_list(data, "rewrites", take_text);
  for (const auto& [kind, count] : layers.items()) take_text(kind), take_integer(layers, kind.c_str());
  for_each(data, "heavy_layers", check_heavy_layer);
  engine.plugins = take_list(data, "plugins", take_text);
  take_optional_string(data, "timing_cache");
  take_optional_integer(data, "workspace_bytes");
  engine.parity = take_list(data, "parity", read_parity);
  // Engines of before they had probes of their own may lack it.
  if (data.contains("probe")) engine.probe = take_file(data, "probe");
  check_engine(engine);
  check_audit(data, engine);
  if (take_bool(data, "verified") != engine.verified()) {
    throw Error("`" + engine.file.path + "` is called verified where its parity says otherwise");
  }
  return engine;
}

void check_profiles(const Engine& engine, const Interface& interface) {
  std::vector<std::string> wanted;
  for (const TensorSpec& spec : interface.inputs) wanted.push_back(spec.name);
  std::sort(wanted.begin(), wanted.end());
  for (const Profile& profile : engine.profiles) {
    std::vector<std::string> names;
    for (const auto& [name, range] : profile) names.push_back(name);
    if (names != wanted) {
      throw Error("a profile of `" + engine.file.path + "` is for " + (names.empty() ? "nothing" : join(names)) +
                  "; the inputs are " + join(wanted));
    }
    for (const TensorSpec& spec : interface.inputs) {
      const ShapeRange& range = profile.at(spec.name);
      if (!suits(range, spec)) {
        throw Error("a profile of `" + engine.file.path + "` has " + range.text() + " for " + spec.text());
      }
    }
  }
}

bool ShapeRange::holds(const Shape& shape) const noexcept {
  if (shape.rank() != min.size()) return false;
  for (std::size_t axis = 0; axis < min.size(); ++axis) {
    if (shape[axis] < min[axis] || shape[axis] > max[axis]) return false;
  }
  return true;
}

std::string ShapeRange::text() const {
  return text_of_sizes(min) + " - " + text_of_sizes(opt) + " - " + text_of_sizes(max);
}

bool Engine::verified() const noexcept {
  return !parity.empty() && std::all_of(parity.begin(), parity.end(), [](const Parity& p) { return p.passed; });
}

std::string Engine::executed() const { return tf32 ? "tf32" : precision; }

std::string Engine::label() const {
  std::string label = backend + " " + version + " " + precision + (tf32 ? " tf32" : "") + " (" + form;
  for (const std::string& option : options) label += ", " + option;
  return label + ") for " + join(targets, " + ");
}

}  // namespace gantk
