// SPDX-License-Identifier: Apache-2.0
#include "engine_file.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <set>
#include <tuple>

#include "gantk/error.hpp"
#include "json.hpp"
#include "text.hpp"

namespace gantk {
namespace {

using Engines = std::vector<const Engine*>;

template <class Fits>
Engines narrowed(const Engines& engines, Fits fits) {
  Engines left;
  std::copy_if(engines.begin(), engines.end(), std::back_inserter(left), fits);
  return left;
}

bool runs_on(const Engine& engine, const std::string& target) {
  if (!holds(engine.options, "hardware-compatible")) return holds(engine.targets, target);
  int number = 0;  // From Ampere on.
  std::from_chars(target.data() + std::min<std::size_t>(3, target.size()), target.data() + target.size(), number);
  return number >= 80;
}

// The numbers that the parts of a version begin with.
std::vector<std::uint64_t> numbers_of(const std::string& version) {
  std::vector<std::uint64_t> numbers;
  for (std::size_t at = 0; at <= version.size(); at = std::min(version.find('.', at), version.size()) + 1) {
    std::from_chars(version.data() + at, version.data() + version.size(), numbers.emplace_back());
  }
  return numbers;
}

// Engines that are built so run on later releases of the same major version, and those of TensorRT 10 on 11 (NVIDIA's
// support matrix); none runs on an earlier one.
bool version_fits(const Engine& engine, const std::string& installed) {
  if (engine.version == installed) return true;
  if (!holds(engine.options, "version-compatible")) return false;
  const auto built = numbers_of(engine.version), here = numbers_of(installed);
  const bool is_from_10 = engine.backend == "tensorrt" && built[0] == 10 && here[0] == 11;
  return (built[0] == here[0] || is_from_10) && built <= here;
}

std::string export_hint(const Bundle& bundle, const std::string& backend) {
  return "gantk export " + bundle.root() + " --to " + backend;
}

// Builds an engine for a GPU; not every one is among those that are built for by default.
std::string build_hint(const Bundle& bundle, const std::string& backend, const std::string& target,
                       const std::string& precision) {
  std::string hint = export_hint(bundle, backend);
  if (backend == "tensorrt-rtx") hint += " --target " + target;
  if (precision.empty()) return hint;
  return hint + " --precision " + (precision == "tf32" ? "fp32 --tf32" : precision);
}

[[noreturn]] void fail_missing(const Bundle& bundle, const std::string& backend, const std::string& what,
                               const Engines& held, const std::string& hint) {
  std::vector<std::string> listed;
  for (const Engine* engine : held) {
    listed.push_back(engine->executed() + " (" + engine->form + ") for " + join(engine->targets));
  }
  throw Error("`" + bundle.root() + "` has no " + backend + " " + what + "; it has " + join(listed, "; "),
              bundle.manifest_path(), hint);
}

[[noreturn]] void fail_version(const Bundle& bundle, const std::string& backend, const std::string& installed,
                               const std::string& target, const Engines& here, const std::string& hint) {
  std::set<std::string> versions;
  for (const Engine* engine : here) versions.insert(engine->version);
  const std::vector<std::string> built(versions.begin(), versions.end());
  const std::string install = ", or pip install " + backend + "==";
  throw Error("the " + backend + " engines of `" + bundle.root() + "` for " + target + " were built with " +
                  join(built) + "; " + installed + " is installed",
              bundle.manifest_path(),
              hint + install + join(built, install));
}

[[noreturn]] void fail_other_product(const Bundle& bundle, const std::string& backend) {
  std::set<std::string> others;
  for (const Engine& engine : bundle.manifest().engines) others.insert(engine.backend);
  const std::string listed = join(std::vector<std::string>(others.begin(), others.end()));
  throw Error("`" + bundle.root() + "` has no " + backend + " engine" +
                  (listed.empty() ? "" : "; it has engines of " + listed),
              bundle.manifest_path(), export_hint(bundle, backend));
}

// The weights were left out: what would run computes with none.
[[noreturn]] void fail_stripped(const Bundle& bundle, const Engine& engine) {
  const bool takes_weights = holds(engine.options, "refit");
  throw Error("`" + engine.file.path + "` was built without its weights (" + join(engine.options) + ")",
              bundle.path_of(engine.file),
              takes_weights ? "put weights into it first: gantk refit " + bundle.root() + " RUN"
                            : export_hint(bundle, engine.backend) + " builds one with them");
}

const Engine& choose(const Bundle& bundle, const std::string& backend, const std::string& installed,
                     const std::string& target, const std::string& precision, const std::string& form) {
  const Manifest& manifest = bundle.manifest();
  Engines engines;
  for (const Engine& engine : manifest.engines) {
    if (engine.backend == backend) engines.push_back(&engine);
  }
  if (engines.empty()) fail_other_product(bundle, backend);
  const Engines asked = narrowed(engines, [&](const Engine* engine) {
    return (precision.empty() || engine->executed() == precision) &&
           (form.empty() ? !manifest.source(*engine).interface : engine->form == form);
  });
  const std::string hint = build_hint(bundle, backend, target, precision);
  if (asked.empty()) {
    const std::string what = (precision.empty() ? "plain" : precision) + (form.empty() ? "" : " " + form);
    fail_missing(bundle, backend, what, engines, hint);
  }
  const Engines here = narrowed(asked, [&](const Engine* engine) { return runs_on(*engine, target); });
  if (here.empty()) {
    const std::string what = (precision.empty() ? asked.front()->executed() : precision) + " engine for " + target;
    fail_missing(bundle, backend, what, asked, hint);
  }
  const Engines fitting = narrowed(here, [&](const Engine* engine) { return version_fits(*engine, installed); });
  if (fitting.empty()) fail_version(bundle, backend, installed, target, here, hint);
  const Engines whole = narrowed(fitting, [](const Engine* engine) { return !holds(engine->options, "strip"); });
  if (whole.empty()) fail_stripped(bundle, *fitting.front());
  const auto rank = [&](const Engine* engine) {
    return std::tuple(engine->precision != "fp32", engine->tf32, engine->version != installed);
  };
  return **std::min_element(whole.begin(), whole.end(),
                            [&](const Engine* a, const Engine* b) { return rank(a) < rank(b); });
}

// Loads a plugin library by name, from where the loader looks; it may register its plugins by that.
void load_plugin(const std::string& library, const Engine& engine) {
  if (::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr) return;
  throw Error("`" + engine.file.path + "` wants the plugin library " + library + ", which cannot be loaded: " +
                  ::dlerror(),
              engine.file.path, "LD_LIBRARY_PATH names the folders where " + library + " is looked for");
}

}  // namespace

Model load_engine(const Bundle& bundle, const std::string& backend, const std::string& installed,
                  const std::string& target, const std::string& precision, const std::string& form) {
  const Engine& engine = choose(bundle, backend, installed, target, precision, form);
  const Manifest& manifest = bundle.manifest();
  Bytes bytes = bundle.read_file(engine.file);
  // Loading runs what is in it: not for an engine that is not the manifest's.
  for (const std::string& library : engine.plugins) load_plugin(library, engine);
  return {
      .bytes = std::move(bytes),
      .where = bundle.path_of(engine.file),
      .name = manifest.name,
      .precision = engine.precision,
      .form = engine.form,
      .interface = manifest.interface(manifest.source(engine)),
      .engine = engine,
  };
}

}  // namespace gantk
