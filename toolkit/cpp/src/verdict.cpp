// SPDX-License-Identifier: Apache-2.0
#include "verdict.hpp"

#include <optional>

#include "file.hpp"
#include "gantk/error.hpp"
#include "json.hpp"
#include "parity.hpp"
#include "probe.hpp"

namespace gantk {
namespace {

constexpr std::int64_t verdict_limit_bytes = 1 << 16;

// Why an engine failed when it was opened before; empty where it passed, nothing where it was never tried.
std::optional<std::string> remembered(const std::string& path) {
  try {
    if (kind_of(path, path) != FileKind::file) return std::nullopt;
    const Bytes bytes = read_bytes(path, verdict_limit_bytes);
    const Json verdict = parse_json(bytes.text(), false);
    if (!verdict.is_object() || !verdict.contains("passed")) return std::nullopt;
    if (verdict["passed"] == true) return "";
    if (!verdict.contains("reason")) return std::nullopt;
    const std::string reason = str_json(verdict["reason"]);
    return reason.empty() ? std::nullopt : std::optional(reason);
  } catch (const Error&) {
    return std::nullopt;  // Whatever it is, trying again tells.
  }
}

// The bytes that Python's `json.dumps` would write.
std::string verdict_text(const std::string& reason) {
  const std::string passed = reason.empty() ? "true" : "false";
  return "{\"passed\": " + passed + ", \"reason\": " + Json(reason).dump(-1, ' ', true) + "}";
}

// Why the outputs are wrong; empty where they are right.
std::string judge(const Session& session, const Model& model, const std::string& family, const Probe& probe) {
  std::vector<Slot> slots;
  for (std::size_t i = 0; i < model.interface.outputs.size(); ++i) slots.push_back({i, {}, {}});
  session.run(probe.inputs, slots);
  for (const Slot& slot : slots) {
    const TensorSpec& spec = model.interface.outputs[slot.index];
    const std::string precision = model.engine ? model.engine->executed() : model.precision;
    const std::string fault = fault_of(slot.fresh.view(), probe.outputs[slot.index], spec, precision, family);
    if (!fault.empty()) return spec.name + ": " + fault;
  }
  return {};
}

}  // namespace

bool check_once(const Session& session, const Model& model, const Bundle& bundle, const std::string& target) {
  const Engine& engine = *model.engine;
  if (engine.verified()) return true;
  const std::optional<FileRef>& file = probe_file(bundle, engine);
  if (!file) return false;
  const std::string name = engine.file.sha256 + "-" + file->sha256 + "-" + engine.version + "-" + target + ".json";
  const std::string path = tidy(cache_folder() + "/verdicts/" + name);
  std::optional<std::string> reason = remembered(path);
  if (!reason) {
    const auto probe = read_probe(bundle, model);
    if (!probe) return false;
    reason = judge(session, model, bundle.manifest().family, *probe);
    try {
      write_text(path, verdict_text(*reason));
    } catch (const Error&) {
      // Without it the next opening judges again.
    }
  }
  if (reason->empty()) return true;
  throw Error("`" + model.where + "` computes wrong on " + target + ": " + *reason, model.where,
              "another backend may do; gantk export " + bundle.root() + " --to " + engine.backend +
                  " builds it again");
}

}  // namespace gantk
