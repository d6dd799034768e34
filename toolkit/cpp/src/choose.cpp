// SPDX-License-Identifier: Apache-2.0
#include "choose.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include "gantk/error.hpp"
#include "onnx_file.hpp"
#include "text.hpp"
#include "variants.hpp"

namespace gantk {
namespace {

[[noreturn]] void fail_none(const Bundle& bundle, const std::string& precision, const std::string& form) {
  std::vector<std::string> held;
  for (const Variant& variant : bundle.manifest().variants) held.push_back(variant.label());
  throw Error("`" + bundle.root() + "` has no " + precision + " (" + form + ") variant; it has " + join(held),
              bundle.manifest_path(),
              "gantk export RUN --precision " + precision + " -o " + bundle.root() + " --force");
}

void check_right(const Bundle& bundle, const Variant& variant, std::string_view backend, Device device) {
  const Parity* failed = variant.failed_on(backend, name_of(device));
  if (failed == nullptr) return;
  if (!failed->loaded) {
    throw Error(std::string(backend) + " could not load `" + variant.file.path + "` when the bundle was made: " +
                    failed->reason,
                bundle.root(), "backend='auto' takes one that can");
  }
  const std::string off_by = failed->max_abs ? ", off by up to " + formatted(*failed->max_abs, 3) : "";
  const std::string reason = failed->reason.empty() ? "its parity check failed" : failed->reason;
  throw Error(std::string(backend) + " computes `" + variant.file.path + "` wrong: " + reason + off_by + ", against " +
                  failed->reference,
              bundle.root(), "backend='auto' takes one that computes it right");
}

}  // namespace

void check_choice(std::string_view what, std::string_view value, std::span<const std::string_view> allowed) {
  if (value.empty() || std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
  throw Error(repr(value) + " is not a " + std::string(what) + "; known are " + join(allowed), std::string(what), {},
              ErrorKind::usage);
}

std::string default_precision(const Bundle& bundle) {
  const auto& variants = bundle.manifest().variants;
  const bool has_fp32 = std::any_of(variants.begin(), variants.end(), [](auto& v) { return v.precision == "fp32"; });
  return has_fp32 ? "fp32" : variants.front().precision;
}

const Variant& choose(const Bundle& bundle, std::string precision, const std::string& form, std::string_view backend,
                      Device device, bool has_operators) {
  const auto& variants = bundle.manifest().variants;
  if (precision.empty()) precision = default_precision(bundle);
  // As a manifest names where a file is run.
  const std::string place = std::string(backend) + (device == Device::cpu ? "" : " cuda");
  const auto rank = [&](const Variant& variant) {
    const auto& places = variant.fastest_on;
    const bool usable = !variant.is_native() || has_operators;
    const bool fastest = usable && std::find(places.begin(), places.end(), place) != places.end();
    const bool asked = !backend.empty();
    return std::tuple(asked && variant.failed_on(backend, name_of(device)) != nullptr, asked && !fastest,
                      asked && !(fastest && variant.is_native()), variant.form != "plain");
  };
  const Variant* best = nullptr;
  for (const Variant& variant : variants) {
    const bool fits = variant.precision == precision && (form.empty() ? !variant.interface : variant.form == form);
    if (fits && (best == nullptr || rank(variant) < rank(*best))) best = &variant;
  }
  if (best != nullptr) return *best;
  for (const Variant& variant : variants) {
    if (variant.precision == precision && variant.form == (form.empty() ? "plain" : form)) return variant;
  }
  fail_none(bundle, precision, form.empty() ? "plain" : form);
}

Model load(const Bundle& bundle, const Variant& variant, std::string_view backend, Device device) {
  check_right(bundle, variant, backend, device);
  const Manifest& manifest = bundle.manifest();
  const auto& rewrites = variant.rewrites;
  const bool channels_last = std::find(rewrites.begin(), rewrites.end(), "channels-last") != rewrites.end();
  const bool has_native_form = std::any_of(manifest.variants.begin(), manifest.variants.end(), [&](auto& other) {
    return other.is_wholly_native() && other.precision == variant.precision;
  });
  Bytes bytes = bundle.read_file(variant.file);
  refuse_external(bytes.view(), bundle.path_of(variant.file));
  return {
      .bytes = std::move(bytes),
      .where = bundle.path_of(variant.file),
      .name = manifest.name,
      .precision = variant.precision,
      .form = variant.form,
      .interface = manifest.interface(variant),
      .channels_last = channels_last,
      .is_wholly_native = variant.is_wholly_native(),
      .has_native_form = has_native_form,
  };
}

}  // namespace gantk
