// SPDX-License-Identifier: Apache-2.0
#include "registry.hpp"

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>

#include "choose.hpp"
#include "cores.hpp"
#include "engine_file.hpp"
#include "engines.hpp"
#include "file.hpp"
#include "load_backend.hpp"
#include "onnxruntime/backend.hpp"
#include "operators.hpp"
#include "text.hpp"
#include "variants.hpp"
#include "verdict.hpp"

namespace gantk {
namespace {

constexpr std::array<std::string_view, 2> devices = {"cpu", "cuda"};

std::mutex mutex;

// What this process has. Backends are added, never removed, so that pointers to them stay good without the lock.
std::vector<std::unique_ptr<Backend>>& table() {
  static auto& backends = *new std::vector<std::unique_ptr<Backend>>([] {
    std::vector<std::unique_ptr<Backend>> first;
    first.push_back(onnxruntime::make_backend());
    return first;
  }());
  return backends;
}

std::vector<const Backend*> all_backends() {
  load_named_backends();
  const std::lock_guard lock(mutex);
  std::vector<const Backend*> found;
  for (const auto& backend : table()) found.push_back(backend.get());
  return found;
}

const Backend& backend_named(const std::string& name) {
  const auto backends = all_backends();
  std::vector<std::string> names;
  for (const Backend* backend : backends) {
    if (backend->name() == name) return *backend;
    names.push_back(backend->name());
  }
  throw Error(repr(name) + " is not a backend; known are " + join(names), "backend", {}, ErrorKind::usage);
}

// The device to use: the one asked for, or the backend's best here.
Device choose_device(const Backend& backend, const BackendStatus& status, const std::string& wanted) {
  if (status.devices.empty()) {
    throw Error(backend.name() + " does not work here: " + status.reason, {}, status.hint, ErrorKind::backend_missing);
  }
  if (wanted.empty()) return status.devices.front();
  std::vector<std::string> names;
  for (const Device device : status.devices) {
    if (name_of(device) == wanted) return device;
    names.emplace_back(name_of(device));
  }
  throw Error(backend.name() + " has no device " + repr(wanted) + " here; it has " + join(names), {},
              status.hint.empty() ? "gantk doctor" : status.hint, ErrorKind::backend_missing);
}

// What is left to gantk or to the environment, decided.
Options resolved(Options options) {
  if (options.threads == 0) options.threads = core_count();
  options.operators = operators_library(options.operators);
  return options;
}

// Opens an engine of the bundle, which is compared with the probe where nobody has verified it.
Opened open_engine(const Backend& backend, BackendStatus status, Device device, const Bundle& bundle,
                   const Options& options) {
  Model model =
      load_engine(bundle, backend.name(), status.version, status.target, options.precision, options.form);
  const std::string executed = model.engine->executed();
  Model facts{{}, model.where, model.name, model.precision, model.form, model.interface, model.engine};
  auto session = backend.open(std::move(model), device, options);
  check_once(*session, facts, bundle, status.target);
  return {&backend, std::move(status), device, facts.name, executed, facts.precision, facts.interface,
          std::move(session), {}};
}

Opened open_with(const Backend& backend, const Bundle& bundle, const Options& options) {
  BackendStatus status = backend.probe();
  const Device device = choose_device(backend, status, options.device);
  if (backend.runs_engines()) return open_engine(backend, std::move(status), device, bundle, options);
  if (options.precision == "tf32") {
    throw Error(backend.name() + " has no tf32, a way in which engines compute fp32 files", "precision",
                "precision='fp32' takes the file itself");
  }
  const bool has_operators = !options.operators.empty();
  const Variant& variant = choose(bundle, options.precision, options.form, backend.name(), device, has_operators);
  Model model = load(bundle, variant, backend.name(), device);
  const std::optional<std::string> executed = model.is_wholly_native && has_operators
                                                  ? backend.executed_natively(model.precision, device)
                                                  : backend.executed(model.precision, device);
  if (!executed) {
    const bool native = model.has_native_form && backend.name() == "onnxruntime";
    const std::string way = "it can with gantk's native operators (the option operators, or " +
                            std::string(operators_variable) + "=LIBRARY); or ";
    throw Error(
        backend.name() + " cannot compute " + model.precision + " on this machine's " + std::string(name_of(device)),
        model.where, (native ? way : "") + "use precision='fp32'");
  }
  Opened opened{&backend, std::move(status), device, model.name, *executed, model.precision, model.interface, {}, {}};
  opened.session = backend.open(std::move(model), device, options);
  return opened;
}

// Lists why each backend did not do; one that is missing might have.
[[noreturn]] void fail_all(const std::string& path, const std::vector<Error>& failures) {
  std::vector<std::string> reasons;
  for (const Error& error : failures) reasons.emplace_back(error.what());
  const std::string what = "no backend runs `" + path + "` here: " + join(reasons, "; ");
  for (const Error& error : failures) {
    if (error.kind() != ErrorKind::backend_missing) continue;
    throw Error(what, path, error.hint().empty() ? "gantk doctor" : error.hint(), ErrorKind::backend_missing);
  }
  const auto hinted = std::find_if(failures.begin(), failures.end(), [](auto& e) { return !e.hint().empty(); });
  throw Error(what, path, hinted == failures.end() ? "" : hinted->hint());
}

// Of the file that computes, or that an engine which does was built from.
std::string file_precision(const std::string& precision) { return precision == "tf32" ? "fp32" : precision; }

Bundle read_bundle(const std::string& path, const Options& options, bool of_engines) {
  if (of_engines) {
    check_choice("precision", options.precision, engine_precisions);
  } else {
    check_choice("precision", file_precision(options.precision), precisions);
  }
  check_choice("form", options.form, forms);
  return Bundle::read(path);
}

// Whether a backend would run the bundle for gantk's native operators alone: such a file was measured against nothing.
bool wants_operators(const Backend& backend, const Bundle& bundle, const Options& options) {
  const std::vector<Device> found = backend.probe().devices;
  const bool on_cpu = options.device.empty() ? !found.empty() && found.front() == Device::cpu : options.device == "cpu";
  if (!on_cpu) return false;
  try {
    const Variant& variant = choose(bundle, options.precision, options.form, backend.name(), Device::cpu,
                                    !options.operators.empty());
    return variant.is_wholly_native() && !backend.executed(variant.precision, Device::cpu);
  } catch (const Error&) {
    return false;  // It has no file for this backend, which is told when its turn comes.
  }
}

// The backends that "auto" tries: first those that work here and of which the bundle has engines, last those that want
// native operators.
std::vector<const Backend*> candidates(const Bundle& bundle, const Options& options) {
  const auto& engines = bundle.manifest().engines;
  std::vector<const Backend*> first, others, last;
  for (const Backend* backend : all_backends()) {
    if (!backend->runs_engines()) {
      (wants_operators(*backend, bundle, options) ? last : others).push_back(backend);
      continue;
    }
    const std::string name = backend->name();
    const bool held = std::any_of(engines.begin(), engines.end(), [&](auto& e) { return e.backend == name; });
    if (held && options.device != "cpu" && !backend->probe().devices.empty()) first.push_back(backend);
  }
  first.insert(first.end(), others.begin(), others.end());
  first.insert(first.end(), last.begin(), last.end());
  return first;
}

Opened open_auto(const std::string& path, const Options& options) {
  const Bundle bundle = read_bundle(path, options, false);
  choose(bundle, file_precision(options.precision), options.form, {});
  std::vector<Error> failures;
  std::vector<std::pair<std::string, std::string>> passed_over;
  Options one = options;  // An engine is no reason for another precision.
  if (one.precision.empty()) one.precision = default_precision(bundle);
  for (const Backend* backend : candidates(bundle, options)) {
    try {
      Opened opened = open_with(*backend, bundle, one);
      opened.passed_over = std::move(passed_over);
      return opened;
    } catch (const Error& error) {
      failures.push_back(error);
      passed_over.emplace_back(backend->name(), error.what());
    }
  }
  fail_all(path, failures);
}

}  // namespace

Opened open_bundle(const std::string& given, const Options& asked) {
  check_choice("device", asked.device, devices);
  if (asked.threads < 0) {
    throw Error(std::to_string(asked.threads) + " threads; at least 1 is wanted", "threads", {}, ErrorKind::usage);
  }
  const Options options = resolved(asked);
  const std::string path = tidy(given);
  if (options.backend == "auto" || options.backend.empty()) return open_auto(path, options);
  const Backend& backend = backend_named(options.backend);
  choose_device(backend, backend.probe(), options.device);  // What is missing is said before any file is read.
  const Bundle bundle = read_bundle(path, options, backend.runs_engines());
  if (!backend.runs_engines()) choose(bundle, file_precision(options.precision), options.form, {});
  return open_with(backend, bundle, options);
}

void add_backend(std::unique_ptr<Backend> backend) {
  const std::lock_guard lock(mutex);
  for (const auto& other : table()) {
    if (other->name() == backend->name()) throw Error("there is a backend " + repr(backend->name()) + " already");
  }
  table().push_back(std::move(backend));
}

}  // namespace gantk
