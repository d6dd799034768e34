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

  const std::shared_ptr<const Session>& session() const {
    if (opened.session == nullptr) throw Error("the runner is closed", text(), "open the bundle again");
    return opened.session;
  }

  // What a backend does, with its own exceptions as ours.
  template <class Work>
  void guard(Work work) const {
    try {
      work();
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(backend + " failed to run the network: " + error.what(), text());
    }
  }

  Opened opened;
  Checks checks;
  std::string backend = opened.backend->name();
};

// The later goes first: what is bound before the session that made it.
struct Bound::State {
  std::shared_ptr<const Runner::State> runner;
  std::shared_ptr<const Session> session;
  std::vector<TensorView> inputs;
  std::vector<Slot> slots;
  Outputs made;
  std::unique_ptr<Binding> binding;
};

namespace {

// What a run needs for a moment. Each thread keeps one, so that runs allocate nothing and share nothing; a run within
// another one, of a backend that runs networks itself, has its own.
struct Scratch {
  std::vector<TensorView> inputs;
  std::vector<std::int64_t> sizes;
  std::vector<Slot> slots;
};

class Lent : public Scratch {
 public:
  Lent() : Scratch(std::move(kept())) {}
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  ~Lent() {
    slots.clear();
    kept() = std::move(static_cast<Scratch&>(*this));
  }

 private:
  static Scratch& kept() {
    thread_local Scratch scratch;
    return scratch;
  }
};

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
  return Runner(std::make_shared<State>(open_bundle(path.string(), options)));
}

Runner::Runner(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}
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

std::optional<MemoryBytes> Runner::memory_bytes() const { return state().session()->memory_bytes(); }

const std::vector<std::pair<std::string, std::string>>& Runner::passed_over() const {
  return state().opened.passed_over;
}

Outputs Runner::run(std::span<const Feed> feeds) const {
  const State& held = state();
  Lent lent;
  held.checks.take(feeds, lent.inputs, lent.sizes);
  for (std::size_t i = 0; i < outputs().size(); ++i) lent.slots.push_back({i, {}, {}});
  held.guard([&, &session = *held.session()] { session.run(lent.inputs, lent.slots); });
  Outputs results;
  for (Slot& slot : lent.slots) results.entries_.push_back({outputs()[slot.index].name, std::move(slot.fresh)});
  return results;
}

void Runner::run(std::span<const Feed> feeds, std::span<const Target> targets) const {
  const State& held = state();
  Lent lent;
  held.checks.take(feeds, lent.inputs, lent.sizes);
  held.checks.take(targets, lent.inputs, lent.sizes, lent.slots);
  held.guard([&, &session = *held.session()] { session.run(lent.inputs, lent.slots); });
}

Bound Runner::bind(std::span<const Feed> feeds) const {
  Outputs made = run(feeds);
  std::vector<Target> targets;
  for (auto& [name, tensor] : made) targets.push_back({name, tensor.mutable_view()});
  Bound bound = bind(feeds, targets);
  bound.outputs() = std::move(made);
  return bound;
}

Bound Runner::bind(std::span<const Feed> feeds, std::span<const Target> targets) const {
  const State& held = state();
  auto bound = std::make_unique<Bound::State>(Bound::State{state_, held.session(), {}, {}, {}, {}});
  std::vector<std::int64_t> sizes;
  held.checks.take(feeds, bound->inputs, sizes);
  held.checks.take(targets, bound->inputs, sizes, bound->slots);
  held.guard([&] { bound->binding = bound->session->bind(bound->inputs, bound->slots); });
  return Bound(std::move(bound));
}

Bound::Bound(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Bound::Bound(Bound&&) noexcept = default;
Bound& Bound::operator=(Bound&&) noexcept = default;
Bound::~Bound() = default;

Bound::State& Bound::state() const {
  if (state_ == nullptr) throw Error("the bound run was moved to another variable", {}, "use that one");
  return *state_;
}

Outputs& Bound::outputs() { return state().made; }

void Bound::run() {
  State& held = state();
  held.runner->checks.check_values(held.inputs);
  held.runner->guard([&] {
    if (held.binding != nullptr) held.binding->run();
    else held.session->run(held.inputs, held.slots);
  });
}

void Runner::close() noexcept {
  if (state_ != nullptr) state_->opened.session.reset();
}

}  // namespace gantk
