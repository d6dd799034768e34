// SPDX-License-Identifier: Apache-2.0
#include "gantk/runner.hpp"

#include <algorithm>

#include "checks.hpp"
#include "registry.hpp"
#include "text.hpp"

namespace gantk {

struct Runner::State {
  explicit State(Opened taken) : opened(std::move(taken)), checks(opened.interface, opened.device) {}

  std::string text() const {
    return "<Runner " + backend + " " + opened.status.version + " " + opened.precision + " on " +
           std::string(name_of(opened.device)) + ">";
  }

  void run(std::span<const TensorView> inputs, std::span<Slot> slots) const;

  Opened opened;
  Checks checks;
  std::string backend = opened.backend->name();
};

namespace {

// What a run needs for a moment. Each thread keeps its own, so that runs allocate nothing and share nothing.
struct Scratch {
  std::vector<TensorView> inputs;
  std::vector<std::int64_t> sizes;
  std::vector<Slot> slots;
};

Scratch& scratch() {
  thread_local Scratch kept;
  kept.slots.clear();
  return kept;
}

}  // namespace

Tensor& Outputs::operator[](std::string_view name) {
  std::vector<std::string> names;
  for (Entry& entry : entries_) {
    if (entry.name == name) return entry.tensor;
    names.push_back(entry.name);
  }
  throw Error("the network has no output " + repr(name) + "; it has " + join(names));
}

Runner Runner::open(const std::filesystem::path& path, const Options& options) {
  return Runner(std::make_unique<State>(open_bundle(path.string(), options)));
}

Runner::Runner(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Runner::Runner(Runner&&) noexcept = default;
Runner& Runner::operator=(Runner&&) noexcept = default;
Runner::~Runner() = default;

const Runner::State& Runner::state() const {
  if (state_ == nullptr) throw Error("the runner was moved to another variable", {}, "use that one");
  return *state_;
}

const std::vector<TensorSpec>& Runner::inputs() const { return state().opened.interface.inputs; }
const std::vector<TensorSpec>& Runner::outputs() const { return state().opened.interface.outputs; }
const std::string& Runner::name() const { return state().opened.name; }
const std::string& Runner::backend() const { return state().backend; }
const std::string& Runner::version() const { return state().opened.status.version; }
const std::string& Runner::precision() const { return state().opened.precision; }
const std::string& Runner::file_precision() const { return state().opened.file_precision; }
Device Runner::device() const { return state().opened.device; }

const std::vector<std::pair<std::string, std::string>>& Runner::passed_over() const {
  return state().opened.passed_over;
}

void Runner::State::run(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  if (opened.session == nullptr) throw Error("the runner is closed", text(), "open the bundle again");
  try {
    opened.session->run(inputs, slots);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(backend + " failed to run the network: " + error.what(), text());
  }
}

Outputs Runner::run(std::span<const Feed> feeds) const {
  const State& held = state();
  Scratch& kept = scratch();
  held.checks.take(feeds, kept.inputs, kept.sizes);
  for (std::size_t i = 0; i < outputs().size(); ++i) kept.slots.push_back({i, {}, {}});
  held.run(kept.inputs, kept.slots);
  Outputs results;
  for (Slot& slot : kept.slots) results.entries_.push_back({outputs()[slot.index].name, std::move(slot.fresh)});
  return results;
}

void Runner::run(std::span<const Feed> feeds, std::span<const Target> targets) const {
  const State& held = state();
  Scratch& kept = scratch();
  held.checks.take(feeds, kept.inputs, kept.sizes);
  held.checks.take(targets, kept.sizes, kept.slots);
  held.run(kept.inputs, kept.slots);
}

void Runner::close() noexcept {
  if (state_ != nullptr) state_->opened.session.reset();
}

}  // namespace gantk
