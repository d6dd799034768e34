// SPDX-License-Identifier: Apache-2.0
#include "variants.hpp"

#include <algorithm>

#include "fileref.hpp"
#include "spec.hpp"

namespace gantk {
namespace {

constexpr std::int64_t opset_limit = 1000;

void check_size(const Json& value) {
  if (!value.is_array() || value.size() != 2) throw Error("a size is a height and a width");
  integer(value[0]), integer(value[1]);
}

std::vector<std::string> names_of(const std::vector<TensorSpec>& specs) {
  std::vector<std::string> names;
  for (const TensorSpec& spec : specs) names.push_back(spec.name);
  return names;
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

void check_calibrated(const Json& data) {
  take_string(data, "method");
  for (const char* key : {"wanted", "used", "held_out", "unreadable"}) take_integer(data, key);
}

}  // namespace

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
  parity.loaded = !take_list(data, "batches", integer).empty();
  parity.passed = take_bool(data, "passed");
  parity.reason = take_optional_string(data, "reason").value_or("");
  if (data.contains("sizes")) for_each(data, "sizes", check_size);
  return parity;
}

Interface read_interface(const Json& data) {
  Interface found{take_list(data, "inputs", read_spec), take_list(data, "outputs", read_spec)};
  if (found.inputs.empty() || found.outputs.empty()) throw Error("at least one input and one output are wanted");
  check_different("inputs", names_of(found.inputs));
  check_different("outputs", names_of(found.outputs));
  return found;
}

Variant read_variant(const Json& data) {
  const Json* interface = take_optional_object(data, "interface");
  const Json* calibrated = take_optional_object(data, "calibrated");
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
  if (calibrated != nullptr) check_calibrated(*calibrated);
  if (!holds(precisions, variant.precision) || !holds(forms, variant.form)) {
    throw Error("`" + variant.file.path + "` is " + repr(first(variant.precision, 100)) + ", " +
                repr(first(variant.form, 100)) + "; known are " + join(precisions) + " and " + join(forms));
  }
  if (variant.opset < 1 || variant.opset > opset_limit) {
    throw Error("`" + variant.file.path + "` has opset " + std::to_string(variant.opset) + "; 1 to " +
                std::to_string(opset_limit) + " are known");
  }
  return variant;
}

bool Variant::is_native() const noexcept {
  return std::any_of(rewrites.begin(), rewrites.end(), [](std::string_view name) { return name.ends_with("-to-native"); });
}

bool Variant::is_wholly_native() const noexcept {
  return std::find(rewrites.begin(), rewrites.end(), "channels-last-to-native") != rewrites.end();
}

std::string Variant::label() const {
  std::vector<std::string> parts = {form};
  parts.insert(parts.end(), rewrites.begin(), rewrites.end());
  return precision + " (" + join(parts, " + ") + ")";
}

const Parity* Variant::failed_on(std::string_view backend, std::string_view device) const {
  const auto forbids = [&](const Parity& verdict) {
    return verdict.backend == backend && verdict.device == device && !verdict.passed;
  };
  const auto found = std::find_if(parity.begin(), parity.end(), forbids);
  return found == parity.end() ? nullptr : &*found;
}

}  // namespace gantk
